"""Times in tables: numbers of seconds or ms, clock times since the start, ISO dates, Unix time; all become whole ms.

A trace counts from a midnight. Numbers and clock times (``26:30:00``) are taken as they are. Dates and Unix time count
from `origin`, by default the first midnight, in `timezone`, before the earliest time: what was assumed is a caveat.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any, final
from zoneinfo import ZoneInfo

import numpy as np

from evsim.base.casts import whole
from evsim.base.caveat import Caveat
from evsim.base.errors import Problem, TraceError
from evsim.base.units import LONGEST, LONGEST_PHASE, MS_PER_HOUR, MS_PER_MINUTE, MS_PER_SECOND
from evsim.base.vocabulary import BoolArray, IntArray
from evsim.traces.formats import _table, _zones
from evsim.traces.formats._table import Table

if TYPE_CHECKING:
    from pathlib import Path
    from zoneinfo import ZoneInfo as Zone

#: Seconds beyond this are no time since the start of a trace: ten years.
_UNIX_MS = LONGEST_PHASE
_TOO_LATE_MS = 2**43  # the year 2248: Unix ms read as seconds lie far beyond
_CLOCK = r"^[0-9]+:[0-5]?[0-9](:[0-5]?[0-9](\.[0-9]+)?)?$"
_ZONE = r"(Z|[+-][0-9]{2}(:?[0-9]{2})?)$"
_DATE = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}([T ][0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]+)?)? ?(Z|[+-][0-9]{2}(:?[0-9]{2})?)?)?$"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@final
@dataclass(frozen=True)
class Times:
    """Columns of times, whole ms since time 0 of the trace; where `missing` they mean nothing.

    Attributes:
        columns: one per column that was asked for, (rows,).
        missing: which cells were empty, likewise.
        caveats: what had to be assumed.
    """

    columns: list[IntArray]
    missing: list[BoolArray]
    caveats: tuple[Caveat, ...]


@final
@dataclass(frozen=True)
class Calendar:
    """The options `origin` and `timezone` of a format."""

    origin: object = None
    timezone: object = None

    @property
    def is_given(self) -> bool:
        """Whether times are stated to be dates or Unix time."""
        return self.origin is not None or self.timezone is not None

    def zone(self) -> Zone:
        """The time zone; UTC if none was named."""
        if self.timezone is None:
            return ZoneInfo("UTC")
        try:
            return ZoneInfo(str(self.timezone))
        except (KeyError, ValueError, OSError) as error:
            raise TraceError(
                f"timezone: {self.timezone!r} is no time zone; expected a name such as 'Europe/Berlin' or 'UTC'"
            ) from error

    def origin_ms(self) -> int | None:
        """The instant of `origin`, Unix ms."""
        given = self.origin.isoformat() if isinstance(self.origin, date) else self.origin
        if given is None:
            return None
        if isinstance(given, int | float) and not isinstance(given, bool) and abs(given) * MS_PER_SECOND <= LONGEST:
            return round(given * MS_PER_SECOND)
        try:
            instant = datetime.fromisoformat(str(given).strip())
        except ValueError as error:
            raise TraceError(
                f"origin: {given!r}; expected a date such as '2024-03-01', a time such as '2024-03-01T08:00:00+01:00', "
                "or a number of Unix seconds"
            ) from error
        aware = instant if instant.tzinfo else _zones.of_option(instant, self.zone(), "origin")
        return round((aware - _EPOCH) / timedelta(milliseconds=1))


def read_times(table: Table, names: tuple[str, ...], calendar: Calendar) -> tuple[Times | None, list[Problem]]:
    """The times in some columns (``start`` is looked for as start, start_s and start_ms), and what is wrong with them.

    All columns must be written in one notation.

    Raises:
        TraceError: if an option cannot be used, or numbers look like Unix time and no option says so.
    """
    found = [_physical(table, name) for name in names]
    lacking = [_lacks(table, name) for name, column in zip(names, found, strict=True) if column is None]
    present = [column for column in found if column is not None]
    if lacking:
        return None, lacking
    parsed = [_parse(table, column, calendar) for column in present]
    problems = [problem for each in parsed for problem in each.problems]
    if problems:
        return None, problems
    missing = [_table.missing(table.columns[column]) for column in present]
    kinds = {each.kind for each, gone in zip(parsed, missing, strict=True) if not gone.all()}
    if len(kinds) > 1:
        written = ", ".join(
            f"{table.headers[column]} as {each.kind}" for column, each in zip(present, parsed, strict=True)
        )
        return None, [Problem("times", written, "one notation for all times of a file")]
    columns = [np.where(gone, 0, each.ms) for each, gone in zip(parsed, missing, strict=True)]
    times = _from_origin(table.path, columns, missing, kinds.pop() if kinds else "numbers", calendar)
    twice = zip(present, (each.twice for each in parsed), strict=True)
    return replace(times, caveats=(*times.caveats, *_zones.doubt(table, twice, calendar.zone().key))), []


@final
@dataclass(frozen=True)
class _Parsed:
    kind: str  # "numbers", "clock times", "dates" or "dates with a zone"
    ms: IntArray
    problems: list[Problem]
    twice: IntArray = field(default_factory=lambda: np.empty(0, np.int64))  # rows with local times that come twice


def _physical(table: Table, name: str) -> str | None:
    return next((each for each in (f"{name}_ms", f"{name}_s", name) if each in table.columns), None)


def _lacks(table: Table, name: str) -> Problem:
    return Problem(
        f"no column '{name}_s'", f"it has {', '.join(table.headers.values())}", f"{name}_s, {name}_ms or {name}"
    )


def _parse(table: Table, name: str, calendar: Calendar) -> _Parsed:
    column = table.columns[name]
    some = ~_table.missing(column)
    of_unit = name.endswith(("_s", "_ms"))
    if of_unit or _table.is_numeric(column)[some].all():
        return _parse_numbers(table, name, 1 if name.endswith("_ms") else MS_PER_SECOND)
    if _mostly(_table.matches(column, _CLOCK), some):
        return _parse_clock(table, name, some)
    return _parse_dates(table, name, some, calendar)


def _mostly(matching: BoolArray, some: BoolArray) -> bool:
    return bool(2 * (matching & some).sum() > some.sum())


def _parse_numbers(table: Table, name: str, unit: int) -> _Parsed:
    values, problems = _table.numbers(table, name)
    if problems and name.endswith(("_s", "_ms")):
        plain = name.rsplit("_", 1)[0]
        hint = f"for clock times and dates call the column {plain!r}"
        problems = [Problem(each.where, each.given, each.expected, each.hint or hint) for each in problems]
    nothing = np.isnan(values)
    scaled = np.where(nothing, 0.0, values) * unit
    far = ~nothing & ~(np.abs(scaled) <= _TOO_LATE_MS)
    if not problems and far.any():
        unit_name = "seconds" if unit == MS_PER_SECOND else "ms"
        problems = table.problems(far, name, f"a time in {unit_name} before the year 2248")
        if unit == MS_PER_SECOND:
            hint = f"Unix ms? call the column {name.removesuffix('_s')}_ms"
            problems = [Problem(each.where, each.given, each.expected, hint) for each in problems]
    if problems:
        return _Parsed("numbers", np.zeros(len(values), np.int64), problems)
    return _Parsed("numbers", _whole(table, name, scaled), [])


def _parse_clock(table: Table, name: str, some: BoolArray) -> _Parsed:
    """Hours, minutes and seconds since the start; hours may pass 24."""
    import pyarrow.compute as pc

    column = table.columns[name]
    bad = some & ~_table.matches(column, _CLOCK)
    if bad.any():
        return _Parsed(
            "clock times", np.zeros(len(column), np.int64), table.problems(bad, name, "a time such as 26:30:00")
        )
    parts = pc.extract_regex(column.combine_chunks(), r"^(?P<h>[0-9]+):(?P<m>[0-9]+):?(?P<s>[0-9.]*)$")
    total = np.zeros(len(column))
    for part, unit in (("h", MS_PER_HOUR), ("m", MS_PER_MINUTE), ("s", MS_PER_SECOND)):
        text = pc.fill_null(pc.struct_field(parts, part), "")
        text = pc.if_else(pc.equal(text, ""), "0", text)
        total += np.asarray(text.cast("float64").to_numpy(zero_copy_only=False)) * unit
    return _Parsed("clock times", _whole(table, name, np.where(some, total, 0.0)), [])


def _parse_dates(table: Table, name: str, some: BoolArray, calendar: Calendar) -> _Parsed:
    """ISO dates as Unix ms; without a zone they are in the calendar's."""
    column = table.columns[name]
    bad = some & ~_table.matches(column, _DATE)
    expected = "a number, a time such as 26:30:00, or a date such as 2024-03-01T00:10:00"
    nothing = np.zeros(len(column), np.int64)
    if bad.any():
        return _Parsed("dates", nothing, table.problems(bad, name, expected))
    zoned = _table.matches(column, _TIMED_ZONE)
    if (some & zoned).any() and (some & ~zoned).any():
        return _Parsed("dates", nothing, table.problems(some & ~zoned, name, "a zone, as other lines have"))
    zone = None if (some & zoned).any() else calendar.zone().key
    try:
        found = _zones.instants(column, some, zone)
    except ValueError as error:  # a 13th month, a 30th of February
        return _Parsed("dates", nothing, [_bad_date(table, name, some, error)])
    rows = np.flatnonzero(some)
    if zone is not None and found.never.any():
        return _Parsed("dates", nothing, [_zones.refusal(table, name, rows[found.never], zone)])
    nothing[some] = found.ms
    return _Parsed("dates" if zone else "dates with a zone", nothing, [], rows[found.twice])


_TIMED_ZONE = r":[0-9]{2}(\.[0-9]+)? ?" + _ZONE


def _bad_date(table: Table, name: str, some: BoolArray, error: ValueError) -> Problem:
    """The first date that is none, found one by one."""
    for row in np.flatnonzero(some).tolist():
        text = re.sub(r" (?=[Z+-])", "", str(table.columns[name][row]))
        try:
            datetime.fromisoformat(text)
        except ValueError as reason:
            return Problem(
                f"line {table.line(row)}, {table.headers[name]}", repr(text), "a date that exists", str(reason)
            )
    return Problem(table.headers[name], str(error), "dates that exist")


def _from_origin(path: Path, columns: list[IntArray], missing: list[BoolArray], kind: str, calendar: Calendar) -> Times:
    """Times since the origin."""
    present = [column[~gone] for column, gone in zip(columns, missing, strict=True)]
    earliest = min((int(each.min()) for each in present if each.size), default=0)
    latest = max((int(each.max()) for each in present if each.size), default=0)
    if kind == "clock times" and calendar.is_given:
        raise TraceError(f"{path}: origin and timezone are for dates and Unix time; this file has clock times")
    if kind == "numbers" and not calendar.is_given:
        if latest > _UNIX_MS:
            raise TraceError(_unix_hint(path, latest))
        return Times(columns, missing, ())
    if kind == "clock times":
        return Times(columns, missing, ())
    if kind == "numbers" and calendar.origin is None and latest <= _UNIX_MS:
        raise TraceError(
            f"{path}: timezone is for dates and Unix time; times up to {latest // MS_PER_SECOND} s are less than "
            "ten years and count from the start of the trace; leave timezone out"
        )
    begin = calendar.origin_ms()
    caveats: tuple[Caveat, ...] = ()
    if begin is None:
        begin = _midnight_before(earliest, calendar.zone())
        caveats = (_assumed(begin, calendar.zone()),)
    if present and earliest < begin:
        raise TraceError(
            f"{path}: its earliest time is {_say(earliest, calendar.zone())}, before origin "
            f"{_say(begin, calendar.zone())}; expected an origin at or before it"
        )
    return Times([column - begin for column in columns], missing, caveats)


def _unix_hint(path: Path, latest: int) -> str:
    day = (_EPOCH + timedelta(milliseconds=latest)).date()
    return (
        f"{path}: times up to {latest // MS_PER_SECOND} s are more than ten years and look like Unix time ({day}); "
        f'expected times since the start of the trace, or the line {{ path = "{path.name}", timezone = "UTC" }} '
        '(your zone; origin = "2024-03-01" says where time 0 is)'
    )


def _midnight_before(earliest: int, zone: Zone) -> int:
    local = (_EPOCH + timedelta(milliseconds=earliest)).astimezone(zone)
    midnight = local.replace(hour=0, minute=0, second=0, microsecond=0, fold=0)
    return round((midnight.astimezone(UTC) - _EPOCH) / timedelta(milliseconds=1))


def _assumed(begin: int, zone: Zone) -> Caveat:
    return Caveat(
        "assumed_origin",
        "dates count from the first midnight before the earliest one",
        f"time 0 is {_say(begin, zone)}, zone {zone.key}",
        "say origin = ... and timezone = ... if it is another",
    )


def _say(ms: int, zone: Zone) -> str:
    return (_EPOCH + timedelta(milliseconds=ms)).astimezone(zone).isoformat()


def _whole(table: Table, name: str, ms: Any) -> IntArray:
    def refuse(row: int) -> TraceError:
        return _table.fail(table.path, [table.problem(row, name, "a time of at most 1000 years")])

    return whole(ms, refuse, least=-LONGEST, most=LONGEST)
