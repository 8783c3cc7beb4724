"""Links that are slower in the evening than at night."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, final

import numpy as np
from typing_extensions import override

from evsim.base.errors import require
from evsim.base.units import MS_PER_DAY, MS_PER_HOUR, Duration
from evsim.cost.network import Network, Way
from evsim.cost.series import Series

if TYPE_CHECKING:
    from evsim.base.vocabulary import FloatArray, IntArray


@final
@dataclass(frozen=True, kw_only=True)
class Hourly(Network):
    """Every link has its device's rate times a factor of the time of day; the integral over a transfer is exact.

    Attributes:
        factors: of equal parts of the period, from midnight on: 24 of them are hours of the day.
        period: after which the factors repeat; 168 factors and "7d" are the hours of a week.
        zones: hours by which clients' clocks are ahead of the scenario's; client i lives in zone i modulo their number.
    """

    factors: tuple[float, ...]
    period: Duration = MS_PER_DAY
    zones: tuple[float, ...] = (0.0,)

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        n, worst = len(self.factors), min(self.factors, default=0.0)
        require(n > 0, "factors must hold at least one number", factors=list(self.factors))
        expected = "factors must be finite and > 0; a link that carries nothing is a matter of [[actor]]"
        require(worst > 0 and max(self.factors) < np.inf, expected, least=worst)
        require(self.period >= n, "period must be at least 1 ms for each factor", period=self.period, factors=n)
        require(len(self.zones) > 0, "zones must hold at least one number", zones=list(self.zones))
        require(bool(np.isfinite(self.zones).all()), "zones must be finite", zones=list(self.zones))

    @override
    def lasts_ms(self, way: Way, clients: IntArray, begin: IntArray, alone: FloatArray) -> FloatArray:
        return self._series.duration(np.zeros_like(clients), self._local(clients, begin), alone)

    @override
    def done_ms(self, way: Way, clients: IntArray, begin: IntArray, spent: FloatArray) -> FloatArray:
        return self._series.amount(np.zeros_like(clients), self._local(clients, begin), spent)

    def _local(self, clients: IntArray, begin: IntArray) -> FloatArray:
        """Instants on the clients' own clocks, ms."""
        return np.asarray(begin + np.array(self.zones)[clients % len(self.zones)] * MS_PER_HOUR)

    @property
    def _series(self) -> Series:
        return _series(self.factors, self.period)


@lru_cache
def _series(factors: tuple[float, ...], period: int) -> Series:
    return Series.of([(np.arange(len(factors)) * (period / len(factors)), factors, period)])
