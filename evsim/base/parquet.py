"""Parquet tables: read on one thread, their promised sizes checked before memory is taken; sealed against changes."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pyarrow as pa

_MOST_BYTES = 8 * 10**9  # unpacked
_MOST_PER_BYTE = 20_000  # rows a byte of a file may stand for: runs of one value are packed well, but not without end


#: Files up to this size are read as a whole to see whether they changed: some ten ms.
CHEAP_BYTES = 8_000_000
_TAIL, _MAGIC = 8, b"PAR1"


def read_parquet(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """A table, or some of its columns.

    Raises:
        OSError: if the file cannot be read, as pyarrow and the system say it.
        ValueError: if it is no Parquet (`pyarrow.ArrowException`), or promises what it cannot hold.
    """
    import pyarrow.parquet as pq

    if path.exists() and not path.is_file():
        raise OSError(f"{path} is no file")
    # on this thread: one that reads ahead may abort a process that ends in an error right afterwards
    with pq.ParquetFile(path, memory_map=True, pre_buffer=False) as file:
        told, size = file.metadata, path.stat().st_size
        unpacked = sum(told.row_group(number).total_byte_size for number in range(told.num_row_groups))
        if not 0 <= told.num_rows <= max(size * _MOST_PER_BYTE, 1) or not 0 <= unpacked <= _MOST_BYTES:
            raise ValueError(f"promises {told.num_rows} rows in {unpacked} bytes, in a file of {size} bytes")
        names = file.schema_arrow.names
        if len(set(names)) < len(names):
            raise ValueError("has two columns of one name")
        return file.read(columns=None if columns is None else list(columns), use_threads=False)


def seal(path: Path) -> dict[str, int | str]:
    """What tells a table's file from a changed one: its rows, its bytes, and digests of its footer and of all of it.

    The footer says for every group of rows and column where it lies, how long it is, and its least and greatest value.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if it is no Parquet.
    """
    size = path.stat().st_size
    return {"rows": _rows(path), "bytes": size, "footer": _footer(path, size), "content": _digest(path)}


def differs(path: Path, told: Mapping[str, Any]) -> bool:
    """Whether a file is not the one that `seal` saw; all of its content is looked at only where that is cheap.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if it is no Parquet.
    """
    size = path.stat().st_size
    if size != told["bytes"] or _footer(path, size) != told["footer"]:
        return True
    return size <= CHEAP_BYTES and _digest(path) != told["content"]


def _rows(path: Path) -> int:
    import pyarrow.parquet as pq

    return int(pq.read_metadata(path).num_rows)


def _footer(path: Path, size: int) -> str:
    """The digest of the last part of a Parquet file: its metadata, their length in 4 bytes, and the magic number."""
    with path.open("rb") as file:
        file.seek(max(size - _TAIL, 0))
        tail = file.read(_TAIL)
        length = int.from_bytes(tail[:4], "little") + _TAIL
        if len(tail) < _TAIL or tail[4:] != _MAGIC or length > size:
            raise ValueError(f"{path.name} is no Parquet file")
        file.seek(size - length)
        return hashlib.blake2b(file.read(length), digest_size=16).hexdigest()


def _digest(path: Path) -> str:
    found = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            found.update(block)
    return found.hexdigest()
