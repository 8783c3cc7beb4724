"""Rows of an array that is too large to be copied: one that lies in a file, or windows that overlap.

What is asked for is read, nothing else. Worker processes and ranks share the pages of a file through the operating
system.
"""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from evsim.base.vocabulary import IntArray

_KEPT = 128 << 20  # bytes of a file that may count as this process's memory
_AROUND = 64 << 10  # bytes that the kernel maps around a page that is read


@final
class Pages:
    """An ``.npy`` file, mapped into memory; pages that were read are given back now and then, which bounds memory.

    Attributes:
        array: its content, read-only.
    """

    def __init__(self, path: Path) -> None:
        """Map a file that `numpy.load` can map."""
        mapped = np.load(path, mmap_mode="r", allow_pickle=False)
        self.array: NDArray[Any] = mapped.view(np.ndarray)
        found = getattr(mapped, "_mmap", None)
        self._map: mmap.mmap | None = found if isinstance(found, mmap.mmap) else None
        self._read = 0

    def count(self, n_bytes: int, places: int) -> None:
        """Note that so many bytes were read in so many places; gives pages back if they were many."""
        self._read += n_bytes + places * _AROUND
        if self._read > _KEPT and self._map is not None and hasattr(self._map, "madvise"):
            self._map.madvise(mmap.MADV_DONTNEED)  # they stay in the cache of the operating system
            self._read = 0


@final
@dataclass(frozen=True, eq=False)
class Gathered:
    """Some rows of an array; ``gathered[rows]`` and ``gathered[a:b]`` are copies in memory.

    >>> windows = Gathered(np.lib.stride_tricks.sliding_window_view(np.arange(5), 3))
    >>> windows[[0, 2]]
    array([[0, 1, 2],
           [2, 3, 4]])
    >>> windows.select(np.array([1, 2]))[:1]
    array([[1, 2, 3]])

    Attributes:
        base: (M, ...) where the values are.
        rows: (N,) rows of `base`; None: all.
        pages: the file that `base` is a view of.
    """

    base: NDArray[Any]
    rows: IntArray | None = None
    pages: Pages | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, ...) as an array would have it."""
        return (len(self), *self.base.shape[1:])

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the values."""
        return self.base.dtype

    @property
    def nbytes(self) -> int:
        """Bytes of all rows in memory."""
        return prod(self.shape) * self.dtype.itemsize

    def __len__(self) -> int:
        return len(self.base) if self.rows is None else len(self.rows)

    def __getitem__(self, key: Any) -> NDArray[Any]:
        found = np.array(self.base[key if self.rows is None else self.rows[key]])
        if self.pages is not None:
            self.pages.count(found.nbytes, 1 if isinstance(key, slice) else len(found))
        return found

    def select(self, rows: IntArray) -> Gathered:
        """Some of these rows, still not read."""
        return Gathered(self.base, rows if self.rows is None else self.rows[rows], self.pages)


Values = NDArray[Any] | Gathered


def select(values: Values, rows: IntArray) -> Values:
    """Some rows: a copy of an array, or rows that are read later."""
    return values.select(rows) if isinstance(values, Gathered) else values[rows]
