"""Oort's formulas as pure functions of arrays.

Lai et al., Oort: Efficient Federated Learning via Guided Participant Selection, OSDI 2021 (arXiv 2010.06081),
section 4 and algorithm 1. R counts selections from 1, L(i) is the selection of client i's last feedback.
"""

from __future__ import annotations

from math import log
from typing import TYPE_CHECKING

import numpy as np

from evsim.base.counts import ceil_count, floor_count
from evsim.selection.sampling import kth_smallest

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from evsim.base.vocabulary import BoolArray, FloatArray, IntArray

_FLAT, _SHARP = 0.1, 5.0  # changes of utility that FedScale's pacer calls flat and sharp
_ALL = 100.0  # percentile


def statistical_utility(samples: IntArray, rms_loss: FloatArray) -> FloatArray:
    """|B| sqrt(1/|B| sum loss^2): samples of the task times the root of its mean squared per-sample loss (section 4.2).

    >>> statistical_utility(np.array([4]), np.array([0.5])).tolist()
    [2.0]
    """
    return samples * rms_loss


def clip_level(utilities: FloatArray, quantile: float, *, truncate: bool) -> float:
    """The utility at a quantile, by nearest rank: ceil(q n) - 1, or FedScale's int(q n) if `truncate`.

    >>> clip_level(np.arange(10.0), 0.9, truncate=False), clip_level(np.arange(10.0), 0.9, truncate=True)
    (8.0, 9.0)
    """
    n = len(utilities)
    return kth_smallest(utilities, floor_count(quantile, n) if truncate else max(ceil_count(quantile, n) - 1, 0))


def in_range(utilities: FloatArray, among: FloatArray, clip: float) -> FloatArray:
    """FedScale's scale: (min(U, clip) - 0.999 min) / max(max - 0.999 min, 1e-4), min and max over `among`."""
    low = 0.999 * float(among.min())
    return np.asarray((np.minimum(utilities, clip) - low) / max(float(among.max()) - low, 1e-4))


def uncertainty(selection: int, last: NDArray[np.integer], factor: float) -> FloatArray:
    """Temporal uncertainty sqrt(0.1 ln R / L(i)): the longer ago, the more it adds.

    >>> float(uncertainty(1, np.array([1]), 0.1)[0])
    0.0
    """
    return np.asarray(np.sqrt(factor * log(selection) / np.maximum(last, 1)))


def system_penalty(duration: FloatArray, preferred: float, alpha: float) -> FloatArray:
    """(T / D)^alpha for clients slower than the preferred duration T, 1 for the others and where D is NaN.

    >>> system_penalty(np.array([5.0, 20.0, np.nan]), 10.0, 2.0).tolist()
    [1.0, 0.25, 1.0]
    """
    factor = np.ones(len(duration))
    slow = duration > preferred  # False for NaN
    factor[slow] = (preferred / duration[slow]) ** alpha
    return factor


def with_fairness(score: FloatArray, selected: IntArray, weight: float) -> FloatArray:
    """(1 - f) Util + f fairness, fairness growing as the client was selected less often than the most selected one.

    The paper adds counts to utilities; here fairness spans the same range as the scores, so that f means the same at
    any scale: f = 1 asks the least selected first, as in the paper.
    """
    if weight == 0.0:
        return score
    most = max(int(selected.max()), 1)
    return np.asarray((1 - weight) * score + weight * float(score.max()) * (most - selected) / most)


def admitted(score: FloatArray, n: int, cut_off: float, keep: float) -> BoolArray:
    """Who takes part in the draw of n clients: scores of at least `cut_off` x the cut-off utility.

    The cut-off utility is the n-th largest score; with keep > 1 (FedScale) the one after it, and the keep x n + 1 best
    are admitted in any case.
    """
    size = len(score)
    if n >= size:
        return np.ones(size, np.bool_)
    loose = keep > 1
    edge = cut_off * _nth_largest(score, n + loose)
    if loose:
        edge = min(edge, _nth_largest(score, floor_count(keep, n) + 1))
    return np.asarray(score >= edge)


def _nth_largest(score: FloatArray, n: int) -> float:
    return kth_smallest(score, max(len(score) - n, 0))


def preferred_at_percentile(durations: FloatArray, percentile: float) -> float:
    """T as FedScale has it: the duration at int(n x percentile / 100) of the sorted known ones; no limit at 100."""
    if percentile >= _ALL or len(durations) == 0:
        return np.inf
    return kth_smallest(durations, floor_count(percentile / _ALL, len(durations)))


def preferred_to_cover(durations: FloatArray, clients: int) -> float:
    """T that covers so many of the fastest clients; no limit when there are not more."""
    return kth_smallest(durations, clients - 1) if 0 < clients < len(durations) else np.inf


def pace_fell(before: float, recent: float) -> int:
    """+1: the utility achieved fell, so accept slower clients (algorithm 1, lines 6-7).

    >>> pace_fell(2.0, 1.0), pace_fell(1.0, 1.0)
    (1, 0)
    """
    return int(before > recent)


def pace_flat(before: float, recent: float) -> int:
    """+1 where utility became flat, -1 where it changed sharply (FedScale).

    >>> pace_flat(10.0, 10.5), pace_flat(10.0, 60.0), pace_flat(10.0, 20.0)
    (1, -1, 0)
    """
    change = abs(recent - before)
    if change <= _FLAT * before:
        return 1
    return -1 if change >= _SHARP * before else 0
