"""The slot of client selection: who is asked next.

A selector is a frozen policy with explicit state. It sees the population through `ClientView` only, which holds what a
real server could know: who is registered and idle, what clients declared, what their past reports showed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from evsim.events import BoolArray, FloatArray, IntArray

S = TypeVar("S")


class ClientView(Protocol):
    """What a selector may know. All arrays are read-only and indexed by client id."""

    @property
    def now(self) -> int:
        """The instant of the selection, ms."""

    @property
    def round(self) -> int:
        """How many selections were made before."""

    @property
    def n_clients(self) -> int:
        """Size of the declared population."""

    @property
    def n_idle(self) -> int:
        """How many clients are online (as far as the server knows) and have no task."""

    @property
    def idle(self) -> IntArray:
        """Ids of the idle clients, ascending; costs O(population) at each call."""

    def is_idle(self, clients: IntArray) -> BoolArray:
        """Whether each of the clients is idle; O(clients)."""

    @property
    def samples(self) -> IntArray:
        """Data size each client declared when it first checked in; -1 before that."""

    @property
    def declared_ms(self) -> FloatArray:
        """Task duration expected from the declared device class, ms; NaN where nothing was declared."""

    @property
    def selected(self) -> IntArray:
        """How often each client was given a task."""


@dataclass(frozen=True, slots=True)
class Reports:
    """What became known of some tasks, one entry each, in the order in which it became known.

    Attributes:
        clients: client ids.
        at: instant at which it became known, ms.
        round: selection round of the task.
        outcome: codes of `events.Outcome`; only AGGREGATED and ANSWERED (and kept late reports) are successes.
        duration_ms: from dispatch until it became known.
        samples: training samples of the task.
        utility: root of the mean squared per-sample training loss; NaN where the server does not know it.
    """

    clients: IntArray
    at: IntArray
    round: IntArray
    outcome: NDArray[np.int8]
    duration_ms: IntArray
    samples: IntArray
    utility: FloatArray


class Selector(ABC, Generic[S]):
    """Chooses clients; pure: same state, view and key, same choice."""

    #: Whether `feedback` must contain utilities; only then is training forced before a selection.
    needs_utility: ClassVar[bool] = False

    @abstractmethod
    def init(self, n_clients: int) -> S:
        """The state before anything happened."""

    @abstractmethod
    def select(self, state: S, view: ClientView, n: int, key: int) -> tuple[IntArray, S]:
        """Exactly min(n, view.n_idle) distinct idle clients, and the next state.

        `key` names this selection's randomness: use `rng.hash64(key, clients)` or `rng.stream(key)`.
        """

    @abstractmethod
    def feedback(self, state: S, reports: Reports) -> S:
        """Learn from reports, late ones and losses."""
