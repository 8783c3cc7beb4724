"""A metric over virtual time, and when it first reaches a target."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np

from evsim.base.errors import require
from evsim.base.metrics import Target
from evsim.base.vocabulary import FloatArray, IntArray


@final
@dataclass(frozen=True, eq=False)
class Curve:
    """A metric at the evaluations of one run, in order of virtual time.

    Attributes:
        at: instants, ms.
        value: the metric.
        version: the model version that was evaluated.
    """

    at: IntArray
    value: FloatArray
    version: IntArray

    def smooth(self, window: int) -> Curve:
        """The running mean of the newest `window` evaluations; instants with fewer are left out.

        Raises:
            PolicyError: if the window is not positive.
        """
        require(window >= 1, "running_mean must be >= 1", running_mean=window)
        if window == 1:
            return self
        windows = np.lib.stride_tricks.sliding_window_view(self.value, window) if len(self.value) >= window else None
        means = np.empty(0) if windows is None else windows.mean(axis=1)  # differences of sums would drift
        return Curve(self.at[window - 1 :], means, self.version[window - 1 :])

    def value_at(self, at: int) -> float:
        """The newest value known at an instant; NaN before the first evaluation."""
        index = int(np.searchsorted(self.at, at, side="right")) - 1
        return float(self.value[index]) if index >= 0 else float("nan")


@final
@dataclass(frozen=True, kw_only=True)
class Crossing:
    """When a running mean first was at its target, as far as evaluations can tell.

    Attributes:
        at: of the evaluation, ms.
        after: of the evaluation before, ms: it was not reached then. 0 if there was none.
        window_ms: from the first to the last evaluation that the running mean holds, and one spacing more, ms.
        version: server steps applied.
    """

    at: int
    after: int
    window_ms: int
    version: int


def crossing(curve: Curve, target: Target, window: int = 1) -> Crossing | None:
    """The first crossing by the mean of the newest `window` evaluations; None if there is none."""
    smooth = curve.smooth(window)
    index = _first_index(smooth, target)
    if index is None:
        return None
    opened = max(index - 1, 0)  # of `curve`: the evaluation before those that the mean holds
    at = int(smooth.at[index])
    after = int(curve.at[index + window - 2]) if index + window > 1 else 0
    return Crossing(at=at, after=after, window_ms=at - int(curve.at[opened]), version=int(smooth.version[index]))


def first_crossing(curve: Curve, target: Target, *, interpolate: bool = False) -> float | None:
    """When a curve first is at its target or better, ms since virtual time 0; None when it never is.

    Args:
        curve: the metric.
        target: a first value at it or better crosses at its own instant.
        interpolate: on the line between the value before the crossing and the crossing.
    """
    index = _first_index(curve, target)
    if index is None:
        return None
    if not interpolate or index == 0 or not np.isfinite(curve.value[index - 1 : index + 1]).all():
        return float(curve.at[index])
    before, reached = curve.value[index - 1], curve.value[index]
    share = (target.value - before) / (reached - before)
    return float(curve.at[index - 1] + share * (curve.at[index] - curve.at[index - 1]))


def version_at_crossing(curve: Curve, target: Target) -> int | None:
    """The number of server steps after which a curve first is at its target; None when it never is."""
    index = _first_index(curve, target)
    return None if index is None else int(curve.version[index])


def _first_index(curve: Curve, target: Target) -> int | None:
    reached = np.flatnonzero(target.reached(curve.value))
    return int(reached[0]) if len(reached) else None
