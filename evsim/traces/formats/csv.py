"""CSV for people: one row per interval, per check-in and check-out, or per device with its speed. Plain or gzipped.

- Intervals: ``device``, ``start_s`` and ``stop_s`` (or ``start_ms`` and ``stop_ms``; or ``start`` and ``stop``, which
  may hold dates and clock times), optionally ``period_s`` (or ``period_ms``). A row with empty start and stop names a
  device that is never online.
- Events: ``device``, ``time`` (or ``time_s``, ``time_ms``) and ``event``: "in" or "out", in one of many words, or 1/0.
- Speed: ``device``, ``compute_ms_per_sample``, ``download_kbps``, ``upload_kbps``, optionally ``latency_ms``. Two names
  of FedScale's are known too: ``computation_ms_per_sample``, and ``communication_kbps`` for both directions. Others are
  read if they are asked for.

Devices may have any names; they are numbered in the order in which they appear. `_table` says which dialects are read,
`_times` which notations of time.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from evsim.base.casts import whole
from evsim.base.errors import PolicyError, Problem, TraceError
from evsim.base.units import LONGEST, MS_PER_DAY, MS_PER_SECOND, parse_duration
from evsim.base.vocabulary import FloatArray, IntArray
from evsim.traces._names import as_column_names, as_names
from evsim.traces.availability import AvailabilityTrace
from evsim.traces.formats import _table
from evsim.traces.formats._log import sessions
from evsim.traces.formats._times import Calendar, read_times
from evsim.traces.speed import DeviceSpeed

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from evsim.traces.formats._table import Table

_ALIASES = {
    **dict.fromkeys(("device_id", "client", "client_id", "phone", "phone_id", "user", "user_id", "id"), "device"),
    **dict.fromkeys(("state", "status", "action"), "event"),
    "computation_ms_per_sample": "compute_ms_per_sample",
    "latency": "latency_ms",
}
#: Columns of times, which may end in a unit.
_TIMES = {
    **dict.fromkeys(("begin", "from", "start_time", "check_in", "online_from"), "start"),
    **dict.fromkeys(("end", "to", "end_time", "stop_time", "check_out", "online_until"), "stop"),
    **dict.fromkeys(("timestamp", "datetime", "at"), "time"),
}
_INTERVAL = frozenset(
    {"device", *(f"{name}{unit}" for name in ("start", "stop", "period") for unit in ("", "_s", "_ms"))}
)
_EVENT = frozenset({"device", "event", *(f"{name}{unit}" for name in ("time", "period") for unit in ("", "_s", "_ms"))})
_RATES = ("compute_ms_per_sample", "download_kbps", "upload_kbps")
_SPEED = frozenset({"device", *_RATES, "communication_kbps", "latency_ms"})
#: Names of columns of this format, whichever table they are in.
COLUMNS = _INTERVAL | _EVENT | _SPEED


def own_name(name: str) -> str:
    """Our name of a column, given its plain name.

    >>> own_name("client_id"), own_name("end_s"), own_name("colour")
    ('device', 'stop_s', 'colour')
    """
    base, unit = next(((name.removesuffix(each), each) for each in ("_s", "_ms") if name.endswith(each)), (name, ""))
    return _ALIASES[name] if name in _ALIASES else _TIMES.get(base, base) + unit


def sniff(path: Path) -> bool:
    """Whether the first line is a header with a device column, or with an unnamed one before columns that we know."""
    header, _ = _table.first_cells(path)
    names = [own_name(_table.plain_name(name)) for name in header]
    return "device" in names or (len(names) > 1 and not names[0] and bool(COLUMNS & set(names)))


def read_availability(
    path: Path,
    period: str | float | None = None,
    origin: object = None,
    timezone: str | None = None,
) -> AvailabilityTrace:
    """The availability in a CSV of intervals or of events.

    Args:
        path: the file.
        period: after which every device repeats: seconds or text such as "7d". Without it the period column counts, and
            without that the whole days that hold every interval.
        origin: time 0 of the trace, for dates and Unix time: a date, a time or Unix seconds. Default: the first
            midnight before the earliest time.
        timezone: of dates without a zone, and of the midnight; default UTC.

    Raises:
        TraceError: with every problem of the file, each with its line; or naming device and interval.
    """
    table = _read(path)
    calendar = Calendar(origin, timezone)
    as_events = "event" in table.columns
    problems = _table.check_known(table, _EVENT if as_events else _INTERVAL)
    names, of, nameless = _table.devices(table)
    times, wrong = read_times(table, ("time",) if as_events else ("start", "stop"), calendar)
    problems += nameless + wrong
    if times is None or problems:
        raise _table.fail(path, problems)
    if as_events:
        log = sessions(table, of, times.columns[0], times.missing[0], n_devices=len(names))
        rows, start, stop, caveats = log.device, log.start, log.stop, (*times.caveats, *log.caveats)
    else:
        kept = ~_half_empty(table, times.missing[0], times.missing[1])
        rows, start, stop = of[kept], times.columns[0][kept], times.columns[1][kept]
        caveats = times.caveats
    periods = _periods(table, names, of, period, stop)
    try:
        trace = AvailabilityTrace.from_intervals(rows, start, stop, n_devices=len(names), period=periods, names=names)
    except TraceError as error:
        doubled = "".join(f"; {caveat}" for caveat in caveats if caveat.key == "repeated_hour")
        raise TraceError(f"{path}: {error}{doubled}") from error
    return replace(trace, caveats=caveats)


def read_speed(path: Path, columns: Sequence[str] = ()) -> DeviceSpeed:
    """The device speeds in a CSV of one row per device.

    Args:
        path: the file.
        columns: further columns of numbers to read, such as the work of each device.

    Raises:
        TraceError: with every problem of the file, each with its line.
    """
    table = _read(path)
    names, of, problems = _table.devices(table)
    more, wrong = _asked_for(table, as_column_names(columns))
    problems += _table.check_known(table, _SPEED | {_plain(name) for name in more}) + _repeated(table, names, of)
    rates, missing = _rates(table)
    problems += wrong + missing
    if problems:
        raise _table.fail(path, problems)
    compute, download, upload = (rates[name] for name in _RATES)
    latency = rates.get("latency_ms", np.zeros(len(names)))
    called = as_names(names, len(names))
    try:
        return DeviceSpeed(compute, download, upload, latency_ms=latency, names=called, more=more)
    except TraceError as error:
        raise TraceError(f"{path}: {error}") from error


def _rates(table: Table) -> tuple[dict[str, FloatArray], list[Problem]]:
    """The columns of speeds, and what is missing or no number."""
    wanted = {name: name for name in _RATES} | ({"latency_ms": "latency_ms"} if "latency_ms" in table.columns else {})
    if "communication_kbps" in table.columns:
        wanted |= dict.fromkeys(_RATES[1:], "communication_kbps")
    found, problems = {}, []
    for column in dict.fromkeys(wanted.values()):
        if column in table.columns:
            found[column], wrong = _table.numbers(table, column)
            problems += wrong
        else:
            problems.append(Problem(f"no column {column!r}", f"it has {', '.join(table.headers.values())}", ""))
    return {name: found[column] for name, column in wanted.items() if column in found}, problems


def _asked_for(table: Table, names: Sequence[str]) -> tuple[dict[str, FloatArray], list[Problem]]:
    """Further columns by the name they were asked for, and what is missing or no number."""
    found, problems = {}, []
    for name in names:
        if _plain(name) in table.columns:
            found[name], wrong = _table.numbers(table, _plain(name))
            problems += wrong
        else:
            problems.append(Problem(f"no column {name!r}", f"it has {', '.join(table.headers.values())}", ""))
    return found, problems


def _plain(name: str) -> str:
    return own_name(_table.plain_name(name))


def _read(path: Path) -> Table:
    """A table with a device column: an unnamed first column, if there is no other, holds the devices."""
    header, _ = _table.first_cells(path)
    if len(header) > 1 and _table.is_slots(header):
        raise TraceError(f'{path}: no line of names; it looks like a matrix of 0 and 1: say format = "matrix"')
    table = _table.read_table(path, own_name)
    if "device" not in table.columns and table.unnamed_first is not None:
        headers = table.headers | {"device": "(first column)"}
        table = replace(table, columns={"device": table.unnamed_first, **table.columns}, headers=headers)
    if "device" not in table.columns:
        raise TraceError(f"{path}: no column 'device'; it has {', '.join(table.headers.values())}")
    return table


def _half_empty(table: Table, no_start: Any, no_stop: Any) -> Any:
    """Rows without an interval; a row must have start and stop or neither."""
    half = np.flatnonzero(no_start != no_stop)
    if half.size:
        lines = ", ".join(str(table.line(int(row))) for row in half[: _table.SHOWN])
        raise TraceError(f"{table.path}: line {lines}: one of start and stop is empty; expected both or none")
    return no_start


def _repeated(table: Table, names: list[str], of: IntArray) -> list[Problem]:
    first = np.zeros(len(of), np.bool_)
    first[np.unique(of, return_index=True)[1]] = True
    return [
        Problem(f"line {table.line(int(row))}", f"device {names[of[row]]!r} again", "one row per device")
        for row in np.flatnonzero(~first)[: _table.SHOWN]
    ]


def _periods(table: Table, names: list[str], of: IntArray, period: str | float | None, stops: IntArray) -> IntArray:
    if period is not None:
        try:
            return np.full(len(names), parse_duration(period), np.int64)
        except PolicyError as error:
            raise TraceError(f"period: {error}") from error
    column = next((name for name in ("period_ms", "period_s", "period") if name in table.columns), None)
    if column is None:
        days = max(1, -(-int(stops.max(initial=0)) // MS_PER_DAY))
        return np.full(len(names), days * MS_PER_DAY, np.int64)
    return _given_periods(table, column, names, of)


def _given_periods(table: Table, column: str, names: list[str], of: IntArray) -> IntArray:
    values, problems = _table.numbers(table, column)
    if problems:
        raise _table.fail(table.path, problems)

    def refuse(row: int) -> TraceError:
        return _table.fail(table.path, [table.problem(row, column, "a period of at most 1000 years")])

    given = whole(values * (1 if column == "period_ms" else MS_PER_SECOND), refuse, most=LONGEST)
    periods = np.zeros(len(names), np.int64)
    periods[of] = given
    if odd := np.flatnonzero(periods[of] != given).tolist():
        row = odd[0]
        raise TraceError(
            f"{table.path}: line {table.line(row)}: device {names[of[row]]!r} has period {given[row]} ms here; "
            f"expected one period per device, {periods[of[row]]} ms in its last row"
        )
    return periods
