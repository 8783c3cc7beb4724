"""A table of 0 and 1: one row per device, one column per slot of time, such as an hour. ``.npy``, or CSV.

Slot 0 begins at midnight; after the last slot every device repeats. A CSV may have a line of names and a first column
of devices; names of slots are free, but if they are times of day (``00:00``, ``00:30``) they say how long a slot is.
"""

from __future__ import annotations

import re
from dataclasses import replace
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np

from evsim.base.caveat import Caveat
from evsim.base.errors import PolicyError, Problem, TraceError
from evsim.base.units import MS_PER_HOUR, MS_PER_MINUTE, format_duration, parse_duration
from evsim.base.vocabulary import BoolArray
from evsim.traces.availability import AvailabilityTrace
from evsim.traces.formats import _table
from evsim.traces.formats._files import head, read_bytes
from evsim.traces.formats.csv import COLUMNS, own_name

if TYPE_CHECKING:
    from pathlib import Path

    from evsim.traces.speed import DeviceSpeed

_NPY = b"\x93NUMPY"
_LOOKS = "it looks like a matrix of 0 and 1, a row per device and a column per slot of time,"
_BARE = (
    f"{_LOOKS} whose first column names devices, but it has no line of names; "
    "write one above it, such as device,00:00,01:00,... with a time for each slot, or leave the first column out"
)
_TIME = re.compile(r"([0-9]{1,3}):([0-9]{2})(?::00)?")


def sniff(path: Path) -> bool:
    """Whether the path is a NumPy array, or a table of at least two columns of 0 and 1."""
    if head(path).startswith(_NPY):
        return True
    header, row = _table.first_cells(path)
    if _table.is_slots(header) and len(header) > 1:
        return True
    names = [own_name(_table.plain_name(name)) for name in header]
    slots = [cell for name, cell in zip(names, row, strict=False) if name and name != "device"]
    return (
        len(row) == len(header)
        and len(slots) > 1
        and _table.is_slots(slots)
        and not (COLUMNS - {"device"}) & set(names)
    )


def hint(path: Path) -> str:
    """What a table that no format claims looks like, if it is one of 0 and 1, and how to have it read; "" if not."""
    header, _ = _table.first_cells(path)
    if len(header) == 1 and len(header[0].split()) > 1 and _table.is_slots(header[0].split()):
        return f"{_LOOKS} with spaces between its cells; expected commas, semicolons or tabs"
    return _BARE if _is_bare(header) else ""


def read_availability(path: Path, slot: str | float | None = None) -> AvailabilityTrace:
    """The availability in a matrix.

    Args:
        path: the file.
        slot: how long a column lasts: seconds or text such as "1h", "30min"; default one hour, unless the columns are
            named by times of day.

    Raises:
        TraceError: naming row and column, if a cell is neither 0 nor 1.
    """
    content = read_bytes(path) if head(path).startswith(_NPY) else None
    if content is not None:
        online, names, named_slot = _from_npy(path, content), None, None
    else:
        online, names, named_slot = _from_text(path)
    length = _slot_ms(path, slot, named_slot)
    caveats = () if slot is not None or named_slot is not None else (_assumed(online.shape[1]),)
    changes = np.diff(np.pad(online, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    device, first = np.nonzero(changes == 1)
    _, end = np.nonzero(changes == -1)
    trace = AvailabilityTrace.from_intervals(
        device, first * length, end * length, n_devices=len(online), period=online.shape[1] * length, names=names
    )
    return replace(trace, caveats=caveats)


def read_speed(path: Path) -> DeviceSpeed:
    """A matrix holds no speeds."""
    raise TraceError(f"{path}: a matrix of 0 and 1 holds no device speeds; expected a file of speeds")


def _is_bare(first: list[str]) -> bool:
    """Whether a first line is a device and its cells, not names of columns: those differ from each other."""
    names_device = bool(first) and own_name(_table.plain_name(first[0])) in {"device", ""}
    cells = first[1:]
    return not names_device and len(set(cells)) < len(cells) and _table.is_slots(cells)


def _from_npy(path: Path, content: bytes) -> BoolArray:
    """The array in a file, without unpickling and without trusting its header for the memory to take."""
    stream = BytesIO(content)
    try:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(stream)
        flat = np.frombuffer(content, dtype, offset=stream.tell()) if dtype.kind in "biuf" else None
        array = None if flat is None else flat.reshape(shape, order="F" if fortran else "C")
    except Exception as error:  # a broken header fails in any operation at all
        raise TraceError(f"{path}: not a readable NumPy array: {error}") from error
    if array is None or array.ndim != 2 or not array.size:  # noqa: PLR2004  devices and slots
        raise TraceError(f"{path}: an array of {dtype} and shape {shape}; expected 0 and 1, devices x slots")
    bad = ~((array == 0) | (array == 1))
    if bad.any():
        row, column = np.argwhere(bad)[0]
        raise TraceError(
            f"{path}: device {row}, slot {column}: {array[row, column]}; expected 0 or 1 ({int(bad.sum())} such cells)"
        )
    return np.asarray(array == 1)


def _from_text(path: Path) -> tuple[BoolArray, list[str] | None, int | None]:
    """Who is online when, the names of devices, and the length of a slot if the names of columns say it."""
    header, _ = _table.first_cells(path)
    if _is_bare(header) and not _table.is_slots(header):
        raise TraceError(f"{path}: {_BARE}")
    table = _table.read_table(path, own_name, header=not _table.is_slots(header))
    named = table.columns.get("device", table.unnamed_first)
    slots = {name: column for name, column in table.columns.items() if name != "device"}
    if _table.is_slots(header):
        named = None
        slots = {"unnamed 0": table.unnamed_first, **slots} if table.unnamed_first is not None else slots
    if not slots:
        raise TraceError(f"{path}: no slots; expected a column of 0 and 1 per slot of time")
    columns: list[BoolArray] = []
    problems: list[Problem] = []
    wrong: list[str] = []
    for name, column in slots.items():
        online, offline = _is_in(column, _table.ONLINE), _is_in(column, _table.OFFLINE)
        found = table.problems(~(online | offline), name, "0 or 1")[: _table.SHOWN]
        problems, wrong = problems + found, [*wrong, name] if found else wrong
        columns.append(online)
    if _table.is_slots(header) and wrong == [next(iter(slots))] and len(slots[wrong[0]].unique()) == table.n_rows:
        raise TraceError(f"{path}: {_BARE}")
    if problems:
        raise _table.fail(path, problems[: _table.SHOWN])
    names = None if named is None else [str(name) for name in named.to_pylist()]
    if names is not None and len(set(names)) < len(names):
        twice = next(name for place, name in enumerate(names) if name in names[:place])
        raise TraceError(f"{path}: device {twice!r} has two rows; expected one row per device")
    return np.stack(columns, axis=1), names, _named_slot(path, [table.headers.get(name, "") for name in slots])


def _is_in(column: Any, words: tuple[str, ...]) -> BoolArray:
    import pyarrow as pa
    import pyarrow.compute as pc

    found = pc.is_in(pc.utf8_lower(column), pa.array(words))
    return np.asarray(found.to_numpy(zero_copy_only=False), np.bool_)


def _named_slot(path: Path, headers: list[str]) -> int | None:
    """The step between columns named by times of day, ms; None if they are not."""
    matches = [_TIME.fullmatch(header) for header in headers]
    if len(headers) < 2 or not all(matches):  # noqa: PLR2004  a step needs two
        return None
    times = np.array([int(m[1]) * MS_PER_HOUR + int(m[2]) * MS_PER_MINUTE for m in matches if m])
    steps = np.unique(np.diff(times))
    if times[0] != 0 or len(steps) != 1 or steps[0] <= 0:
        raise TraceError(f"{path}: slots {', '.join(headers[:4])}, ...; expected times from 00:00 in equal steps")
    return int(steps[0])


def _slot_ms(path: Path, given: object, named: int | None) -> int:
    if given is None:
        return MS_PER_HOUR if named is None else named
    try:
        length = parse_duration(given)
    except PolicyError as error:
        raise TraceError(f"slot: {error}") from error
    if length <= 0 or named not in (None, length):
        expected = "more than 0 ms" if named is None else f"{format_duration(named)}, the step of the file's columns"
        raise TraceError(f"slot: {given!r}; expected {expected}")
    return length


def _assumed(n_slots: int) -> Caveat:
    return Caveat(
        "assumed_slot",
        "each column was taken to last an hour",
        f"{n_slots} columns, a period of {format_duration(n_slots * MS_PER_HOUR)}",
        'say slot = "1h" or slot = "30min"',
    )
