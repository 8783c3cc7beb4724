"""Weightings that discount stale reports, for buffered aggregation and for late reports kept as stale updates.

tau counts server steps between a report's model version and the version it is merged into; 0 is fresh. A discount stops
at 1e-150: far below anything that counts beside a fresher report, but reports that are all as stale still have a mean.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING, Any, Literal, final

import numpy as np
from typing_extensions import override

from evsim.algorithms.base import Reports, Weighting
from evsim.algorithms.company import never_stale
from evsim.algorithms.refl import Refl
from evsim.base.caveat import Caveat
from evsim.base.errors import require

if TYPE_CHECKING:
    from collections.abc import Iterator

    from evsim.base.vocabulary import FloatArray, IntArray

Base = Literal["uniform", "samples"]
_LEAST = 1e-150  # whose products with updates and sums are still far from underflow


class Discount(Weighting):
    """A weighting that means something only where reports can be stale."""

    @override
    def caveats(self, scenario: Any) -> Iterator[Caveat]:
        if never_stale(scenario.aggregation) and not isinstance(scenario.merge, Refl):  # which makes its own weights
            yield Caveat(
                "nothing_to_discount",
                "no report of a round is stale: the weighting has nothing to discount",
                remedy='set aggregation.late_reports = "keep"',
            )


@final
@dataclass(frozen=True, kw_only=True)
class PolynomialStaleness(Discount):
    """s = (1 + tau)^-a: FedBuff's 1/sqrt(1 + tau) at a = 0.5 (Nguyen et al. 2022); DynSGD at a = 1 (Jiang et al. 2017).

    Attributes:
        exponent: a.
        base: what a fresh report weighs: 1, or its number of samples.
    """

    exponent: float = 0.5
    base: Base = "uniform"

    def __post_init__(self) -> None:
        require(isfinite(self.exponent) and self.exponent >= 0, "exponent must be >= 0", exponent=self.exponent)

    @override
    def weights(self, reports: Reports) -> dict[str, FloatArray]:
        return _weights(self.base, reports.samples, np.power(1.0 + reports.staleness, -self.exponent))


@final
@dataclass(frozen=True, kw_only=True)
class HingeStaleness(Discount):
    """s = 1 if tau <= b, else 1 / (a (tau - b) + 1) (Xie et al. 2019, section 5).

    Attributes:
        slope: a.
        tolerance: b.
        base: what a fresh report weighs: 1, or its number of samples.
    """

    slope: float = 10.0
    tolerance: int = 4
    base: Base = "uniform"

    def __post_init__(self) -> None:
        require(isfinite(self.slope) and self.slope > 0, "slope must be > 0", slope=self.slope)
        require(self.tolerance >= 0, "tolerance must be >= 0", tolerance=self.tolerance)

    @override
    def weights(self, reports: Reports) -> dict[str, FloatArray]:
        return _weights(
            self.base, reports.samples, 1.0 / (self.slope * np.maximum(reports.staleness - self.tolerance, 0) + 1.0)
        )


@final
@dataclass(frozen=True, kw_only=True)
class ExponentialStaleness(Discount):
    """s = e^-(1 + tau), and 1 for fresh reports: AdaSGD as REFL compares with it (Abdelmoniem et al. 2023).

    Attributes:
        base: what a fresh report weighs: 1, or its number of samples.
    """

    base: Base = "uniform"

    @override
    def weights(self, reports: Reports) -> dict[str, FloatArray]:
        return _weights(
            self.base, reports.samples, np.where(reports.staleness > 0, np.exp(-(1.0 + reports.staleness)), 1.0)
        )


def _weights(base: Base, samples: IntArray, discount: FloatArray) -> dict[str, FloatArray]:
    fresh = samples.astype(np.float64) if base == "samples" else np.ones(len(samples))
    return {"": fresh * np.maximum(discount, _LEAST)}
