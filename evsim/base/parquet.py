"""Parquet tables read on one thread, their promised sizes checked against the file before memory is taken."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pyarrow as pa

_MOST_BYTES = 8 * 10**9  # unpacked
_MOST_PER_BYTE = 20_000  # rows a byte of a file may stand for: runs of one value are packed well, but not without end


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
