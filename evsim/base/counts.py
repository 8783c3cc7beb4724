"""A share of a number of things as a whole number of things.

A share is written in decimals and held in binary: 0.29 x 100 is 28.999999999999996. So a product is first rounded to
twelve digits, which is as exact as anybody writes and coarser than what binary loses.
"""

from __future__ import annotations

from math import ceil, floor


def floor_count(share: float, n: float) -> int:
    """The largest whole number that is not above share x n.

    >>> floor_count(0.29, 100), floor_count(0.3, 9), floor_count(1 / 3, 3)
    (29, 2, 1)
    """
    return floor(_tidy(share * n))


def ceil_count(share: float, n: float) -> int:
    """The smallest whole number that is not below share x n.

    >>> ceil_count(0.07, 100), ceil_count(0.07, 101), ceil_count(1e-15, 3)
    (7, 8, 1)
    """
    return ceil(_tidy(share * n))


def round_count(share: float, n: float) -> int:
    """The whole number next to share x n; of two equally near, the even one.

    >>> round_count(0.575, 100), round_count(0.2, 51)
    (58, 10)
    """
    return round(_tidy(share * n))


def _tidy(product: float) -> float:
    return float(f"{product:.12g}")
