"""Rows of an array that is too large to be copied: one that lies in a file, or windows that overlap.

What is asked for is read, nothing else. Worker processes and ranks share what the operating system has read of a file.
"""

from __future__ import annotations

import os
import weakref
from abc import ABC, abstractmethod
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from evsim.base.errors import DataError
from evsim.base.vocabulary import IntArray

_COPIED = 1 << 24  # bytes of an array up to which some of its rows are copied


@final
class Pages:
    """An ``.npy`` file whose rows are read by calls.

    They are not read through the map: its pages would count as this process's memory, hundreds of kB for each row.

    Attributes:
        array: its content, mapped, read-only.
    """

    def __init__(self, path: Path) -> None:
        """Open a file that `numpy.load` can map."""
        mapped: np.memmap[Any, Any] = np.load(path, mmap_mode="r", allow_pickle=False)
        self.array: NDArray[Any] = mapped.view(np.ndarray)
        self._offset = int(mapped.offset)
        self._path, self._file = (
            path,
            os.open(path, os.O_RDONLY),
        )  # every call says where it reads: processes may share it
        weakref.finalize(self, os.close, self._file)

    def read(self, rows: IntArray) -> NDArray[Any]:
        """A copy of some rows, of any shape; neighbors are read by one call."""
        if not hasattr(os, "preadv"):  # not a POSIX system
            return np.array(self.array[rows])
        found = np.empty((rows.size, *self.array.shape[1:]), self.array.dtype)
        size = found.nbytes // max(1, rows.size)
        if found.nbytes:
            flat, places = rows.reshape(-1), None
            if (np.diff(flat) != 1).any():  # a client's samples lie together: in order they are one call
                flat, places = np.unique(flat, return_inverse=True)
            self._read_runs(flat, found, size)
            found = found if places is None else np.take(found, places, axis=0)
        return found.reshape(*rows.shape, *self.array.shape[1:])

    def _read_runs(self, rows: IntArray, found: NDArray[Any], size: int) -> None:
        """Read sorted rows into the first places of `found`."""
        starts = np.concatenate([[0], np.flatnonzero(np.diff(rows) != 1) + 1, [len(rows)]])
        content = found.reshape(-1).view(np.uint8).data
        for start, stop, row in zip(starts[:-1].tolist(), starts[1:].tolist(), rows[starts[:-1]].tolist(), strict=True):
            self._fill(content[start * size : stop * size], self._offset + row * size)

    def _fill(self, content: memoryview, at: int) -> None:
        """Read into all of it; one call may give less."""
        while len(content):
            count = os.preadv(self._file, [content], at)
            if not count:
                raise DataError(f"{self._path}: ends at byte {at}; expected more; import it again")
            content, at = content[count:], at + count


class Change(ABC):
    """What is made of rows when they are read, each by itself."""

    @property
    @abstractmethod
    def dtype(self) -> np.dtype[Any]:
        """Type of what is made."""

    @abstractmethod
    def select(self, rows: IntArray) -> Change:
        """The same for some of the rows."""

    @abstractmethod
    def of(self, values: NDArray[Any], rows: IntArray) -> NDArray[Any]:
        """What is made of the values (n, ...) of these rows (n,): the same shape."""


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
        pages: the file that `base` maps, if it is one.
        change: what is made of rows that were read.
    """

    base: NDArray[Any]
    rows: IntArray | None = None
    pages: Pages | None = None
    change: Change | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, ...) as an array would have it."""
        return (len(self), *self.base.shape[1:])

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the values."""
        return self.base.dtype if self.change is None else self.change.dtype

    @property
    def nbytes(self) -> int:
        """Bytes of all rows in memory."""
        return prod(self.shape) * self.dtype.itemsize

    def __len__(self) -> int:
        return len(self.base) if self.rows is None else len(self.rows)

    def __getitem__(self, key: Any) -> NDArray[Any]:
        found = self._read(key)
        if self.change is None:
            return found
        rows = np.arange(*key.indices(len(self))) if isinstance(key, slice) else np.asarray(key)
        made = self.change.of(found.reshape(rows.size, *self.base.shape[1:]), rows.reshape(-1))
        return made.reshape(found.shape)

    def _read(self, key: Any) -> NDArray[Any]:
        if self.pages is None:
            return _copied(self.base, key if self.rows is None else self.rows[key])
        if self.rows is not None:
            return self.pages.read(self.rows[key])
        rows = np.arange(len(self.base))[key] if isinstance(key, slice) else np.asarray(key)
        return self.pages.read(rows % len(self.base))

    def select(self, rows: IntArray) -> Gathered:
        """Some of these rows, still not read."""
        change = None if self.change is None else self.change.select(rows)
        return Gathered(self.base, rows if self.rows is None else self.rows[rows], self.pages, change)


Values = NDArray[Any] | Gathered


def select(values: Values, rows: IntArray) -> Values:
    """Some rows: a copy of a small array, or rows that are read later."""
    if isinstance(values, Gathered):
        return values.select(rows)
    return values[rows] if values.nbytes <= _COPIED else Gathered(values, rows)


def _copied(base: NDArray[Any], key: Any) -> NDArray[Any]:
    """Rows of an array in memory, or a part of it, as a copy."""
    if isinstance(key, slice):
        return np.array(base[key])
    if base.flags.c_contiguous:
        return np.asarray(np.take(base, key, axis=0))  # faster than an index; of other layouts it would first copy all
    return np.asarray(base[np.asarray(key)])
