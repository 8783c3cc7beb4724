"""Sessions of Lumos (Lv et al., INFOCOM 2022): what phones measured while they streamed, a CSV file each, or a tar.

A row is a chunk with its throughput (`app_throughput`, kbit/s) and how long it took (`delivery_time`, s). The series of
a session are its chunks one after the other, without the pauses between them: those were the player's.
"""

from __future__ import annotations

import csv
import io
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from evsim.base.errors import TraceError
from evsim.base.units import MS_PER_SECOND

if TYPE_CHECKING:
    from evsim.base.vocabulary import FloatArray

_NEEDED = {"app_throughput", "delivery_time"}
_MOST_BYTES = 10**8  # of a session: a real one has some kB


def sniff(path: Path) -> bool:
    """Whether the file, or the first one of the folder or archive, has these columns."""
    try:
        first = next(_texts(path), None)
    except (OSError, tarfile.TarError, UnicodeDecodeError, TraceError):
        return False
    return first is not None and set(first[1].split("\n", 1)[0].strip().split(",")) >= _NEEDED


def read(path: Path) -> Iterator[tuple[str, FloatArray, FloatArray, float]]:
    """Every session, in order of the files' names.

    Raises:
        TraceError: if there is no session, or one that cannot be read.
    """
    found = False
    try:
        for name, text in _texts(path):
            found = True
            yield _session(name, text)
    except (OSError, tarfile.TarError, UnicodeDecodeError, csv.Error) as error:
        raise TraceError(f"{path}: cannot be read as sessions of Lumos ({error})") from error
    if not found:
        raise TraceError(f"{path}: no session; expected CSV files with app_throughput and delivery_time")


def _session(name: str, text: str) -> tuple[str, FloatArray, FloatArray, float]:
    rows = list(csv.DictReader(io.StringIO(text)))
    try:
        chunks = np.array([(float(row["app_throughput"]), float(row["delivery_time"])) for row in rows]).reshape(-1, 2)
    except (KeyError, TypeError, ValueError) as error:
        raise TraceError(f"{name}: a chunk without app_throughput or delivery_time as a number ({error})") from None
    kbps, lasted = chunks[chunks[:, 1] > 0].T * np.array([[1.0], [MS_PER_SECOND]])
    if not len(kbps):
        raise TraceError(f"{name}: no chunk that took any time; expected a session")
    ends = np.cumsum(lasted)
    return name, np.concatenate([[0.0], ends[:-1]]), kbps, float(ends[-1])


def _texts(path: Path) -> Iterator[tuple[str, str]]:
    """Name and text of each CSV file."""
    if path.is_dir():
        for file in sorted(path.rglob("*.csv")):
            yield str(file), file.read_text(encoding="utf-8")
    elif path.is_file() and tarfile.is_tarfile(path):
        with tarfile.open(path) as archive:
            members = [each for each in archive.getmembers() if each.isfile() and each.name.endswith(".csv")]
            for member in sorted(members, key=lambda each: each.name):
                if member.size > _MOST_BYTES:
                    raise TraceError(f"{path}: {member.name} has {member.size} bytes; expected a session of some kB")
                content = archive.extractfile(member)
                if content is not None:
                    yield f"{path}: {member.name}", content.read().decode("utf-8")
    elif path.is_file():
        yield str(path), path.read_text(encoding="utf-8")
