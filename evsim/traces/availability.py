"""When devices are reachable: immutable, periodic traces and pure queries on them.

Every device has disjoint, half-open intervals ``[start, stop)`` and repeats them for ever, past and future, after a
period of its own. A query is a function of its arguments alone, so questions may come in any order, about any instant.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, final

import numpy as np

from evsim.base.caveat import Caveat
from evsim.base.units import FOREVER, MS_PER_DAY
from evsim.base.vocabulary import BoolArray, IntArray
from evsim.traces._intervals import check_given, check_rows, clean, ranges, rotate
from evsim.traces._names import Names, as_names

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike

    from evsim.base.vocabulary import FloatArray

_KEY_BITS = 63


@final
@dataclass(frozen=True)
class Edges:
    """Check-ins and check-outs of a window, one entry each, sorted by instant, check-outs first, then device."""

    at: IntArray  # ms
    device: IntArray
    check_in: BoolArray


@final
@dataclass(frozen=True, eq=False)
class AvailabilityTrace:
    """The availability of `n` devices in flat arrays; `m` intervals in all; times in ms.

    Device d has intervals ``offsets[d]:offsets[d + 1]``, ascending and apart from each other (touching ones are one
    interval, also across the end of the period). A start lies in ``[0, period)``; only the last interval of a device
    may stop after its period: it goes on at the period's beginning. A device whose one interval is as long as its
    period is always online.

    >>> trace = AvailabilityTrace.from_intervals([0, 0], [5, 90], [20, 105], n_devices=2, period=100)
    >>> trace.n_intervals, trace.merged  # [90, 105) goes on to 5 and touches [5, 20)
    (1, 1)
    >>> trace.is_online([0, 0, 1], [119, 120, 0]).tolist()
    [True, False, False]

    Attributes:
        offsets: int64 (n + 1,).
        starts: check-in instants, int64 (m,).
        stops: check-out instants, int64 (m,).
        period: after which each device repeats, int64 (n,).
        merged: how many overlapping or touching intervals were merged into another one when the trace was made.
        dropped: how many empty intervals were left out when it was made.
        names: what the file calls the devices, (n,); None if it only numbers them. No part of the fingerprint.
        caveats: what reading the file had to assume.
    """

    offsets: IntArray
    starts: IntArray
    stops: IntArray
    period: IntArray
    merged: int = 0
    dropped: int = 0
    names: Names | None = None
    caveats: tuple[Caveat, ...] = ()

    def __post_init__(self) -> None:
        for name in ("offsets", "starts", "stops", "period"):
            column = np.ascontiguousarray(getattr(self, name), dtype=np.int64).view()
            column.flags.writeable = False
            object.__setattr__(self, name, column)
        object.__setattr__(self, "names", as_names(self.names, len(self.period)))
        check_rows(self.offsets, self.starts, self.stops, self.period)

    @classmethod
    def from_intervals(
        cls,
        device: ArrayLike,
        start: ArrayLike,
        stop: ArrayLike,
        *,
        n_devices: int,
        period: ArrayLike,
        names: Sequence[str] | Names | None = None,
    ) -> AvailabilityTrace:
        """A trace from intervals in any order: sorts, drops empty ones, merges overlapping and touching ones.

        Args:
            device: trace device of each interval, 0 to n_devices - 1.
            start: first instant online, ms, in [0, period).
            stop: first instant offline, ms; at most start + period, and beyond the period it wraps.
            n_devices: number of devices, those without any interval included.
            period: ms after which a device repeats; one for all or one per device.
            names: what the devices are called, one name each.

        Raises:
            TraceError: naming device and interval, if an interval is reversed, negative or beyond the period.
        """
        columns = [np.atleast_1d(np.asarray(column)) for column in (device, start, stop)]
        periods = np.broadcast_to(np.asarray(period), (n_devices,))
        check_given(columns[0], columns[1], columns[2], periods, names)
        of, starts, stops = (column.astype(np.int64) for column in columns)
        kept = stops > starts
        offsets, merged_starts, merged_stops = clean(of[kept], starts[kept], stops[kept], periods.astype(np.int64))
        return cls(
            offsets,
            merged_starts,
            merged_stops,
            periods.astype(np.int64),
            merged=int(kept.sum()) - len(merged_starts),
            dropped=len(kept) - int(kept.sum()),
            names=as_names(names, n_devices),
        )

    @classmethod
    def always(cls, n: int) -> AvailabilityTrace:
        """A trace of `n` devices that never leave."""
        day = np.full(n, MS_PER_DAY, np.int64)
        return cls(np.arange(n + 1, dtype=np.int64), np.zeros(n, np.int64), day, day)

    @classmethod
    def concatenate(cls, traces: Sequence[AvailabilityTrace]) -> AvailabilityTrace:
        """The devices of several traces, one trace after the other; at least one trace."""
        counts = np.concatenate([np.diff(trace.offsets) for trace in traces])
        starts, stops, period = (
            np.concatenate([getattr(trace, name) for trace in traces]) for name in ("starts", "stops", "period")
        )
        merged, dropped = sum(trace.merged for trace in traces), sum(trace.dropped for trace in traces)
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
        parts = [trace.names for trace in traces if trace.names is not None]
        names = np.concatenate(parts) if len(parts) == len(traces) else None
        return cls(offsets, starts, stops, period, merged, dropped, names)

    @property
    def n_devices(self) -> int:
        """Number of devices, never-online ones included."""
        return len(self.period)

    @property
    def n_intervals(self) -> int:
        """Number of intervals of one period, all devices together."""
        return len(self.starts)

    def is_online(self, devices: ArrayLike, at: ArrayLike) -> BoolArray:
        """Whether each device is online at each instant (ms, any integer); the two are broadcast together."""
        return self._left(np.asarray(devices), np.asarray(at)) > 0

    def count_online(self, devices: IntArray, instants: IntArray) -> IntArray:
        """How many of some devices are online at each instant, ms >= 0."""
        if not self._common_period:
            return np.array([np.count_nonzero(self.is_online(devices, at)) for at in instants.tolist()], np.int64)
        period, counts = self._common_period, self.offsets[devices + 1] - self.offsets[devices]
        rows = ranges(self.offsets[devices], counts)
        starts, stops = self.starts[rows], self.stops[rows]
        begun_before = stops > period  # goes on at the period's beginning
        within, place = np.unique(instants % period, return_inverse=True)
        online = (
            _up_to(within, starts)
            - _up_to(within, stops)
            + np.count_nonzero(begun_before)
            - _up_to(within, stops[begun_before] - period)
        )
        return online[place]

    def online_until(self, devices: ArrayLike, at: ArrayLike) -> IntArray:
        """The check-out that ends the interval around each instant, ms.

        `units.FOREVER` for a device that is always online; `at` itself for a device that is offline.
        """
        of, instant = np.asarray(devices), np.asarray(at)
        return np.where(self._always[of], FOREVER, instant + self._left(of, instant))

    def next_check_in(self, devices: ArrayLike, at: ArrayLike) -> IntArray:
        """The first check-in of each device at or after each instant, ms; `units.FOREVER` if there is none."""
        of, instant = np.asarray(devices), np.asarray(at)
        if self.n_intervals == 0:
            return np.full(np.broadcast(of, instant).shape, FOREVER, np.int64)
        period, first, end = self.period[of], self.offsets[of], self.offsets[of + 1]
        within = instant % period
        row = np.searchsorted(self._keys, self._base[of] + within, side="left")
        wraps = row >= end
        found = self.starts[np.where(wraps, np.minimum(first, self.n_intervals - 1), row)] + wraps * period
        return np.where((first == end) | self._always[of], FOREVER, instant + found - within)

    def next_check_in_of(self, device: int, at: int) -> int:
        """`next_check_in` of one device, without array overhead."""
        first, end = int(self.offsets[device]), int(self.offsets[device + 1])
        if first == end or self._always[device]:
            return FOREVER
        period = int(self.period[device])
        within = at % period
        row = first + int(self.starts[first:end].searchsorted(within))
        found = int(self.starts[row]) if row < end else int(self.starts[first]) + period
        return at - within + found

    def edges(self, t0: int, t1: int) -> Edges:
        """All check-ins and check-outs with t0 <= instant < t1, repetitions included, for a window of any length.

        A device that is always online has none. Windows tile: ``edges(a, b)`` and ``edges(b, c)`` together are
        ``edges(a, c)``.
        """
        if t1 <= t0 or self.n_intervals == 0:
            return Edges(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.bool_))
        if self._common_period:
            return self._edges_of_cycles(t0, t1)
        return self._edges_expanded(t0, t1)

    def take(self, devices: ArrayLike, shift: ArrayLike = 0) -> AvailabilityTrace:
        """The trace of some devices in a new order, repeats allowed, each moved later by `shift` ms.

        At instant t a row of the new trace is what its device was at ``t - shift`` in the old one.
        """
        of = np.asarray(devices, dtype=np.int64)
        counts = self.offsets[of + 1] - self.offsets[of]
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
        rows = ranges(self.offsets[of], counts)
        later = np.broadcast_to(np.asarray(shift, dtype=np.int64), of.shape)
        starts, stops, period = self.starts[rows], self.stops[rows], self.period[of]
        if later.any():
            moved = np.repeat(later, counts)
            starts, stops = rotate(offsets, starts + moved, stops + moved, period)
        names = None if self.names is None else self.names[of]
        return replace(self, offsets=offsets, starts=starts, stops=stops, period=period, names=names)

    def with_moved_edges(self, check_ins: IntArray, check_outs: IntArray) -> AvailabilityTrace:
        """The trace with each check-in and each check-out moved by some ms, one entry per interval.

        Raises:
            TraceError: if intervals of a device would then overlap, touch or vanish.
        """
        starts, stops = rotate(self.offsets, self.starts + check_ins, self.stops + check_outs, self.period)
        return replace(self, starts=starts, stops=stops)

    def online_share(self) -> FloatArray:
        """The share of its period for which each device is online, (n,)."""
        total = np.concatenate([np.zeros(1, np.int64), np.cumsum(self.stops - self.starts)])
        return np.asarray((total[self.offsets[1:]] - total[self.offsets[:-1]]) / self.period)

    def is_always_online(self) -> BoolArray:
        """Which devices never leave, (n,)."""
        return self._always

    def period_is_whole_days(self) -> bool:
        """Whether every device keeps its time of day when it repeats."""
        return bool((self.period % MS_PER_DAY == 0).all())

    def fingerprint(self) -> str:
        """A SHA-256 of all intervals and periods, the same on every machine."""
        digest = hashlib.sha256()
        for column in (self.offsets, self.starts, self.stops, self.period):
            digest.update(column.astype("<i8", copy=False).tobytes())
        return digest.hexdigest()

    @cached_property
    def _device(self) -> IntArray:
        return np.repeat(np.arange(self.n_devices, dtype=np.int64), np.diff(self.offsets))

    @cached_property
    def _base(self) -> IntArray:
        """What to add to a device's times so that all starts of all devices ascend in one array."""
        return np.concatenate([np.zeros(1, np.int64), np.cumsum(self.period)[:-1]])

    @cached_property
    def _keys(self) -> IntArray:
        return self.starts + self._base[self._device]

    @cached_property
    def _always(self) -> BoolArray:
        first = self.offsets[:-1]
        alone = np.flatnonzero(np.diff(self.offsets) == 1)  # nothing else fits beside an interval as long as the period
        always = np.zeros(self.n_devices, np.bool_)
        always[alone] = self.stops[first[alone]] - self.starts[first[alone]] == self.period[alone]
        return always

    def _left(self, of: IntArray, at: IntArray) -> IntArray:
        """Ms from each instant until the check-out that ends its interval, 0 where the device is offline."""
        if self.n_intervals == 0:
            return np.zeros(np.broadcast(of, at).shape, np.int64)
        period, first, end = self.period[of], self.offsets[of], self.offsets[of + 1]
        within = at % period
        row = np.searchsorted(self._keys, self._base[of] + within, side="right") - 1
        before = row < first  # no check-in yet in this period: the last interval of the period before may go on
        left = self.stops[np.where(before, end - 1, row)] - within - before * period
        return np.maximum(left, 0) * (end > first)

    @cached_property
    def _common_period(self) -> int:
        """The period of all devices if it is the same and edges can be packed into 63 bits, otherwise 0."""
        period = int(self.period[0])
        fits = period.bit_length() + 1 + self.n_devices.bit_length() <= _KEY_BITS
        return period if fits and bool((self.period == period).all()) else 0

    @cached_property
    def _cycle(self) -> IntArray:
        """The edges of one period as sorted integers: instant, then check-in or not, then device, in one word each.

        One integer per edge because NumPy sorts plain integers several times faster than it sorts by columns.
        """
        n, bits = self.n_intervals, self.n_devices.bit_length()
        packed = np.empty(2 * n, np.int64)
        packed[:n] = ((self.starts << 1) + 1 << bits) + self._device
        packed[n:] = (self.stops % self._common_period << bits + 1) + self._device
        if self._always.any():
            packed = packed[np.tile(~self._always[self._device], 2)]
        packed.sort()
        return packed

    def _edges_of_cycles(self, t0: int, t1: int) -> Edges:
        period, bits = self._common_period, self.n_devices.bit_length()
        parts = []
        for cycle in range(t0 // period, (t1 - 1) // period + 1):
            bounds = (max(t0 - cycle * period, 0) << bits + 1, min(t1 - cycle * period, period) << bits + 1)
            low, high = np.searchsorted(self._cycle, bounds)
            parts.append((cycle * period, self._cycle[low:high]))
        at = np.concatenate([(packed >> bits + 1) + begin for begin, packed in parts])
        packed = np.concatenate([packed for _, packed in parts])
        return Edges(at, packed & (1 << bits) - 1, (packed >> bits & 1).astype(np.bool_))

    def _edges_expanded(self, t0: int, t1: int) -> Edges:
        changing = ~self._always[self._device]
        device = np.tile(self._device[changing], 2)
        once = np.concatenate([self.stops[changing], self.starts[changing]])
        period = self.period[device]
        first = -((once - t0) // period)  # ceil((t0 - once) / period): the first repetition at or after t0
        counts = np.maximum((t1 - 1 - once) // period - first + 1, 0)
        rows = np.repeat(np.arange(len(once)), counts)
        at = once[rows] + ranges(first, counts) * period[rows]
        check_in = rows >= len(once) // 2
        order = np.lexsort((device[rows], check_in, at))
        return Edges(at[order], device[rows][order], check_in[order])


def _up_to(instants: IntArray, events: IntArray) -> IntArray:
    """How many events there are up to and including each of some ascending instants."""
    return np.cumsum(np.bincount(np.searchsorted(instants, events), minlength=len(instants) + 1)[:-1])
