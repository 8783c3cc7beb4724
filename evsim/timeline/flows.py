"""Transfers of one way that are under way, at rates that stand until one of them begins, ends or is held.

Each has so many alone ms left (what its own link would need), and a share of its own rate at which they pass. The real
instant at which one ends lies between two ms; who is told hears of whole ms. A transfer is out of the way only when it
has really ended, however its end is rounded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, final

import numpy as np

from evsim.base.errors import PolicyError
from evsim.cost.network import SharedNetwork

if TYPE_CHECKING:
    from evsim.base.vocabulary import BoolArray, FloatArray, IntArray
    from evsim.cost.network import Network, Way

_TASK, _CLIENT, _BEGIN, _OWN, _LATENCY, _ALONE, _LEFT, _SINCE, _SHARE, _END, _HELD, _TOLD = range(12)
_SLACK = 1e-9


class Ended(NamedTuple):
    """A transfer whose end is certain."""

    task: int
    at: int  # ms, rounded; may lie ahead by the latency
    even: bool  # whether it had its own rate all the time


class Broken(NamedTuple):
    """What a transfer had done when it was broken off, and what it would have taken had nothing changed.

    `share` is NaN for one that had its own rate all the time: what it had done is then in proportion to its time.
    """

    share: float
    would_take: int


@final
class Flows:
    """Columns of one array, one column a transfer; `since` and `end` are ms after its own beginning.

    Args:
        way: download or upload.
        network: opened.
        start_ms: time of day of virtual time 0.
    """

    def __init__(self, way: Way, network: Network, start_ms: int) -> None:
        self._way, self._network, self._start = way, network, start_ms
        self._shared = network if isinstance(network, SharedNetwork) else None
        self._all = np.empty((12, 64))
        self._n = 0
        self._place: dict[int, int] = {}  # of a task, while its end is not told
        self._stale = False  # whether shares must be looked at again
        self._next: float | None = None  # what `next` would find, as long as nothing has changed

    def __len__(self) -> int:
        return self._n

    def begin(
        self, at: int, rows: tuple[IntArray, IntArray, FloatArray, FloatArray, FloatArray], held: BoolArray
    ) -> None:
        """Transfers begin: tasks, clients, own rates (kbit/s), alone ms, latencies (ms); some are held at once."""
        tasks, clients, own, alone, latency = rows
        first, n = self._n, len(tasks)
        while first + n > self._all.shape[1]:
            self._all = np.concatenate([self._all, np.empty_like(self._all)], axis=1)
        new = self._all[:, first : first + n]
        new[_TASK], new[_CLIENT], new[_BEGIN], new[_OWN], new[_LATENCY] = tasks, clients, at, own, latency
        new[_ALONE], new[_LEFT], new[_SINCE], new[_SHARE], new[_END] = alone, alone, 0.0, 0.0, np.inf
        new[_HELD], new[_TOLD] = held, 0.0
        self._n += n
        self._place.update(zip(tasks.tolist(), range(first, first + n), strict=True))
        self._stale = True

    def hold(self, clients: BoolArray, held: bool) -> None:  # noqa: FBT001
        """The transfers of some clients, a flag each, stand still from now on, or go on."""
        live = self._live
        mine = clients[live[_CLIENT].astype(np.int64)]
        if mine.any():
            live[_HELD][mine] = held
            self._stale = True

    def break_off(self, task: int, at: int) -> Broken | None:
        """A transfer will not end; None if it has, or is none of these."""
        place = self._place.pop(task, None)
        if place is None:
            return None
        begin, end, share, latency = self._all[[_BEGIN, _END, _SHARE, _LATENCY], place].tolist()
        even = self._is_even(place)
        self._spend(at, np.array([place]))
        left, alone = self._all[[_LEFT, _ALONE], place].tolist()
        self._remove(place)
        would = round(end + latency) if share > 0 else at - int(begin) + round(left + latency)
        done = np.nan if even else 1 - left / alone if alone > 0 else 1.0
        return Broken(done, max(would, at - int(begin) + 1))

    def forward(self, at: int) -> list[Ended]:
        """Everything up to an instant: transfers whose ends are certain now, in order of their real ends."""
        ended: list[Ended] = []
        if self.next(at) > at:
            return ended
        self._next = None
        while self._n:
            self._settle_shares(at)
            live = self._live
            instants = live[_BEGIN] + live[_END]
            place = int(instants.argmin())
            instant = float(instants[place])
            if instant > at:
                break
            if not live[_TOLD, place]:
                ended.append(self._tell(place))
            self._remove(place)
            self._shares(instant)
        if self._n:
            live = self._live
            now = np.flatnonzero((live[_BEGIN] + np.rint(live[_END] + live[_LATENCY]) <= at) & (live[_TOLD] == 0))
            ended += [self._tell(place) for place in now.tolist()]  # within half a ms
        return ended

    def next(self, at: int) -> float:
        """The next instant at which `forward` may find something, ms; infinity if there is none."""
        if self._next is not None and not self._stale:
            return self._next
        self._settle_shares(at)
        self._next = self._look_ahead() if self._n else np.inf
        return self._next

    # -- inside -----------------------------------------------------------------------------------------------------

    def _look_ahead(self) -> float:
        live = self._live
        really = np.ceil(live[_BEGIN] + live[_END])
        told = live[_BEGIN] + np.rint(live[_END] + live[_LATENCY])
        return float(np.where(live[_TOLD] == 0, np.minimum(really, told), really).min())

    @property
    def _live(self) -> FloatArray:
        return self._all[:, : self._n]

    def _tell(self, place: int) -> Ended:
        task, begin, end, latency = self._all[[_TASK, _BEGIN, _END, _LATENCY], place].tolist()
        self._all[_TOLD, place] = 1.0
        del self._place[int(task)]
        return Ended(int(task), int(begin) + round(end + latency), self._is_even(place))

    def _is_even(self, place: int) -> bool:
        """Whether a transfer had its own rate all the time, and rates do not change."""
        since, share = self._all[[_SINCE, _SHARE], place].tolist()
        return since == 0 and share == 1 and self._network.is_even

    def _remove(self, place: int) -> None:
        """The last column takes the place."""
        last = self._n - 1
        if place != last:
            self._all[:, place] = self._all[:, last]
            if not self._all[_TOLD, place]:
                self._place[int(self._all[_TASK, place])] = place
        self._n, self._stale = last, True

    def _settle_shares(self, at: float) -> None:
        if self._stale:
            self._shares(at)

    def _shares(self, at: float) -> None:
        """Ask for everybody's share; whose has changed has spent the time until now at the old one."""
        self._stale = False
        if not self._n:
            return
        live = self._live
        share = self._wanted(live)
        changed = np.flatnonzero(share != live[_SHARE])
        if len(changed):
            self._spend(at, changed)
            live[_SHARE, changed] = share[changed]
            self._plan(changed)

    def _wanted(self, live: FloatArray) -> FloatArray:
        held = live[_HELD] > 0
        if self._shared is None:
            return np.asarray(~held, np.float64)
        if not held.any():
            return self._asked(live[_CLIENT].astype(np.int64), live[_OWN])
        share, go = np.zeros(self._n), np.flatnonzero(~held)
        if len(go):
            share[go] = self._asked(live[_CLIENT, go].astype(np.int64), live[_OWN, go])
        return share

    def _asked(self, clients: IntArray, own: FloatArray) -> FloatArray:
        rates = np.asarray(self._shared.rates(self._way, clients, own), np.float64)  # type: ignore[union-attr]
        within = rates.shape == own.shape and bool(((rates >= 0) & (rates <= own * (1 + _SLACK))).all())
        if not within or not rates.any():
            name, shown = type(self._shared).__name__, np.array2string(rates, threshold=6, precision=4)
            raise PolicyError(
                f"network {name}.rates gave {shown} for {len(own)} {self._way}s; expected one rate each, from 0 to "
                "what the client's own link carries, and not all of them 0"
            )
        return np.asarray(np.minimum(rates / own, 1.0))

    def _spend(self, at: float, places: IntArray) -> None:
        """What is left of some transfers at an instant."""
        live = self._all
        spent = at - live[_BEGIN, places] - live[_SINCE, places]
        share = live[_SHARE, places]
        if self._network.is_constant:
            done = spent * share
        else:
            done = share * self._network.done_ms(self._way, *self._where(places), spent)
        live[_LEFT, places] = np.maximum(live[_LEFT, places] - done, 0)
        live[_SINCE, places] += spent

    def _plan(self, places: IntArray) -> None:
        """When some transfers end at the shares they have."""
        live = self._all
        share, left, end = live[_SHARE, places], live[_LEFT, places], np.full(len(places), np.inf)
        go = np.flatnonzero(share > 0)
        needed = left[go] / share[go]
        if not self._network.is_constant:
            needed = self._network.lasts_ms(self._way, *self._where(places[go]), needed)
        end[go] = live[_SINCE, places[go]] + needed
        live[_END, places] = end

    def _where(self, places: IntArray) -> tuple[IntArray, IntArray]:
        """Clients, and where their transfers stand in the time of the network."""
        stands = self._all[_BEGIN, places] + self._all[_SINCE, places] + self._start
        return self._all[_CLIENT, places].astype(np.int64), np.rint(stands).astype(np.int64)
