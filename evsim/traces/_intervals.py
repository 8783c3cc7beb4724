"""Array arithmetic on the intervals of many periodic devices at once: validation, merging, rotation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from evsim.base.errors import TraceError
from evsim.base.units import FOREVER
from evsim.base.vocabulary import BoolArray, IntArray

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from evsim.traces._names import Names


def ranges(first: IntArray, counts: IntArray) -> IntArray:
    """The integers first[i], first[i] + 1, ... (counts[i] of them), one range after the other.

    >>> ranges(np.array([5, 0]), np.array([2, 3])).tolist()
    [5, 6, 0, 1, 2]
    """
    begin = np.cumsum(counts) - counts
    return np.asarray(np.arange(int(counts.sum()), dtype=np.int64) + np.repeat(first - begin, counts))


def check_given(
    device: NDArray[Any],
    start: NDArray[Any],
    stop: NDArray[Any],
    period: NDArray[Any],
    names: Sequence[str] | Names | None,
) -> None:
    """Raise `TraceError` unless the columns hold intervals of devices as `AvailabilityTrace.from_intervals` takes."""
    if not len(device) == len(start) == len(stop):
        raise TraceError(f"columns of unequal length: {len(device)} devices, {len(start)} starts, {len(stop)} stops")
    _check_integers(device=device, start=start, stop=stop, period=period)
    n = len(period)
    if (outside := np.flatnonzero((device < 0) | (device >= n))).size:
        row = int(outside[0])
        raise TraceError(f"interval {row}: device {device[row]}; expected a device from 0 to {n - 1}")
    if (short := np.flatnonzero(period <= 0)).size:
        raise TraceError(f"device {_name(int(short[0]), names)}: period {period[short[0]]} ms; expected more than 0 ms")
    _check_sum(period)
    own = period[device.astype(np.int64)]
    laws = (
        (stop < start, "reversed", "stop >= start"),
        (start < 0, "negative", "start >= 0"),
        (start >= own, "beyond the period", "a start before the end of the period"),
        (stop - start > own, "longer than the period", "stop <= start + period"),
    )
    for broken, what, expected in laws:
        _refuse(broken, what, expected, (device, start, stop, own, names))


def _check_integers(**columns: NDArray[Any]) -> None:
    for name, column in columns.items():
        if column.size and column.dtype.kind not in "iu":
            raise TraceError(f"column {name!r} holds {column.dtype}; expected whole numbers (times in ms)")
        if column.size and column.dtype.kind == "u" and int(column.max()) >= FOREVER:  # would wrap in int64
            raise TraceError(f"column {name!r} holds {int(column.max())}; expected less than {FOREVER}")


def _check_sum(period: NDArray[Any]) -> None:
    total = float(period.astype(np.float64).sum())
    if total >= FOREVER:
        raise TraceError(f"the periods of all devices add up to {total:.3g} ms; expected less than {FOREVER} ms")


def _refuse(
    broken: BoolArray,
    what: str,
    expected: str,
    given: tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any], Sequence[str] | Names | None],
) -> None:
    if not broken.any():
        return
    device, start, stop, period, names = given
    row = int(np.flatnonzero(broken)[0])
    more = f" (and {int(broken.sum()) - 1} more such intervals)" if broken.sum() > 1 else ""
    raise TraceError(
        f"device {_name(int(device[row]), names)}: interval [{start[row]}, {stop[row]}) ms is {what}; "
        f"expected {expected} (the device's period is {period[row]} ms){more}"
    )


def _name(device: int, names: Sequence[str] | Names | None) -> str:
    return str(device) if names is None else repr(names[device])


def check_rows(offsets: IntArray, starts: IntArray, stops: IntArray, period: IntArray) -> None:
    """Raise `TraceError` unless the flat arrays obey the law of `AvailabilityTrace`."""
    n, m = len(period), len(starts)
    if len(offsets) != n + 1 or offsets[0] != 0 or offsets[-1] != m or len(stops) != m or (np.diff(offsets) < 0).any():
        raise TraceError(f"offsets do not describe {n} devices with {m} intervals; build traces with from_intervals")
    if (period <= 0).any():
        raise TraceError(f"device {int(np.flatnonzero(period <= 0)[0])}: the period must be more than 0 ms")
    _check_sum(period)
    of = np.repeat(np.arange(n, dtype=np.int64), np.diff(offsets))
    own = period[of]
    bad = (starts < 0) | (starts >= own) | (stops <= starts) | (stops - starts > own)
    bad |= touching(offsets, starts, stops, period)
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise TraceError(
            f"device {of[row]}: interval [{starts[row]}, {stops[row]}) ms is outside its period of {own[row]} ms, "
            "empty, or touches the next one; build traces with from_intervals"
        )


def touching(offsets: IntArray, starts: IntArray, stops: IntArray, period: IntArray) -> BoolArray:
    """Whether each interval reaches or passes the next one of its device, the wrap included.

    One interval alone may be as long as the period (always online) but no longer.
    """
    following = np.empty_like(starts)
    following[:-1] = starts[1:]
    counts = np.diff(offsets)
    some = counts > 0
    last = offsets[1:][some] - 1
    alone = (counts[some] == 1).astype(np.int64)
    following[last] = starts[offsets[:-1][some]] + period[some] + alone
    return np.asarray(stops >= following)


def clean(device: IntArray, start: IntArray, stop: IntArray, period: IntArray) -> tuple[IntArray, IntArray, IntArray]:
    """Offsets, starts and stops of the union of non-empty intervals; touching ones merged, also across the wrap."""
    over = stop > period[device]  # cut at the end of the period; what touches the cut is joined again below
    of = np.concatenate([device, device[over]])
    starts = np.concatenate([start, np.zeros(int(over.sum()), np.int64)])
    stops = np.concatenate([np.minimum(stop, period[device]), stop[over] - period[device[over]]])
    base = np.cumsum(period + 1) - period  # a gap of 1 ms keeps neighbors apart
    first, last = _union(starts + base[of], stops + base[of])
    of = np.searchsorted(base, first, side="right") - 1
    offsets = np.searchsorted(of, np.arange(len(period) + 1)).astype(np.int64)
    return _join_across_wrap(of, offsets, first - base[of], last - base[of], period)


def _union(starts: IntArray, stops: IntArray) -> tuple[IntArray, IntArray]:
    """The union of intervals on one line; those that touch become one."""
    order = np.argsort(starts, kind="stable")
    starts, reach = starts[order], np.maximum.accumulate(stops[order])
    begins = np.ones(len(starts), np.bool_)
    begins[1:] = starts[1:] > reach[:-1]
    ends = np.append(begins[1:], True)[: len(starts)]
    return starts[begins], reach[ends]


def _join_across_wrap(
    device: IntArray, offsets: IntArray, starts: IntArray, stops: IntArray, period: IntArray
) -> tuple[IntArray, IntArray, IntArray]:
    wraps = np.flatnonzero(np.diff(offsets) > 1)
    first, last = offsets[wraps], offsets[wraps + 1] - 1
    joined = (starts[first] == 0) & (stops[last] == period[wraps])
    stops[last[joined]] += stops[first[joined]]
    keep = np.ones(len(starts), np.bool_)
    keep[first[joined]] = False
    counts = np.bincount(device[keep], minlength=len(period))
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)]), starts[keep], stops[keep]


def rotate(offsets: IntArray, starts: IntArray, stops: IntArray, period: IntArray) -> tuple[IntArray, IntArray]:
    """Starts and stops of moved intervals, back in their periods and sorted; always-online ones start at 0."""
    own = np.repeat(period, np.diff(offsets))
    length = stops - starts
    begin = np.where(length == own, 0, starts % own)
    base = np.repeat(np.cumsum(period) - period, np.diff(offsets))
    order = np.argsort(begin + base, kind="stable")
    return begin[order], (begin + length)[order]
