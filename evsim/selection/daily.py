"""Forecasts from habits: at this time of day, how often was the client there on the days before?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from evsim.base.errors import require
from evsim.base.units import MS_PER_DAY
from evsim.base.vocabulary import IntArray
from evsim.selection.forecast import Predictor, Trace, Visits

if TYPE_CHECKING:
    from evsim.base.vocabulary import FloatArray
    from evsim.selection.base import ClientView

_AT_ONCE = 1 << 16  # visits, to bound memory


@final
@dataclass(slots=True, eq=False)
class Habits:
    """What was seen of each client, in place.

    Attributes:
        there: time it was there in completed visits, by client and slot of the day, in slots.
        first: its first check-in, ms; -1 before.
        last: its last check-in, ms; -1 before. What was seen of it ends here, or now if it is idle.
    """

    there: NDArray[np.float32]
    first: IntArray
    last: IntArray


@final
@dataclass(frozen=True, kw_only=True)
class Daily(Predictor[Habits]):
    """Each client's own history of check-ins, by slot of the day.

    For a slot, the time that the client was there over the time since its first check-in, with `prior_days` days of
    `prior` put in front; a forecast is the smallest of these shares over the slots that it touches. A visit counts when
    the device is back and tells of it, the present one as long as the client is seen to be idle.

    Attributes:
        slots: of a day, of equal length.
        prior: share of a day that a client is there of which nothing was seen.
        prior_days: how many days of seeing it that is worth.
    """

    slots: int = 24
    prior: float = 0.5
    prior_days: float = 1.0

    def __post_init__(self) -> None:
        require(1 <= self.slots <= 24 * 60, "slots must lie in [1, 1440]", slots=self.slots)
        require(0 <= self.prior <= 1, "prior must lie in [0, 1]", prior=self.prior)
        require(0 < self.prior_days < np.inf, "prior_days must be > 0", prior_days=self.prior_days)

    @override
    def init(self, n_clients: int, trace: Trace | None) -> Habits:
        never = np.full(n_clients, -1, np.int64)
        return Habits(np.zeros((n_clients, self.slots), np.float32), never, never.copy())

    @override
    def checked_in(self, state: Habits, visits: Visits) -> Habits:
        new = visits.came_at < 0
        state.first[visits.clients[new]] = visits.at[new]
        state.last[visits.clients] = visits.at
        again = np.flatnonzero(~new)
        every = np.arange(self.slots)
        for rows in np.split(again, range(_AT_ONCE, len(again), _AT_ONCE)):
            spent = self._until(visits.left_at[rows], every) - self._until(visits.came_at[rows], every)
            np.add.at(state.there, visits.clients[rows], spent.astype(np.float32))
        return state

    @override
    def stays_online(self, state: Habits, view: ClientView, clients: IntArray, start: int, stop: int) -> FloatArray:
        touched = self._touched(start, stop)
        first, last = state.first[clients], state.last[clients]
        seen = self._until(last, touched) - self._until(first, touched)
        there = state.there[np.ix_(clients, touched)].astype(np.float64)
        here = np.flatnonzero(view.is_idle(clients) & (last >= 0))
        now = self._until(np.full(len(here), view.now), touched) - self._until(last[here], touched)
        seen[here] += now
        there[here] += now
        share = (there + self.prior * self.prior_days) / (seen + self.prior_days)
        return np.asarray(np.clip(share, 0, 1).min(1))

    def _touched(self, start: int, stop: int) -> IntArray:
        """Slots of the day that [start, stop) has a part of."""
        first, last = start * self.slots // MS_PER_DAY, (max(stop, start + 1) - 1) * self.slots // MS_PER_DAY
        return np.unique(np.arange(first, min(last, first + self.slots - 1) + 1) % self.slots)

    def _until(self, at: IntArray, slots: IntArray) -> FloatArray:
        """Time that fell into each slot of the day from 0 on, in slots: an array (instants, slots)."""
        days, rest = np.divmod(at, MS_PER_DAY)
        part = np.clip(rest[:, None] * self.slots / MS_PER_DAY - slots, 0, 1)
        return np.asarray(days[:, None] + part)
