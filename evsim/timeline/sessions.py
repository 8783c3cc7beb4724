"""The sessions of devices as a source: check-ins and check-outs, streamed in windows from an availability trace.

No process per device and no polling: whoever decides something takes the edges since the last decision, or asks for
the instants of the next check-ins when it must wait for one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, final

import numpy as np

from evsim.base.units import FOREVER, MS_PER_HOUR
from evsim.base.vocabulary import Rank

if TYPE_CHECKING:
    from collections.abc import Callable

    from evsim.base.vocabulary import BoolArray, IntArray
    from evsim.traces.availability import AvailabilityTrace, Edges

_WINDOW_EDGES = 400_000  # about 10 MB of arrays per window
_CHECK_OUT, _CHECK_IN = int(Rank.CHECK_OUT), int(Rank.CHECK_IN)


class SessionEdges(NamedTuple):
    """Check-ins and check-outs, one entry each, in order: by instant, check-outs first, then by client."""

    at: IntArray
    clients: IntArray
    check_in: BoolArray


@final
class Sessions:
    """A cursor over the edges of a trace, from virtual time 0 on."""

    def __init__(self, trace: AvailabilityTrace, on_window: Callable[[Edges], None] | None = None) -> None:
        self._trace = trace
        self._on_window = on_window
        self._loaded_until = 1  # edges of instant 0 are part of the initial state
        self._window_ms = _window_ms(trace)
        self._at: IntArray = np.empty(0, np.int64)
        self._device: IntArray = np.empty(0, np.int64)
        self._check_in = np.empty(0, np.bool_)
        self._until: IntArray = np.empty(0, np.int64)
        self._next = 0
        self._next_at = self._loaded_until  # no edge before this instant
        self._check_in_rows: IntArray = np.empty(0, np.int64)  # of the window's edges; of clients that are waited for
        self._awaited: BoolArray | None = None  # a flag for each client; None: all
        self.n_edges = 0
        everyone = np.arange(trace.n_devices)
        #: For each client that is online at the cursor, the check-out that ends its session, ms.
        self.online_until = trace.online_until(everyone, 0)
        # The same storage as Python numbers, for edges that are taken one at a time.
        self._one_online_until = self.online_until.data
        self._one_at, self._one_device, self._one_check_in = self._at.data, self._device.data, self._check_in.data
        self._one_until = self._until.data

    def wait_for(self, clients: BoolArray) -> None:
        """Only these, a flag for each, are counted by `next_check_ins` and `returns`: the others have no data."""
        self._awaited = None if clients.all() else clients

    def online_at_start(self) -> IntArray:
        """Ids of the clients that are online at virtual time 0."""
        everyone = np.arange(self._trace.n_devices)
        return everyone[self._trace.is_online(everyone, 0)]

    def next(self) -> int:
        """No edge before this instant."""
        return self._next_at

    def head(self) -> tuple[int, int]:
        """Instant and rank of the next edge, or the end of what is loaded; FOREVER if no device ever returns."""
        if self._next < len(self._at):
            return self._next_at, _CHECK_IN if self._check_in[self._next] else _CHECK_OUT
        return (self._next_at if self.returns() else FOREVER), _CHECK_OUT

    def take(self, now: int) -> SessionEdges | None:
        """The edges up to and including now."""
        while self._loaded_until <= now:
            self._load()
        return self._hand_over(int(self._at.searchsorted(now, side="right")))

    def take_single(self, now: int) -> tuple[int, int, bool] | None:
        """`take_one` in plain numbers: instant, client, whether it is a check-in; also of the past."""
        while self._next_at <= now:
            place = self._next
            if place == len(self._at):
                self._load()
                continue
            at, client, check_in = self._next_at, self._one_device[place], bool(self._one_check_in[place])
            if check_in:
                self._one_online_until[client] = self._one_until[place]
            self.n_edges += 1
            self._next = place + 1
            self._next_at = self._one_at[place + 1] if place + 1 < len(self._at) else self._loaded_until
            return at, client, check_in
        return None

    def take_one(self, now: int) -> SessionEdges | None:
        """The next edge, if it is of this instant."""
        while self._loaded_until <= now:
            self._load()
        return self._hand_over(self._next + 1) if self._next_at <= now else None

    def _hand_over(self, stop: int) -> SessionEdges | None:
        first, self._next = self._next, stop
        self._look_ahead()
        if first == stop:
            return None
        self.n_edges += stop - first
        clients, check_in = self._device[first:stop], self._check_in[first:stop]
        if stop - first == 1:
            if check_in[0]:
                self.online_until[clients[0]] = self._until[first]
        else:
            self.online_until[clients[check_in]] = self._until[first:stop][check_in]
        return SessionEdges(self._at[first:stop], clients, check_in)

    def next_check_ins(self, count: int, until: int) -> IntArray:
        """Instants of the next check-ins, at most `count`, none after `until`."""
        found = self._check_ins_ahead(count)
        while len(found) < count and self._loaded_until <= until and self._trace.n_intervals:
            if not self.returns():
                break
            self._load()
            found = self._check_ins_ahead(count)
        return found[found <= until]

    def _check_ins_ahead(self, count: int) -> IntArray:
        """Instants of the next check-ins of the window, at most `count`; does not look at the rest of the window."""
        first = int(self._check_in_rows.searchsorted(self._next))
        return self._at[self._check_in_rows[first : first + count]]

    def _look_ahead(self) -> None:
        self._next_at = int(self._at[self._next]) if self._next < len(self._at) else self._loaded_until

    def returns(self) -> bool:
        """Whether any device ever checks in again: a whole period without an edge means never."""
        everyone = np.arange(self._trace.n_devices)
        awaited = everyone if self._awaited is None else everyone[self._awaited]
        return bool((self._trace.next_check_in(awaited, self._loaded_until) < FOREVER).any())

    def _load(self) -> None:
        start, stop = self._loaded_until, self._loaded_until + self._window_ms
        edges = self._trace.edges(start, stop)
        if self._on_window is not None:
            self._on_window(edges)
        until = np.zeros(len(edges.at), np.int64)
        begins = np.flatnonzero(edges.check_in)
        begins = begins[np.argsort(edges.device[begins])]  # look-ups in the trace's own order are five times faster
        until[begins] = self._trace.online_until(edges.device[begins], edges.at[begins])
        rest = slice(self._next, None)
        if self._next < len(self._at):
            self._at = np.concatenate([self._at[rest], edges.at])
            self._device = np.concatenate([self._device[rest], edges.device])
            self._check_in = np.concatenate([self._check_in[rest], edges.check_in])
            self._until = np.concatenate([self._until[rest], until])
        else:
            self._at, self._device, self._check_in = edges.at, edges.device, edges.check_in
            self._until = until
        self._next = 0
        self._loaded_until = stop
        self._one_at, self._one_device, self._one_check_in = self._at.data, self._device.data, self._check_in.data
        self._one_until = self._until.data
        counted = self._check_in if self._awaited is None else self._check_in & self._awaited[self._device]
        self._check_in_rows = np.flatnonzero(counted)
        self._look_ahead()


def _window_ms(trace: AvailabilityTrace) -> int:
    """A window that holds about `_WINDOW_EDGES` edges, or a thirty-second of a period in very large populations."""
    if trace.n_intervals == 0:
        return 24 * MS_PER_HOUR
    edges_per_ms = float(np.sum(2 * np.diff(trace.offsets) / trace.period))
    longest = int(trace.period.max())
    return int(np.clip(_WINDOW_EDGES / edges_per_ms, max(1, longest // 32), longest))
