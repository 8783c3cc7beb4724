"""What Oort remembers about clients and about the utility of past selections."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray

from evsim.base.vocabulary import BoolArray, FloatArray, IntArray
from evsim.selection.oort_draws import OortSelection

_SUM, _COUNT, _EXPLOITED_SUM, _EXPLOITED_COUNT = range(4)
_EMPTY = 1e-4  # FedScale's guard of an empty mean


@final
@dataclass(slots=True, eq=False)
class Achieved:
    """Sum and number of utilities per selection, of all and of exploited clients: a ring of the last selections."""

    sums: FloatArray  # (4, selections)

    @classmethod
    def empty(cls, selections: int) -> Achieved:
        """Nothing achieved, room for so many selections."""
        return cls(np.zeros((4, selections)))

    def advance(self, old: int, new: int) -> None:
        """Selections old + 1 .. new begin."""
        size = self.sums.shape[1]
        self.sums[:, np.arange(max(old + 1, new - size + 1), new + 1) % size] = 0.0

    def add(self, selections: IntArray, utility: FloatArray, exploited: BoolArray) -> None:
        """Outcomes of these selections came in."""
        slot = selections % self.sums.shape[1]
        for row, amount in ((_SUM, utility), (_COUNT, np.ones(len(slot)))):
            np.add.at(self.sums[row], slot, amount)
            np.add.at(self.sums[row + _EXPLOITED_SUM], slot, amount * exploited)

    def total(self, start: int, stop: int) -> float:
        """Utility achieved in the selections [start, stop)."""
        return float(self.sums[_SUM, self._slots(start, stop)].sum())

    def exploited_means(self, start: int, stop: int) -> float:
        """Sum over the selections [start, stop) of the mean utility of their exploited clients (FedScale)."""
        slots = self._slots(start, stop)
        return float((self.sums[_EXPLOITED_SUM, slots] / (self.sums[_EXPLOITED_COUNT, slots] + _EMPTY)).sum())

    def means(self, selections: IntArray) -> FloatArray:
        """Mean utility per selection; NaN where nothing was reported."""
        slot = selections % self.sums.shape[1]
        counts = self.sums[_COUNT, slot]
        return np.where(counts > 0, self.sums[_SUM, slot] / np.maximum(counts, 1), np.nan)

    def _slots(self, start: int, stop: int) -> IntArray:
        return np.asarray(np.arange(max(start, 0), stop) % self.sums.shape[1])


@final
@dataclass(slots=True, eq=False)
class OortState:
    """State of a run: 21 bytes per client, updated in place.

    Attributes:
        utility: statistical utility of each client's last report that had one; NaN: unexplored.
        duration_ms: last known duration of a task, or how long an aborted one ran at least; NaN: unknown.
        last: L, the round (1 is the first) of the client's last feedback with a utility; 0: none.
        exploited: whether its last selection was an exploitation.
        achieved: utility of the selections of the last two windows.
        pace: how far T is relaxed: a number of steps, or a percentile.
        selection: the number of the last round selected for, from 1; R, or R + 1 with `random_first`.
        noise_key: names the draws of the noise.
        choice: the selection that was made last; None after a random one.
    """

    utility: FloatArray
    duration_ms: FloatArray
    last: NDArray[np.int32]
    exploited: BoolArray
    achieved: Achieved
    pace: float
    selection: int = 0
    noise_key: int = 0
    choice: OortSelection | None = None

    @property
    def n_bytes(self) -> int:
        """Memory of the arrays over clients, bytes."""
        return self.utility.nbytes + self.duration_ms.nbytes + self.last.nbytes + self.exploited.nbytes

    def learn(self, clients: IntArray, rounds: IntArray, utility: FloatArray) -> None:
        """Outcomes of these rounds (0 is the first) came with utilities."""
        self.utility[clients] = utility
        self.last[clients] = rounds + 1
        recent = self._recent(rounds)
        self.achieved.add(rounds[recent] + 1, utility[recent], self.exploited[clients[recent]])

    def credit(self, clients: IntArray, rounds: IntArray) -> None:
        """FedScale: stragglers are credited with the mean utility of their round's reports, if there were any."""
        mean = self.achieved.means(rounds + 1)
        known = np.isfinite(mean) & self._recent(rounds)
        self.utility[clients[known]] = mean[known]
        self.last[clients[known]] = rounds[known] + 1

    def took_at_least(self, clients: IntArray, duration_ms: IntArray) -> None:
        """Tasks that were stopped after so long."""
        self.duration_ms[clients] = np.fmax(self.duration_ms[clients], duration_ms)

    def _recent(self, rounds: IntArray) -> BoolArray:
        """Rounds that still have a place in the ring; a selection not made yet has none."""
        oldest = self.selection - self.achieved.sums.shape[1]
        return np.asarray((rounds + 1 > oldest) & (rounds + 1 <= max(self.selection, 1)))
