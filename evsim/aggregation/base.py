"""The slot of aggregation: when the server asks, waits, closes and applies.

An aggregator is a frozen policy whose `run` is one SimPy process. It talks to the rest through the narrow `Server`, and
knows what a real server knows: which reports arrived, and that time passed. It may start further processes, each with
a `Server` of its own: tiers, cells, tenants.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, final

import numpy as np

from evsim.base.policy import Policy
from evsim.base.units import FOREVER
from evsim.base.vocabulary import IntArray, Outcome

if TYPE_CHECKING:
    from evsim.selection.base import ClientView

T = TypeVar("T")
Process = Generator[Any, Any, T]  # yields SimPy events, returns T


@final
@dataclass(slots=True)
class Cohort:
    """What belongs to one attempt at a server step: a round's invitation, or the filling of one buffer.

    Attributes:
        round: its number among all attempts of the run.
        started_at: ms.
        by: the name of the aggregator process it belongs to; "" for the only one.
        goal: reports that close it.
        full_goal: reports that a step of its process is meant to have; more than `goal` where few clients were there.
            Merges that divide by a fixed number divide by it.
        deadline: a loss is known by then at the latest, ms.
        tasks: ids of the tasks given for a round; a buffer counts only.
        invited: how many tasks were given.
        arrived: task ids, in order of arrival, until the close.
        lost: losses known before the close.
        unknown: tasks whose end is not known yet.
        stale: reports of a buffer that came with too much staleness.
        close_code: what a report is that arrives now; IN_FLIGHT: still open.
        keep_late: reports that arrive after the close wait for the next step.
        idle: clients that were idle when the last of its clients were chosen.
    """

    round: int
    started_at: int
    by: str = ""
    goal: int = 0
    full_goal: int = 0
    deadline: int = FOREVER
    tasks: IntArray = field(default_factory=lambda: np.empty(0, np.int64))
    invited: int = 0
    arrived: list[int] = field(default_factory=list)
    lost: int = 0
    unknown: int = 0
    stale: int = 0
    close_code: int = int(Outcome.IN_FLIGHT)
    keep_late: bool = False
    idle: int = -1

    @property
    def reports(self) -> IntArray:
        """Tasks whose reports arrived before the close, in order of arrival."""
        return np.asarray(self.arrived, np.int64)


class Server(Protocol):
    """What an aggregator may do. Generators are to be used with ``yield from``; times in ms."""

    @property
    def now(self) -> int:
        """The current instant."""

    @property
    def version(self) -> int:
        """Number of server steps applied so far, whoever made them."""

    @property
    def finished(self) -> bool:
        """Whether the run is over: stop asking."""

    @property
    def in_flight(self) -> int:
        """Tasks given through this server whose end it does not know."""

    @property
    def view(self) -> ClientView:
        """What the server knows of its clients."""

    def start(self, run: Callable[[Server], Process[None]], *, name: str, among: IntArray | None = None) -> None:
        """Start another process beside this one, with a server of its own that sees some clients only.

        Its selections have draws of their own, named after it; its steps say so in the column ``by``. All processes
        improve the same model: `version` counts the steps of all.
        """

    def select_clients(self, n: int, minimum: int, among: IntArray | None = None) -> Process[IntArray]:
        """Wait until at least `minimum` clients are idle, then choose min(n, idle) of them; `among`: of these only."""

    # rounds

    def open_round(self, goal: int, deadline: int, full_goal: int | None = None) -> Cohort:
        """Begin a round that wants so many reports; a loss is known by the deadline at the latest.

        `full_goal`: what it would want with enough clients; by default the aggregator's `reports_per_step`, and in a
        process that was started beside it the goal.
        """

    def collect(self, cohort: Cohort) -> Process[str]:
        """Wait for the goal-th report, the deadline or the last known loss: "goal", "deadline" or "exhausted"."""

    def close(self, cohort: Cohort, reason: str, *, keep_late: bool) -> None:
        """What arrives from now on is surplus (reason "goal") or late; with `keep_late` it waits for `take_late`."""

    def stragglers(self, cohort: Cohort) -> IntArray:
        """Tasks of a round whose end is not known."""

    def durations(self, reports: IntArray) -> IntArray:
        """From dispatch to arrival of reports that arrived, ms."""

    def take_late(self, max_staleness: int | None) -> IntArray:
        """Kept reports that arrived after their round's close and are not staler than allowed; the others end here."""

    # buffers

    def open_buffer(self, goal: int) -> Cohort:
        """Start to fill a buffer of so many reports: those of all tasks go to it, whenever they were dispatched."""

    def wait(self, *, or_check_in: bool, until: int) -> Process[None]:
        """Wait until the next ending becomes known, or the next check-in if wanted, at most until an instant."""

    def refill(self, buffer: Cohort, reports: int, timeout: int | None, until: int) -> None:
        """With every slot full: give a client a task whenever one ends, up to the last but one of so many reports.

        It does what `select_clients`, `give` and `wait` would do in turn, and so stops whenever something else is to
        be decided, or at once: what it did not do is to be done by these. Reports that arrived are in `arrivals`.
        """

    def staleness(self, task: int) -> int:
        """Server steps applied since the task was dispatched."""

    def arrivals(self) -> list[int]:
        """Reports that arrived since it was last asked, in order."""

    def accept(self, buffer: Cohort, task: int) -> None:
        """A report enters the buffer: its client's feedback is due."""

    def reject(self, buffer: Cohort, task: int) -> None:
        """A report came with too much staleness."""

    # both

    def give(self, cohort: Cohort, clients: IntArray, timeout: int | None = None) -> IntArray:
        """Give each client a task from the current model version; its id. It is stopped after `timeout` ms."""

    def stop(self, tasks: IntArray) -> None:
        """Stop tasks whose end is not known: partial work is charged, their clients are free."""

    def apply(self, cohort: Cohort, reports: IntArray, reason: str) -> None:
        """Merge the updates of these tasks into the model: one server step."""

    def fail(self, cohort: Cohort, reports: IntArray, reason: str) -> None:
        """Record a round with too few reports; the model stays as it is."""


class Aggregator(Policy, ABC):
    """One way to organise the server's time."""

    @property
    @abstractmethod
    def minimum_clients(self) -> int:
        """Clients the population must have at least, or no step could ever start."""

    @property
    @abstractmethod
    def reports_per_step(self) -> int:
        """Reports a server step wants."""

    @abstractmethod
    def run(self, server: Server) -> Process[None]:
        """The server's process; returns when the run is finished."""
