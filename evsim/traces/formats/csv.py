"""CSV for people: one row per interval, or one row per device with its speed. Plain or gzipped, with a header.

- Availability: ``device``, ``start_ms`` and ``stop_ms`` (or ``start_s`` and ``stop_s``), optionally ``period_ms`` (or
  ``period_s``). A row with empty start and stop names a device that is never online.
- Speed: ``device``, ``compute_ms_per_sample``, ``download_kbps``, ``upload_kbps``. Two names of FedScale's are known
  too: ``computation_ms_per_sample``, and ``communication_kbps`` for both directions.

Devices may have any names; they are numbered in the order in which they appear.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from evsim.base.errors import PolicyError, TraceError, suggest
from evsim.base.units import MS_PER_DAY, MS_PER_SECOND, parse_duration
from evsim.base.vocabulary import FloatArray, IntArray
from evsim.traces.availability import AvailabilityTrace
from evsim.traces.formats._files import head, read_bytes
from evsim.traces.speed import DeviceSpeed

if TYPE_CHECKING:
    from pathlib import Path

_ALIASES = {
    "device_id": "device",
    "client": "device",
    "client_id": "device",
    "computation_ms_per_sample": "compute_ms_per_sample",
}
_MOST_BYTES = 2**31 - 1  # of a block, for Arrow
_INTERVAL = ("start_ms", "stop_ms", "start_s", "stop_s", "period_ms", "period_s")
_SPEED = ("compute_ms_per_sample", "download_kbps", "upload_kbps", "communication_kbps")


def sniff(path: Path) -> bool:
    """Whether the first line is a header with a device column."""
    first = head(path).split(b"\n", 1)[0].decode("utf-8", "replace")
    names = [name.strip().strip('"') for name in first.split(",")]
    return any(_ALIASES.get(name, name) == "device" for name in names)


def read_availability(path: Path, period: str | float | None = None) -> AvailabilityTrace:
    """The availability in a CSV of intervals.

    Args:
        path: the file.
        period: after which every device repeats: seconds or text such as "7d". Without it the period column counts, and
            without that the whole days that hold every interval.

    Raises:
        TraceError: naming the row, if a column is missing or a cell is not a number; or device and interval.
    """
    columns = _read(path, _INTERVAL)
    names, of = _devices(path, columns)
    start, stop = (_milliseconds(path, columns, name) for name in ("start", "stop"))
    half = np.flatnonzero(np.isnan(start) != np.isnan(stop))
    if half.size:
        raise TraceError(f"{path}: row {half[0] + 2}: one of start and stop is empty; expected both or none")
    empty = np.isnan(start)
    first, last = (np.rint(column[~empty]).astype(np.int64) for column in (start, stop))
    periods = _periods(path, columns, names, of, period, last)
    return AvailabilityTrace.from_intervals(of[~empty], first, last, n_devices=len(names), period=periods, names=names)


def read_speed(path: Path) -> DeviceSpeed:
    """The device speeds in a CSV of one row per device.

    Raises:
        TraceError: naming the row, if a column is missing, a cell is not a number or a device appears twice.
    """
    columns = _read(path, _SPEED)
    names, of = _devices(path, columns)
    if len(names) != len(of):
        twice = int(np.flatnonzero(of != np.arange(len(of)))[0])
        raise TraceError(f"{path}: row {twice + 2}: device {names[of[twice]]!r} again; expected one row per device")
    both = "communication_kbps" in columns
    wanted = ("compute_ms_per_sample", *(("communication_kbps",) * 2 if both else ("download_kbps", "upload_kbps")))
    compute, download, upload = (_numbers(path, columns, name) for name in wanted)
    return DeviceSpeed(compute, download, upload)


def _read(path: Path, known: tuple[str, ...]) -> dict[str, Any]:
    """Columns as Arrow arrays under our names."""
    import pyarrow as pa
    from pyarrow import csv

    content = read_bytes(path)
    device = {name: pa.string() for name in ("device", *_ALIASES) if _ALIASES.get(name, name) == "device"}
    try:
        # in one block, on this thread: a thread that reads ahead may abort a process that ends in an error meanwhile
        block = csv.ReadOptions(use_threads=False, block_size=min(len(content) + 1, _MOST_BYTES))
        columns_of = csv.ConvertOptions(column_types=device)
        table = csv.read_csv(pa.BufferReader(content), read_options=block, convert_options=columns_of)
    except (pa.ArrowException, ValueError) as error:
        raise TraceError(f"{path}: not readable as CSV: {error}") from error
    columns = {_ALIASES.get(name, name): table[name] for name in table.column_names}
    if unknown := [name for name in columns if name not in ("device", *known)]:
        raise TraceError(f"{path}: unknown column {unknown[0]!r}; {suggest(unknown[0], ('device', *known))}")
    return columns


def _devices(path: Path, columns: dict[str, Any]) -> tuple[list[str], IntArray]:
    """Names in order of appearance, and the number of each row's device."""
    if "device" not in columns:
        raise TraceError(f"{path}: no column 'device'; it has {', '.join(columns)}")
    coded = columns["device"].combine_chunks().dictionary_encode()
    names = [str(name) for name in coded.dictionary.to_pylist()]
    if "" in names:  # Arrow reads an empty cell of text as empty text
        row = coded.indices.to_pylist().index(names.index(""))
        raise TraceError(f"{path}: row {row + 2}: no device; expected a name or number")
    return names, coded.indices.to_numpy().astype(np.int64)


def _numbers(path: Path, columns: dict[str, Any], name: str) -> FloatArray:
    """A column as floats; empty cells are NaN."""
    import pyarrow as pa

    if name not in columns:
        raise TraceError(f"{path}: no column {name!r}; it has {', '.join(columns)}")
    column = columns[name]
    if pa.types.is_null(column.type):
        return np.full(len(column), np.nan)
    if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
        raise TraceError(f"{path}: row {_first_text(column) + 2}: {name} is not a number")
    return np.asarray(column.cast(pa.float64()).to_numpy(zero_copy_only=False))


def _first_text(column: Any) -> int:
    """The first row that is not a number, in a column that Arrow took for text, dates or truth values."""
    cells = column.to_pylist()
    return next(row for row, cell in enumerate(cells) if cell not in (None, "") and not _is_number(cell))


def _is_number(cell: Any) -> bool:
    try:
        float(cell if isinstance(cell, str) else "none")
    except ValueError:
        return False
    return True


def _milliseconds(path: Path, columns: dict[str, Any], name: str) -> FloatArray:
    """The column `name` in ms, whichever unit the file has."""
    if f"{name}_s" in columns and f"{name}_ms" not in columns:
        return _numbers(path, columns, f"{name}_s") * MS_PER_SECOND
    return _numbers(path, columns, f"{name}_ms")


def _periods(
    path: Path, columns: dict[str, Any], names: list[str], of: IntArray, period: str | float | None, stops: IntArray
) -> IntArray:
    if period is not None:
        try:
            return np.full(len(names), parse_duration(period), np.int64)
        except PolicyError as error:
            raise TraceError(f"period: {error}") from error
    if "period_ms" not in columns and "period_s" not in columns:
        days = max(1, -(-int(stops.max(initial=0)) // MS_PER_DAY))
        return np.full(len(names), days * MS_PER_DAY, np.int64)
    given = _milliseconds(path, columns, "period")
    periods = np.full(len(names), np.nan)
    periods[of] = given
    if odd := np.flatnonzero(~(periods[of] == given)).tolist():
        row = odd[0]
        raise TraceError(
            f"{path}: row {row + 2}: device {names[of[row]]!r} has period {given[row]:g} ms here; "
            f"expected one period per device, {periods[of[row]]:g} ms in its last row"
        )
    return np.asarray(np.rint(periods), dtype=np.int64)
