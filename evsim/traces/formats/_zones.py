"""Local times as instants: where clocks are changed an hour comes twice, and another never."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, final

import numpy as np

from evsim.base.caveat import Caveat
from evsim.base.errors import Problem, TraceError
from evsim.base.vocabulary import BoolArray, IntArray

if TYPE_CHECKING:
    from collections.abc import Iterable
    from zoneinfo import ZoneInfo

    from evsim.traces.formats._table import Table

REMEDY = "write times in UTC or with an offset, such as 2024-10-27T02:30:00+01:00"


@final
@dataclass(frozen=True)
class Instants:
    """Dates as instants.

    Attributes:
        ms: Unix ms; of a time that comes twice the earlier instant, (cells,).
        twice: whether the local time comes twice, likewise.
        never: whether the clocks jumped over it, likewise.
    """

    ms: IntArray
    twice: BoolArray
    never: BoolArray


def instants(column: Any, some: BoolArray, zone: str | None) -> Instants:
    """The instants of the dates in some cells of a column of text; `zone` is that of dates without one.

    Raises:
        ValueError: if there is no such date.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    text = pc.replace_substring_regex(column.filter(pa.array(some)), r"(\.[0-9]{6})[0-9]+", r"\1")
    text = pc.replace_substring_regex(text, r" ([Z+-])", r"\1")
    if zone is None or zone == "UTC":
        sure = _ms(text.cast(pa.timestamp("us", "UTC")) if zone is None else text.cast(pa.timestamp("us")))
        return Instants(sure, np.zeros(len(sure), np.bool_), np.zeros(len(sure), np.bool_))
    naive = text.cast(pa.timestamp("us"))
    first = pc.assume_timezone(naive, zone, ambiguous="earliest", nonexistent="latest")
    second = pc.assume_timezone(naive, zone, ambiguous="latest", nonexistent="latest")
    never = pc.not_equal(pc.local_timestamp(first), naive)
    return Instants(_ms(first), _ms(first) != _ms(second), np.asarray(never.to_numpy(zero_copy_only=False), np.bool_))


def of_option(naive: datetime, zone: ZoneInfo, name: str) -> datetime:
    """A local time that an option states, which must be one instant.

    Raises:
        TraceError: if it comes twice or never.
    """
    first, second = (naive.replace(tzinfo=zone, fold=fold) for fold in (0, 1))
    if first.utcoffset() == second.utcoffset():
        return first
    back = first.astimezone(UTC).astimezone(zone).replace(tzinfo=None)
    what = "comes twice" if back == naive else "never comes"
    raise TraceError(f"{name}: {naive.isoformat()} {what} in {zone.key}, where clocks are changed then; {REMEDY}")


def refusal(table: Table, name: str, rows: IntArray, zone: str) -> Problem:
    """What is wrong with local times that never come."""
    count = f" ({len(rows)} such times in this column)" if len(rows) > 1 else ""
    problem = table.problem(int(rows[0]), name, f"a time that exists in {zone}: the clocks were put forward{count}")
    return Problem(problem.where, problem.given, problem.expected, f"another timezone, or {REMEDY}")


def doubt(table: Table, twice: Iterable[tuple[str, IntArray]], zone: str) -> tuple[Caveat, ...]:
    """What is said of local times that come twice; `twice`: names of columns and the rows with such times."""
    found = [(int(row), name) for name, rows in twice for row in rows]
    if not found:
        return ()
    row, name = min(found)
    shown = str(table.columns[name][row])
    return (
        Caveat(
            "repeated_hour",
            f"local times that come twice in {zone}, when clocks are put back, are read as the earlier instant: they "
            "may be an hour early, and events of that hour out of order",
            f"{len(found)} times, first in line {table.line(row)}, {table.headers[name]} {shown}",
            REMEDY,
        ),
    )


def _ms(stamps: Any) -> IntArray:
    import pyarrow as pa

    micros = np.asarray(stamps.cast(pa.int64()).to_numpy(zero_copy_only=False)).astype(np.int64)
    return (micros + 500) // 1_000
