"""Forecasts of availability, offered to selectors through the view.

A predictor may learn from what the server saw, never from the future; one that reads the trace is an `Oracle` and says
so in every manifest. A scenario without a predictor offers None.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, final

import numpy as np

if TYPE_CHECKING:
    from evsim.base.vocabulary import BoolArray, FloatArray, IntArray


class Predictor(Protocol):
    """Who will be there?"""

    def stays_online(self, clients: IntArray, start: int, stop: int) -> FloatArray:
        """Estimated probability that each client is online throughout [start, stop), in [0, 1]; instants in ms."""


class Trace(Protocol):
    """The part of an availability trace that the oracle reads."""

    def is_online(self, devices: IntArray, at: int) -> BoolArray:
        """Whether each device is online at an instant."""

    def online_until(self, devices: IntArray, at: int) -> IntArray:
        """The check-out that ends the interval of `at`, ms; only asked of devices online at `at`."""


@final
@dataclass(frozen=True, eq=False)
class Oracle:
    """Knows the future, as no server does: an upper bound for what forecasts can bring (REFL's perfect predictor)."""

    trace: Trace

    def stays_online(self, clients: IntArray, start: int, stop: int) -> FloatArray:
        """1.0 for those that do stay, 0.0 for the others."""
        there = self.trace.is_online(clients, start)
        stays = np.zeros(len(clients))
        stays[there] = self.trace.online_until(clients[there], start) >= stop
        return stays


@final
@dataclass(frozen=True, eq=False)
class Constant:
    """Every client with the same chance: the null forecast to compare a real one with."""

    probability: float = 1.0

    def stays_online(self, clients: IntArray, start: int, stop: int) -> FloatArray:
        """The same number for everybody."""
        return np.full(len(clients), self.probability)
