"""Availability in a world that moves: what the trace says, less the times for which an actor keeps devices away."""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING, NamedTuple, final

import numpy as np

from evsim.base.units import FOREVER
from evsim.base.vocabulary import Rank
from evsim.timeline.sessions import SessionEdges

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from evsim.base.vocabulary import BoolArray, IntArray
    from evsim.timeline.sessions import Sessions
    from evsim.traces.availability import AvailabilityTrace

_CHECK_OUT, _CHECK_IN = int(Rank.CHECK_OUT), int(Rank.CHECK_IN)


class Absence(NamedTuple):
    """Times for which devices were kept away, one entry each; FOREVER: until the end."""

    clients: IntArray
    begin: IntArray
    end: IntArray

    def among(self, clients: IntArray) -> Absence:
        """Those of some clients."""
        mine = np.isin(self.clients, clients)
        return Absence(self.clients[mine], self.begin[mine], self.end[mine])


@final
class Presence:
    """Questions to a trace about now and later, absences taken into account as far as they are known now."""

    def __init__(self, trace: AvailabilityTrace) -> None:
        self.trace = trace
        #: For each client, until when it is kept away, ms; an instant that has passed where it is not.
        self.away_until = np.zeros(trace.n_devices, np.int64)
        self._since = np.full(trace.n_devices, -1, np.int64)
        self._past: list[Absence] = []

    def is_online(self, devices: ArrayLike, at: ArrayLike) -> BoolArray:
        """Whether each device is online at each instant."""
        there: BoolArray = self.trace.is_online(devices, at) & (np.asarray(at) >= self.away_until[np.asarray(devices)])
        return there

    def next_check_in(self, devices: ArrayLike, at: ArrayLike) -> IntArray:
        """The first check-in of each device at or after each instant, ms; FOREVER if there is none."""
        of, instant = np.asarray(devices), np.asarray(at)
        away = self.away_until[of]
        kept = (away >= instant) & (away > 0)
        begin = np.where(kept, np.minimum(away, FOREVER), instant)
        back = np.where(kept & self.trace.is_online(of, begin), begin, self.trace.next_check_in(of, begin))
        return np.where(away >= FOREVER, FOREVER, back)

    def next_check_in_of(self, device: int, at: int) -> int:
        """`next_check_in` of one device."""
        return int(self.next_check_in(np.array([device]), np.array([at]))[0])

    def keep_away(self, clients: IntArray, now: int, until: int) -> IntArray:
        """Devices are away from now until an instant; those of them that were online until now."""
        new = self.away_until[clients] < now + (now == 0)  # not away at the instant before
        self._close(clients[new])
        self._since[clients[new]] = now
        before = self.trace.is_online(clients, max(now - 1, 0)) & new
        self.away_until[clients] = np.maximum(self.away_until[clients], until)
        return clients[before]

    def let_back(self, clients: IntArray, now: int) -> IntArray:
        """Devices are away no longer; those of them that were."""
        clients = clients[self.away_until[clients] > now]
        self.away_until[clients] = now
        return clients

    def absences(self) -> Absence:
        """All absences so far."""
        self._close(np.flatnonzero(self._since >= 0))
        if not self._past:
            nothing = np.empty(0, np.int64)
            return Absence(nothing, nothing, nothing)
        found = Absence(*(np.concatenate(column) for column in zip(*self._past, strict=True)))
        self._past = [found]
        return found

    def _close(self, clients: IntArray) -> None:
        """An absence that is over, or about which no more is known, becomes history."""
        some = clients[self._since[clients] >= 0]
        if len(some):
            self._past.append(Absence(some, self._since[some], self.away_until[some]))
            self._since[some] = -1


@final
class MovingSessions:
    """`Sessions` with edges of absences among those of the trace."""

    def __init__(self, sessions: Sessions, presence: Presence) -> None:
        self._sessions, self._presence = sessions, presence
        self.online_until = sessions.online_until
        self._extra: list[tuple[int, int, int]] = []  # heap of (when, rank, client)
        self._awaited = np.ones(len(presence.away_until), np.bool_)

    def keep_away(self, clients: IntArray, now: int, until: int) -> None:
        """Devices are away from now until an instant; every edge before now has been handed over."""
        for client in self._presence.keep_away(clients, now, until).tolist():
            heapq.heappush(self._extra, (now, _CHECK_OUT, client))
        if until < FOREVER:
            self._returns(clients, until)

    def let_back(self, clients: IntArray, now: int) -> IntArray:
        """Devices are away no longer; those of them that were."""
        back = self._presence.let_back(clients, now)
        self._returns(back, now)
        return back

    def _returns(self, clients: IntArray, at: int) -> None:
        for client in clients[self._presence.trace.is_online(clients, at)].tolist():
            heapq.heappush(self._extra, (at, _CHECK_IN, client))

    # -- as of `Sessions` -------------------------------------------------------------------------------------------

    def wait_for(self, clients: BoolArray) -> None:
        """Only these, a flag for each, are counted by `next_check_ins` and `returns`: the others have no data."""
        self._sessions.wait_for(clients)
        self._awaited = clients

    def online_at_start(self) -> IntArray:
        """Ids of the clients that are online at virtual time 0."""
        return self._sessions.online_at_start()

    def next(self) -> int:
        """No edge before this instant."""
        return min(self._sessions.next(), self._extra[0][0]) if self._extra else self._sessions.next()

    def head(self) -> tuple[int, int]:
        """Instant and rank of the next edge; there may be none."""
        head = self._sessions.head()
        return min(head, self._extra[0][:2]) if self._extra else head

    def take(self, now: int) -> SessionEdges | None:
        """The edges up to and including now."""
        parts = [part for part in (self._of_trace(self._sessions.take(now)), self._of_absences(now)) if part]
        if len(parts) <= 1:
            return parts[0] if parts else None
        at, clients, check_in = (np.concatenate(column) for column in zip(*parts, strict=True))
        order = np.lexsort((clients, check_in, at))
        return SessionEdges(at[order], clients[order], check_in[order])

    def take_one(self, now: int) -> SessionEdges | None:
        """The next edge, if it is of this instant."""
        if self._extra and self._extra[0][0] <= now and self._extra[0][:2] <= self._sessions.head():
            return self._of_absences(now, most=1)
        return self._of_trace(self._sessions.take_one(now))

    def take_single(self, now: int) -> tuple[int, int, bool] | None:
        """The next edge up to now in plain numbers: instant, client, whether it is a check-in."""
        while self.next() <= now:
            edge = self.take_one(now)  # None: of a device that is kept away
            if edge is not None:
                return int(edge.at[0]), int(edge.clients[0]), bool(edge.check_in[0])
        return None

    def next_check_ins(self, count: int, until: int) -> IntArray:
        """Instants of the next check-ins, at most `count`, none after `until`; some may be of devices that are away."""
        found = self._sessions.next_check_ins(count, until)
        if not self._extra:
            return found
        awaited = [entry for entry in self._extra if entry[1] == _CHECK_IN and self._awaited[entry[2]]]
        mine = np.array([entry[0] for entry in awaited if entry[0] <= until and self._is_true(*entry)], np.int64)
        return np.sort(np.concatenate([found, mine]))[:count]

    def returns(self) -> bool:
        """Whether any device ever checks in again."""
        away = (self._presence.away_until >= FOREVER) & self._awaited
        return (
            any(self._awaited[client] for _, _, client in self._extra) or bool(away.any()) or self._sessions.returns()
        )

    # -- inside -----------------------------------------------------------------------------------------------------

    def _of_trace(self, edges: SessionEdges | None) -> SessionEdges | None:
        """Without the edges of devices that are kept away; at the end of an absence its own edge counts."""
        if edges is None:
            return None
        keep = edges.at > self._presence.away_until[edges.clients]
        keep |= self._presence.away_until[edges.clients] == 0
        if keep.all():
            return edges
        at, clients, check_in = edges
        return SessionEdges(at[keep], clients[keep], check_in[keep]) if keep.any() else None

    def _of_absences(self, now: int, most: int = -1) -> SessionEdges | None:
        found: list[tuple[int, int, int]] = []
        while self._extra and self._extra[0][0] <= now and len(found) != most:
            entry = heapq.heappop(self._extra)
            if self._is_true(*entry) and entry not in found[-1:]:
                found.append(entry)
        if not found:
            return None
        at, rank, clients = (np.array(column) for column in zip(*found, strict=True))
        check_in = rank == _CHECK_IN
        back = clients[check_in]
        until = self._presence.trace.online_until(back, at[check_in])
        self.online_until[back[until > now]] = until[until > now]  # an older one is over, and the trace knows better
        return SessionEdges(at, clients, check_in)

    def _is_true(self, at: int, rank: int, client: int) -> bool:
        """Whether an entry still holds: an absence may have become longer, or ended earlier."""
        return rank == _CHECK_OUT or int(self._presence.away_until[client]) == at
