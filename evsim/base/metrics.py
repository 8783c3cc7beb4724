"""What a metric is: which way is better, and between which bounds it lies; and a target, which is crossed that way.

A metric that is not in `METRICS` has no direction here, so whoever asks for a target says it: at least, or at most.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import inf, isfinite
from typing import final

import numpy as np
from typing_extensions import override

from evsim.base.errors import require
from evsim.base.vocabulary import BoolArray, FloatArray

_TOP = re.compile(r"top[1-9]\d*_accuracy")
_OVER_CLIENTS = ("_mean", "_p10", "_p90")  # a metric's spread over clients; of `_std` neither way is better


@final
@dataclass(frozen=True, kw_only=True)
class Metric:
    """A number that says how good a model is.

    Attributes:
        larger_is_better: its direction.
        low, high: its bounds; infinite where it has none.
    """

    larger_is_better: bool
    low: float = -inf
    high: float = inf


_SHARE = Metric(larger_is_better=True, low=0.0, high=1.0)
_ERROR = Metric(larger_is_better=False, low=0.0)

#: By name, as the column `metric` of the table `evaluations` has it.
METRICS: dict[str, Metric] = {
    **dict.fromkeys(("accuracy", "top5_accuracy", "balanced_accuracy"), _SHARE),
    **dict.fromkeys(("f1", "macro_f1", "precision", "recall", "auc", "average_precision", "iou"), _SHARE),
    "r2": Metric(larger_is_better=True, high=1.0),
    "error_rate": Metric(larger_is_better=False, low=0.0, high=1.0),
    "loss": _ERROR,  # cross-entropy is never negative
    "perplexity": Metric(larger_is_better=False, low=1.0),
    **dict.fromkeys(("mse", "rmse", "mae", "wer", "cer"), _ERROR),
}


def metric_of(name: str) -> Metric | None:
    """What is known of a metric, also of its mean and quantiles over clients; None for an unknown one.

    >>> metric_of("loss_p90").larger_is_better
    False
    """
    plain = next((name.removesuffix(end) for end in _OVER_CLIENTS if name.endswith(end)), name)
    return METRICS.get("top5_accuracy" if _TOP.fullmatch(plain) else plain)


def as_text(name: str, value: float) -> str:
    """A value as people read it: shares with three decimals, others with four digits.

    >>> as_text("accuracy", 0.5), as_text("perplexity", 11.2468)
    ('0.500', '11.25')
    """
    known = metric_of(name)
    return f"{value:.3f}" if known is not None and (known.low, known.high) == (0.0, 1.0) else f"{value:.4g}"


@final
@dataclass(frozen=True, kw_only=True)
class Target:
    """A value that a metric shall reach: at least so much, or at most so much.

    >>> print(Target.of("loss", 0.5), Target(metric="churn", at_most=0.1), sep="; ")
    loss 0.5; churn at most 0.1
    >>> Target.of("accuracy", 93)
    Traceback (most recent call last):
    evsim.base.errors.PolicyError: a target of accuracy must lie in (0, 1], but got target=93; did you mean 0.93?

    Attributes:
        metric: of the test split.
        at_least, at_most: one of them.

    Raises:
        PolicyError: if not one of them is given, if it is the worse way, or if it lies outside of the metric's bounds.
    """

    metric: str = "accuracy"
    at_least: float | None = None
    at_most: float | None = None

    def __post_init__(self) -> None:
        require(
            (self.at_least is None) != (self.at_most is None),
            f"a target of {self.metric} is either at_least or at_most a value",
            at_least=self.at_least,
            at_most=self.at_most,
        )
        require(isfinite(self.value), f"a target of {self.metric} must be finite", target=self.value)
        known = metric_of(self.metric)
        if known is not None:
            self._check(known)

    def _check(self, metric: Metric) -> None:
        better, worse = ("larger", "at_most") if metric.larger_is_better else ("smaller", "at_least")
        require(
            metric.larger_is_better == self.rising,
            f"of {self.metric} {better} is better, so a target of it is never {worse} a value",
            **{worse: self.value},
        )
        low, high = metric.low, metric.high
        within = low < self.value <= high if self.rising else low <= self.value < high
        bounds = f"({low:g}, {high:g}]" if self.rising else f"[{low:g}, {high:g})"
        asked = f"a target of {self.metric} must lie in {bounds}, but got target={self.value:g}"
        percent = (low, high) == (0.0, 1.0) and 1 < self.value <= 100  # noqa: PLR2004  percents are the usual slip
        require(within, f"{asked}; did you mean {self.value / 100:g}?" if percent else asked)

    @classmethod
    def of(cls, metric: str, value: float) -> Target:
        """A target in the metric's own direction.

        Raises:
            PolicyError: if the direction of the metric is not known, or the target is impossible.
        """
        known = metric_of(metric)
        require(
            known is not None,
            f"which way {metric} is better is not known: say at_least or at_most (--at-least, --at-most)",
            target=value,
        )
        rising = known is not None and known.larger_is_better
        return cls(metric=metric, at_least=value) if rising else cls(metric=metric, at_most=value)

    @property
    def value(self) -> float:
        """The value to reach."""
        return next(float(value) for value in (self.at_least, self.at_most) if value is not None)

    @property
    def rising(self) -> bool:
        """Whether it is reached from below."""
        return self.at_least is not None

    def reached(self, values: FloatArray | float) -> BoolArray:
        """Which values are at the target or better; NaN is not."""
        given = np.asarray(values, np.float64)
        found: BoolArray = given >= self.value if self.rising else given <= self.value
        return found

    @override
    def __str__(self) -> str:
        way = "" if metric_of(self.metric) else "at least " if self.rising else "at most "
        return f"{self.metric} {way}{self.value:g}"
