"""From floats to whole numbers: the one place where a column of floats becomes integers.

A bare ``astype(np.int64)`` turns NaN, infinity and 2^63 into the most negative integer without a word.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from evsim.base.vocabulary import IntArray

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import ArrayLike

#: Beyond it floats skip whole numbers.
EXACT = 2**53


def whole(values: ArrayLike, refuse: Callable[[int], Exception], *, least: float = 0, most: float = EXACT) -> IntArray:
    """Each value rounded to the nearest whole number, ties to even.

    >>> whole([1.4, 2.5], lambda row: ValueError(row)).tolist()
    [1, 2]
    >>> whole([1.0, float("nan")], lambda row: ValueError(f"row {row}"))
    Traceback (most recent call last):
    ValueError: row 1

    Args:
        values: of one dimension.
        refuse: the error for a row that is not finite or, rounded, outside of [least, most]; raised for the first one.
        least: lower bound.
        most: upper bound; at most 2^62.
    """
    rounded = np.rint(np.asarray(values, dtype=np.float64))
    within = rounded.size == 0 or (np.minimum.reduce(rounded) >= least and np.maximum.reduce(rounded) <= most)
    if not within:  # NaN is not
        raise refuse(int(np.flatnonzero(~((rounded >= least) & (rounded <= most)))[0]))
    return rounded.astype(np.int64)
