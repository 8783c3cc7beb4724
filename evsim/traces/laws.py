"""Named distributions of a positive quantity over devices: a rate, a cost, a delay.

Every law is its inverse distribution function, applied to one draw from (0, 1) per device. So two laws of one seed rank
the devices alike, and a scenario that changes the law alone compares the same devices.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np
from typing_extensions import override

from evsim.base.errors import require
from evsim.base.vocabulary import FloatArray, IntArray

_MOST_RANKS = 1_000_000


class Law(ABC):
    """How a quantity is spread over devices.

    Attributes:
        reaches_zero: the density at 0 is above 0, so that the reciprocal has no mean: a rate needs a lower bound.
        joint: quantities with such a law share their draw: a device has the same share in each of them.
    """

    reaches_zero: ClassVar[bool] = False
    joint: ClassVar[bool] = False

    @abstractmethod
    def quantile(self, share: FloatArray) -> FloatArray:
        """The value below which this share of the devices lies, in (0, 1); any shape."""


@final
@dataclass(frozen=True, kw_only=True)
class HalfNormal(Law):
    """The absolute value of a draw from N(0, scale): mean scale x sqrt(2 / pi).

    The law of training times in FedBuff's experiments (Nguyen et al. 2022).

    Attributes:
        scale: standard deviation of the normal law.
    """

    reaches_zero: ClassVar[bool] = True

    scale: float

    def __post_init__(self) -> None:
        _require_positive("scale", self.scale)

    @override
    def quantile(self, share: FloatArray) -> FloatArray:
        from scipy.special import ndtri

        return np.asarray(self.scale * ndtri((1 + share) / 2))


@final
@dataclass(frozen=True, kw_only=True)
class Exponential(Law):
    """Exponential: P(X > x) = e^(-x / mean).

    Attributes:
        mean: mean, and standard deviation.
    """

    reaches_zero: ClassVar[bool] = True

    mean: float

    def __post_init__(self) -> None:
        _require_positive("mean", self.mean)

    @override
    def quantile(self, share: FloatArray) -> FloatArray:
        return np.asarray(-self.mean * np.log1p(-share))


@final
@dataclass(frozen=True, kw_only=True)
class LogNormal(Law):
    """The logarithm is normal: mean median x e^(sigma^2 / 2).

    Attributes:
        median: half of the devices lie below.
        sigma: standard deviation of the logarithm; 0: all devices are equal.
    """

    median: float
    sigma: float

    def __post_init__(self) -> None:
        _require_positive("median", self.median)
        require(math.isfinite(self.sigma) and self.sigma >= 0, "sigma must be >= 0", sigma=self.sigma)

    @override
    def quantile(self, share: FloatArray) -> FloatArray:
        from scipy.special import ndtri

        with np.errstate(over="ignore"):  # too large is infinite, which no device may be
            return np.asarray(self.median * np.exp(self.sigma * ndtri(share)))


@final
@dataclass(frozen=True, kw_only=True)
class Zipf(Law):
    """Whole multiples k of a unit with P(k) proportional to k^-exponent, k = 1 .. ranks: a few devices are far out.

    Attributes:
        unit: the smallest value, that of most devices.
        exponent: above 0; smaller is heavier.
        ranks: the largest multiple.
    """

    unit: float
    exponent: float
    ranks: int = 100

    def __post_init__(self) -> None:
        _require_positive("unit", self.unit)
        _require_positive("exponent", self.exponent)
        require(1 <= self.ranks <= _MOST_RANKS, f"1 <= ranks <= {_MOST_RANKS} must hold", ranks=self.ranks)

    @override
    def quantile(self, share: FloatArray) -> FloatArray:
        return np.asarray(self.unit * (1.0 + _which(np.arange(1.0, self.ranks + 1) ** -self.exponent, share)))


@final
@dataclass(frozen=True, kw_only=True)
class Tiers(Law):
    """Some kinds of devices, each with one value; the tiers of all quantities share their draw.

    So a device of the first tier of one quantity is of the first tier of every other with the same shares.

    Attributes:
        values: of each tier, > 0.
        shares: of the devices in each tier, relative to each other; empty: equal.
    """

    joint: ClassVar[bool] = True

    values: tuple[float, ...]
    shares: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        require(len(self.values) > 0, "at least one value is needed", values=self.values)
        for value in self.values:
            _require_positive("values", value)
        fits = not self.shares or len(self.shares) == len(self.values)
        require(fits, "shares must be as many as values", values=self.values, shares=self.shares)
        usable = all(math.isfinite(share) and share >= 0 for share in self.shares)
        usable &= not self.shares or 0 < sum(self.shares) < math.inf
        require(usable, "shares must be finite numbers >= 0, one of them > 0", shares=self.shares)

    @override
    def quantile(self, share: FloatArray) -> FloatArray:
        weights = np.array(self.shares or [1.0] * len(self.values))
        return np.array(self.values)[_which(weights, share)]


#: The laws by the name that a scenario gives them.
LAWS: dict[str, type[Law]] = {
    "half_normal": HalfNormal,
    "exponential": Exponential,
    "log_normal": LogNormal,
    "zipf": Zipf,
    "tiers": Tiers,
}


def _which(weights: FloatArray, share: FloatArray) -> IntArray:
    """Number of the outcome at each share, of outcomes with these relative weights; never one of weight 0."""
    cuts = np.cumsum(weights)
    last = np.flatnonzero(weights)[-1]
    return np.asarray(np.minimum(np.searchsorted(cuts, share * cuts[-1], side="right"), last))


def _require_positive(name: str, value: float) -> None:
    require(math.isfinite(value) and value > 0, f"{name} must be finite and > 0", **{name: value})
