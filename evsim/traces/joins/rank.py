"""Devices that go with the data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, final

import numpy as np
from typing_extensions import override

from evsim.base.errors import require
from evsim.base.vocabulary import IntArray
from evsim.traces.joins.base import Axis, Join, Score, draw

if TYPE_CHECKING:
    from numpy.random import Generator


@final
@dataclass(frozen=True, kw_only=True)
class RankJoin(Join):
    """A chosen Spearman correlation between a client's data size and its device's speed or online share.

    Devices are drawn as by `Sample`, then dealt by a Gaussian copula: Pearson 2 sin(pi rho / 6) of the normal scores
    gives Spearman rho of the ranks (Kruskal 1958). Clients of equal size are ranked at random. The other axis is drawn
    as by `Sample`.

    Attributes:
        correlation: from -1 (clients with much data have the worst devices) to 1.
        with_: what the data size correlates with.
    """

    varies_clones: ClassVar[bool] = True

    correlation: float
    with_: Axis = "speed"

    def __post_init__(self) -> None:
        require(-1 <= self.correlation <= 1, "correlation must lie in [-1, 1]", correlation=self.correlation)
        require(self.with_ in ("availability", "speed"), "with_ must be 'availability' or 'speed'", with_=self.with_)

    @override
    def devices(
        self, n_clients: int, n_devices: int, sizes: IntArray, score: Score, stream: Generator
    ) -> tuple[IntArray, IntArray]:
        device, clone = draw(n_clients, n_devices, stream)
        if score.axis != self.with_:
            return device, clone
        by_score = np.lexsort((stream.random(n_clients), score.value[device]))
        by_size = np.lexsort((stream.random(n_clients), sizes))
        order = np.empty(n_clients, np.int64)
        order[_correlated_order(by_size, self.correlation, stream)] = by_score
        return device[order], clone[order]


def _correlated_order(by_size: IntArray, correlation: float, stream: Generator) -> IntArray:
    """Clients from the worst to the best device, given clients from the least to the most data."""
    from scipy.special import ndtri

    n = len(by_size)
    pearson = 2 * np.sin(np.pi * correlation / 6)
    mixed = pearson * ndtri((np.arange(n) + 0.5) / n) + np.sqrt(max(0.0, 1 - pearson**2)) * stream.standard_normal(n)
    return by_size[np.argsort(mixed, kind="stable")]
