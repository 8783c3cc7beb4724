"""Groups of samples: sums and means over each, with no loop over groups."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray

from evsim.base.vocabulary import FloatArray, IntArray

Rows = Mapping[str, NDArray[Any]]  # by name, (samples, ...)


@final
@dataclass(frozen=True, eq=False)
class Groups:
    """Group i has the samples ``index[offsets[i]:offsets[i + 1]]``; groups may share samples, and may be empty.

    >>> groups = Groups(np.array([0, 2, 1]), np.array([0, 2, 2, 3]))
    >>> groups.sums(np.array([1.0, 10.0, 100.0])).tolist(), groups.means(np.array([1.0, 10.0, 100.0])).tolist()
    ([101.0, 0.0, 10.0], [50.5, nan, 10.0])

    Attributes:
        index: rows of samples, group after group; None: every sample once, in one group.
        offsets: where each group begins, and one past the last, (groups + 1,).
    """

    index: IntArray | None
    offsets: IntArray

    @classmethod
    def whole(cls, count: int) -> Groups:
        """All samples as one group."""
        return cls(None, np.array([0, count]))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @cached_property
    def sizes(self) -> IntArray:
        """Samples of each group, (groups,)."""
        return np.diff(self.offsets)

    @cached_property
    def owner(self) -> IntArray:
        """The group of each place, (places,)."""
        return np.repeat(np.arange(len(self)), self.sizes)

    def pick(self, values: NDArray[Any]) -> NDArray[Any]:
        """The rows of all groups, one group after the other, (places, ...)."""
        return values if self.index is None else values[self.index]

    def sums(self, values: NDArray[Any]) -> FloatArray:
        """Sums over each group, (groups, ...), in float64; what is not finite stays in its group."""
        return self.sums_at(self.pick(values))

    def sums_at(self, picked: NDArray[Any]) -> FloatArray:
        """`sums` of rows that `pick` gave."""
        found = np.zeros((len(self), *picked.shape[1:]))
        filled = self.sizes > 0
        if filled.any():
            found[filled] = np.add.reduceat(picked.astype(np.float64, copy=False), self.offsets[:-1][filled], axis=0)
        return found

    def means(self, values: NDArray[Any]) -> FloatArray:
        """Means over each group, (groups, ...); NaN for an empty one."""
        if self.index is None and len(self) == 1 and len(values):
            return torch.from_numpy(values).double().mean(0, keepdim=True).numpy()  # sums pairwise
        return ratio(self.sums(values).T, self.sizes).T


def taken(index: IntArray, offsets: IntArray, groups: IntArray) -> tuple[IntArray, IntArray]:
    """Index and offsets of some of the groups, in the order named."""
    sizes = np.diff(offsets)[groups]
    found = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    within = np.arange(found[-1]) - np.repeat(found[:-1], sizes)
    return index[np.repeat(offsets[:-1][groups], sizes) + within], found


def ratio(above: NDArray[Any], below: NDArray[Any]) -> FloatArray:
    """Element by element; NaN where nothing is below."""
    shape = np.broadcast_shapes(np.shape(above), np.shape(below))
    return np.asarray(np.divide(above, below, out=np.full(shape, np.nan), where=np.broadcast_to(below != 0, shape)))
