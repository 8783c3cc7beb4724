"""CSV with the columns `time` (seconds) and `kbps`; a column `series` may say which series a row belongs to."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from evsim.base.errors import TraceError
from evsim.base.units import MS_PER_SECOND

if TYPE_CHECKING:
    from evsim.base.vocabulary import FloatArray

_NEEDED = {"time", "kbps"}


def sniff(path: Path) -> bool:
    """Whether the file, or the first one of the folder, has these columns."""
    return any(_header(file) >= _NEEDED for file in _files(path)[:1])


def read(path: Path) -> Iterator[tuple[str, FloatArray, FloatArray, float]]:
    """Every series; a row's rate holds until the next row, the last one's as long as that of the row before it.

    Raises:
        TraceError: naming file and line of what is no number, or if a file has not these columns.
    """
    for file in _files(path):
        rows: dict[str, list[tuple[float, float]]] = {}
        for line, row in _rows(file):
            rows.setdefault(row.get("series") or "", []).append(_numbers(file, line, row))
        if not rows:
            raise TraceError(f"{file}: no rows; expected the columns time and kbps")
        for name, values in rows.items():
            time, kbps = np.array(values).T
            at = (time - time[0]) * MS_PER_SECOND
            last = float(at[-1] - at[-2]) if len(at) > 1 else float(MS_PER_SECOND)
            yield f"{file}{f', series {name}' if name else ''}", at, kbps, float(at[-1]) + last


def _files(path: Path) -> list[Path]:
    return sorted(path.glob("*.csv")) if path.is_dir() else [path]


def _header(file: Path) -> set[str]:
    try:
        with file.open(encoding="utf-8", newline="") as lines:
            return {name.strip() for name in next(csv.reader(lines), [])}
    except (OSError, UnicodeDecodeError, csv.Error):
        return set()


def _rows(file: Path) -> Iterator[tuple[int, dict[str, str]]]:
    missing = _NEEDED - _header(file)
    if missing:
        raise TraceError(f"{file}: no column {' and '.join(sorted(missing))}; expected the columns time and kbps")
    try:
        with file.open(encoding="utf-8", newline="") as lines:
            names = [name.strip() for name in next(csv.reader(lines))]
            for line, cells in enumerate(csv.reader(lines), start=2):
                if cells:
                    yield line, dict(zip(names, cells, strict=False))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise TraceError(f"{file}: cannot be read as CSV ({error})") from error


def _numbers(file: Path, line: int, row: dict[str, str]) -> tuple[float, float]:
    try:
        return float(row["time"]), float(row["kbps"])
    except (KeyError, ValueError):
        given = f"time {row.get('time')!r}, kbps {row.get('kbps')!r}"
        raise TraceError(f"{file}, line {line}: {given}; expected two numbers") from None
