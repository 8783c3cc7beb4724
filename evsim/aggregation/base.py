"""The slot of aggregation: when the server asks, waits, closes and applies.

An aggregator is a frozen policy whose `run` is one SimPy process. It talks to the rest through the narrow `Server`, and
knows what a real server knows: which reports arrived, and that time passed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar, final

import numpy as np

from evsim.base.units import FOREVER
from evsim.base.vocabulary import IntArray, Outcome

T = TypeVar("T")
Process = Generator[Any, Any, T]  # yields SimPy events, returns T


@final
@dataclass(slots=True)
class Cohort:
    """What belongs to one attempt at a server step: a round's invitation, or the filling of one buffer."""

    round: int
    started_at: int
    deadline: int = FOREVER
    tasks: IntArray = field(default_factory=lambda: np.empty(0, np.int64))  # of a round; a buffer counts only
    invited: int = 0
    goal: int = -1  # reports wanted; -1: not known
    arrived: list[int] = field(default_factory=list)  # task ids, in order of arrival, until the close
    lost: int = 0  # losses known before the close
    unknown: int = 0  # tasks whose end is not known yet
    stale: int = 0  # reports of a buffer that came with too much staleness
    close_code: int = int(Outcome.IN_FLIGHT)  # what a report is that arrives now; IN_FLIGHT: still open

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
        """Number of server steps applied so far."""

    @property
    def finished(self) -> bool:
        """Whether the run is over: stop asking."""

    @property
    def in_flight(self) -> int:
        """Tasks whose end the server does not know."""

    def select_clients(self, n: int, minimum: int) -> Process[IntArray]:
        """Wait until at least `minimum` clients are idle, then choose min(n, idle) of them."""

    # rounds

    def dispatch(self, clients: IntArray, deadline: int) -> Cohort:
        """Give each client a task from the current model version; a loss is known by the deadline at the latest."""

    def collect(self, cohort: Cohort, goal: int) -> Process[str]:
        """Wait for the goal-th report, the deadline or the last known loss: "goal", "deadline" or "exhausted"."""

    def close(self, cohort: Cohort, reason: str, *, abort: bool, keep_late: bool) -> None:
        """What arrives from now on is surplus (reason "goal") or late; `abort` stops the stragglers.

        With `keep_late` such reports wait for `take_late` instead.
        """

    def durations(self, reports: IntArray) -> IntArray:
        """From dispatch to arrival of reports that arrived, ms."""

    def take_late(self, max_staleness: int | None) -> IntArray:
        """Kept reports that arrived after their round's close and are not staler than allowed; the others end here."""

    # buffers

    def open_buffer(self, goal: int = -1) -> Cohort:
        """Start to fill a buffer: reports of all tasks go to it, whenever they were dispatched.

        `goal`: how many reports fill it, for the table `server_steps`.
        """

    def refill(self, buffer: Cohort, clients: IntArray, timeout: int | None) -> None:
        """Give each client a task; it is stopped after `timeout` ms, and its loss is known by then."""

    def wait(self, *, or_check_in: bool, until: int) -> Process[None]:
        """Wait until the next ending becomes known, or the next check-in if wanted, at most until an instant."""

    def staleness(self, task: int) -> int:
        """Server steps applied since the task was dispatched."""

    def arrivals(self) -> list[int]:
        """Reports that arrived since it was last asked, in order."""

    def accept(self, buffer: Cohort, task: int) -> None:
        """A report enters the buffer: its client's feedback is due."""

    def reject(self, buffer: Cohort, task: int) -> None:
        """A report came with too much staleness."""

    # both

    def apply(self, cohort: Cohort, reports: IntArray, reason: str) -> None:
        """Merge the updates of these tasks into the model: one server step."""

    def fail(self, cohort: Cohort, reports: IntArray, reason: str) -> None:
        """Record a round with too few reports; the model stays as it is."""


class Aggregator(ABC):
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
