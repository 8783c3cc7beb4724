"""What a live server works with: the ports to learning and to the tables, and what clients can be sent to do."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, final

import numpy as np

from evsim.base.units import FOREVER
from evsim.base.vocabulary import Feedback, FloatArray, IntArray
from evsim.cost.own import Own
from evsim.cost.pricing import Pricing, Sizes
from evsim.cost.work import Work
from evsim.timeline.absences import MovingSessions, Presence
from evsim.timeline.audience import Audience
from evsim.timeline.clock import Clock
from evsim.timeline.port import ManagerPort
from evsim.timeline.sessions import Sessions
from evsim.traces.availability import AvailabilityTrace

#: Size of the answer to a query: one loss.
ANSWER_BYTES = 8


class LearningPort(Protocol):
    """What the timeline asks of the learning side."""

    def dispatched(self, tasks: IntArray, clients: IntArray, nth: IntArray, max_steps: IntArray) -> None:
        """Fix the inputs of new tasks; they take at most so many steps (0: no limit)."""

    def discard(self, tasks: Iterable[int]) -> None:
        """Forget tasks that will never be used."""

    def train(self, tasks: IntArray) -> Feedback:
        """Train now, because a selector wants to know; the updates wait for `apply`."""

    def apply(self, tasks: IntArray, *, by: str, goal: int) -> Feedback:
        """Train what is not trained yet, merge, step: for a process that means to have so many reports in a step."""

    def losses(self, clients: IntArray, max_samples: int | None) -> FloatArray:
        """Mean loss of the current model on (some of) each client's samples."""


class Rows(Protocol):
    """Where rows of tables go."""

    def append(self, table: str, columns: Mapping[str, Any]) -> None:
        """Take a batch of rows."""


@final
class NoLearning:
    """The learning side of a dry run: every update is valid and teaches nothing."""

    def dispatched(self, tasks: IntArray, clients: IntArray, nth: IntArray, max_steps: IntArray) -> None:
        """Nothing to fix."""

    def discard(self, tasks: Iterable[int]) -> None:
        """Nothing to forget."""

    def train(self, tasks: IntArray) -> Feedback:
        """All valid, no utility."""
        return self.apply(tasks)

    def apply(self, tasks: IntArray, *, by: str = "", goal: int = 0) -> Feedback:
        """All valid, no utility."""
        return Feedback(tasks, np.full(len(tasks), np.nan), np.ones(len(tasks), np.bool_))

    def losses(self, clients: IntArray, max_samples: int | None) -> FloatArray:
        """Unknown."""
        return np.full(len(clients), np.nan)


class HasWork(Protocol):
    """Says what a task of so many steps asks of each client."""

    def work_of(self, n_samples: IntArray, steps: IntArray) -> Work:
        """Its work."""


class CanStopEarly(Protocol):
    """Work of which a part counts: what a client does whose deadline comes first."""

    def n_steps_within(self, n_samples: IntArray, processed: IntArray) -> IntArray:
        """Whole steps of a task that may process so many samples."""

    def work_of(self, n_samples: IntArray, steps: IntArray) -> Work:
        """What so many steps ask of each client."""


@final
@dataclass(frozen=True, eq=False)
class Errand:
    """What clients are sent to do: its kind, the work in it, bytes down and up, a bound on samples, partial work."""

    kind: int
    work: Callable[[IntArray], Work]
    wire_bytes: tuple[int, int]
    max_samples: int | None = None
    partial: CanStopEarly | None = None
    drawn: Callable[[IntArray, IntArray, IntArray], Work] | None = None

    def work_of(self, samples: IntArray, clients: IntArray, nth: IntArray) -> Work:
        """The work of these tasks: `drawn`, where tasks of one client differ."""
        return self.work(samples) if self.drawn is None else self.drawn(samples, clients, nth)


def n_drawn(samples: IntArray) -> int:
    """How many ids selectors draw from: those up to the last client with data, whoever stands behind."""
    having = np.flatnonzero(samples)
    return int(having[-1]) + 1 if len(having) else 0


def cut(partial: HasWork, full: Work, samples: IntArray, max_steps: IntArray) -> Work:
    """The work of clients of which some do only so many steps (0: all of them)."""
    short, few = partial.work_of(samples, max_steps), max_steps > 0
    return Work(np.where(few, short.samples, full.samples), np.where(few, short.forward_samples, full.forward_samples))


def forward_only(samples: IntArray) -> Work:
    """The work of a query: every sample once, without training."""
    return Work(np.zeros_like(samples), samples)


def _not_yet() -> bool:
    return False


@final
@dataclass(frozen=True, eq=False, kw_only=True)
class World:
    """The parts a live server works with; arrays have one entry per client.

    Attributes:
        samples: data sizes; clients without data never register.
        work: what the client rule asks of clients with so many samples; at most, where it is drawn for each task.
        drawn_work: what it asks, given samples, clients and how many tasks these had; None where all tasks are alike.
        wire_bytes: charged bytes of a message down and up.
        own: what tasks cost where clients differ; None where they do not.
        partial: lets a client that would miss the deadline do what fits; None if it then does everything, too late.
        horizon: the last instant of the run, ms; FOREVER if there is none.
        audience: who listens to what happens.
        by_events: whether each thing that happens by itself is an event of its own.
        write_now: asked before and after every server step: whether finished rows shall be written, however few.
    """

    clock: Clock
    availability: AvailabilityTrace | Presence
    samples: IntArray
    manager: ManagerPort
    sessions: Sessions | MovingSessions
    pricing: Pricing
    work: Callable[[IntArray], Work]
    wire_bytes: tuple[int, int]
    learning: LearningPort
    rows: Rows
    seed: int
    own: Own | None = None
    partial: CanStopEarly | None = None
    horizon: int = FOREVER
    audience: Audience = field(default_factory=Audience)
    by_events: bool = False
    write_now: Callable[[], bool] = _not_yet
    drawn_work: Callable[[IntArray, IntArray, IntArray], Work] | None = None

    @property
    def whole_work(self) -> Work:
        """The work of everybody's tasks."""
        return self.work(self.samples) if self.own is None else self.own.work

    @property
    def sizes(self) -> Sizes:
        """Charged bytes of everybody's messages down and up."""
        return self.wire_bytes if self.own is None else (self.own.bytes_down, self.own.bytes_up)
