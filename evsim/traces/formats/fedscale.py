"""FedScale's ``client_behave_trace`` and ``client_device_capacity``: pickles (or JSON copies) of one record per device.

A behavior record has ``active`` and ``inactive``, starts and ends in seconds since the trace's start, and
``finish_time``, the length of its own trace in seconds, after which FedScale repeats it. A capacity record has
``computation``, ms per sample of a forward pass, and ``communication``, kbit/s in both directions (Lai et al.,
FedScale, ICML 2022).

Record 17 of one file and record 17 of the other are not one phone: behavior and capacity were measured on different
phones, and the keys only count. So the devices read here are numbered and have no names by which to pair them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from evsim.base.casts import whole
from evsim.base.errors import TraceError
from evsim.base.units import LONGEST, MS_PER_SECOND
from evsim.traces.availability import AvailabilityTrace
from evsim.traces.formats._files import head, looks_like_json, read_json_object
from evsim.traces.formats.unpickle import load_plain
from evsim.traces.speed import DeviceSpeed

if TYPE_CHECKING:
    from pathlib import Path

    from evsim.base.vocabulary import FloatArray

_BEHAVIOR = ("active", "inactive", "finish_time")
_CAPACITY = ("computation", "communication")
_PICKLE = b"\x80"
_OLD_PICKLE = (b"(dp", b"(lp")


def sniff(path: Path) -> bool:
    """Whether the path is a pickle, or JSON with FedScale's fields."""
    begin = head(path)
    if looks_like_json(path):
        return b'"inactive"' in begin or (b'"computation"' in begin and b'"communication"' in begin)
    return begin[:1] == _PICKLE or begin.startswith(_OLD_PICKLE)


def read_availability(path: Path) -> AvailabilityTrace:
    """The availability in a ``client_behave_trace``.

    As FedScale's readers do, the shorter of `active` and `inactive` counts, and what lies beyond `finish_time` is never
    reached: it is cut.

    Raises:
        TraceError: naming the device, if a record lacks a field or holds an impossible interval.
    """
    records = _records(path, _BEHAVIOR)
    names = [str(name) for name in records]
    pairs = [_pairs(path, name, record) for name, record in records.items()]
    period = np.array([_finish_ms(path, name, record) for name, record in records.items()], np.int64)
    device = np.repeat(np.arange(len(pairs)), np.array([len(pair) for pair in pairs], np.int64))
    seconds = np.concatenate([np.empty((0, 2)), *pairs])

    def refuse(row: int) -> TraceError:
        return TraceError(
            f"{path}: device {names[device[row // 2]]}: active and inactive must be finite numbers of seconds, "
            "1000 years at most"
        )

    times = whole(seconds.ravel() * MS_PER_SECOND, refuse, least=-LONGEST, most=LONGEST)
    start, stop = times.reshape(-1, 2).T
    inside = start < period[device]
    cut = np.where(stop > start, np.minimum(stop, period[device]), stop)
    trace = AvailabilityTrace.from_intervals(
        device[inside], start[inside], cut[inside], n_devices=len(names), period=period, names=names
    )
    return replace(trace, dropped=trace.dropped + int((~inside).sum()), names=None)


def read_speed(path: Path) -> DeviceSpeed:
    """The device speeds in a ``client_device_capacity``; FedScale has one rate for both directions and no jitter.

    Raises:
        TraceError: naming the device, if a record lacks a field or holds an impossible speed.
    """
    records = _records(path, _CAPACITY)
    values = [[_number(path, name, record, field) for field in _CAPACITY] for name, record in records.items()]
    compute, kbps = np.array(values, np.float64).reshape(-1, 2).T
    return DeviceSpeed(compute, kbps, kbps)


def _records(path: Path, wanted: tuple[str, ...]) -> dict[Any, dict[str, Any]]:
    loaded = read_json_object(path) if looks_like_json(path) else load_plain(path)
    if not isinstance(loaded, dict):
        raise TraceError(f"{path}: holds a {type(loaded).__name__}; expected a dict of one record per device")
    for name, record in loaded.items():
        missing = [field for field in wanted if not isinstance(record, dict) or field not in record]
        if missing:
            raise TraceError(f"{path}: device {name!r} lacks {', '.join(missing)}; expected {', '.join(wanted)}")
    return loaded


def _pairs(path: Path, name: object, record: dict[str, Any]) -> FloatArray:
    """Starts and stops in seconds, (intervals, 2)."""
    try:
        columns = [np.asarray(record[field], dtype=np.float64).ravel() for field in ("active", "inactive")]
    except (TypeError, ValueError, OverflowError) as error:
        raise TraceError(f"{path}: device {name!r}: active and inactive must be lists of seconds: {error}") from error
    length = min(len(column) for column in columns)  # as FedScale's readers do
    return np.stack([column[:length] for column in columns], axis=1)


def _finish_ms(path: Path, name: object, record: dict[str, Any]) -> int:
    finish = _number(path, name, record, "finish_time")
    if not 1 <= finish * MS_PER_SECOND <= LONGEST:
        raise TraceError(
            f"{path}: device {name!r}: finish_time is {finish}; expected a number of seconds > 0, 1000 years at most"
        )
    return round(finish * MS_PER_SECOND)


def _number(path: Path, name: object, record: dict[str, Any], field: str) -> float:
    value = record[field]
    if isinstance(value, bool) or not isinstance(value, int | float | np.number):
        raise TraceError(f"{path}: device {name!r}: {field} is {str(value)[:60]!r}; expected a number")
    try:
        return float(value)
    except OverflowError as error:
        raise TraceError(f"{path}: device {name!r}: {field} is too large a number") from error
