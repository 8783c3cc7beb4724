"""Intervals over seeds, each on the scale on which its quantity cannot leave its range.

- A time is positive and its spread grows with it: Student's t on the logarithms, so the center is the geometric mean.
  Exact for log-normal times, and the same in hours as in milliseconds.
- The mean of a metric within bounds: Student's t by the delta method on a scale without bounds, the logit between two
  bounds and the logarithm above (or below) one, carried back (Agresti, Categorical Data Analysis, 3rd ed. 2013,
  sections 3.1 and 16.1). The center stays the plain mean.
- Everything else, such as a difference: Student's t.

Every function takes runs along axis 0.
"""

from __future__ import annotations

import math
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from evsim.base.metrics import Metric
    from evsim.base.vocabulary import FloatArray

#: Fewer runs make an interval that says little: with 2 the factor of Student's t is 12.7, with 5 it is 2.8.
ENOUGH = 5


def t_interval(values: FloatArray, level: float = 0.95) -> tuple[float, float, float]:
    """Mean and Student's t interval; NaN bounds for fewer than two values."""
    mean = float(values.mean()) if len(values) else math.nan
    if len(values) < 2:  # noqa: PLR2004  one value has no spread
        return mean, math.nan, math.nan
    half = _factor(len(values), level) * float(values.std(ddof=1))
    return mean, mean - half, mean + half


def log_interval(values: FloatArray, level: float = 0.95) -> tuple[float, float, float]:
    """Geometric mean of positive values and Student's t interval on their logarithms."""
    center, low, high = t_interval(np.log(values), level)
    return _exp(center), _exp(low), _exp(high)


def mean_interval(
    values: FloatArray, metric: Metric | None, level: float = 0.95
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Means over axis 0 and their intervals, which never leave the bounds of the metric; one run has no spread.

    A value outside of the metric's bounds says that they are not its own: they are then not used.
    """
    mean = values.mean(axis=0)
    if len(values) < 2:  # noqa: PLR2004  one value has no spread
        return mean, mean, mean
    half = _factor(len(values), level) * values.std(axis=0, ddof=1)
    low, high = (-math.inf, math.inf) if metric is None else (metric.low, metric.high)
    known = values[np.isfinite(values)]
    if ((known < low) | (known > high)).any():
        low, high = -math.inf, math.inf
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        ends = _between(mean, half, low, high)
    inside = (mean > low) & (mean < high) & (half > 0)  # at a bound all values are equal: there is no spread
    return mean, np.where(inside, ends[0], mean), np.where(inside, ends[1], mean)


def _between(mean: FloatArray, half: FloatArray, low: float, high: float) -> tuple[FloatArray, FloatArray]:
    """Both ends, carried over a scale without bounds and back."""
    if math.isfinite(low) and math.isfinite(high):
        width = high - low
        odds, reach = (mean - low) / (high - mean), np.exp(half * width / ((mean - low) * (high - mean)))
        return high - width / (1 + odds / reach), high - width / (1 + odds * reach)
    if math.isfinite(low):
        reach = np.exp(half / (mean - low))
        return low + (mean - low) / reach, low + (mean - low) * reach
    if math.isfinite(high):
        reach = np.exp(half / (high - mean))
        return high - (high - mean) * reach, high - (high - mean) / reach
    return mean - half, mean + half


@cache
def _factor(n: int, level: float) -> float:
    """How many standard deviations of the values half an interval of their mean is long."""
    from scipy import stats

    return float(stats.t.ppf((1 + level) / 2, n - 1)) / math.sqrt(n)


def _exp(value: float) -> float:
    return math.inf if value > 700 else math.exp(value)  # noqa: PLR2004  beyond the largest float64
