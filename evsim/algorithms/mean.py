"""The weighted mean of the updates: FedAvg's merge."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from typing_extensions import override

from evsim.algorithms.base import State, StepInfo, SummingMerge
from evsim.algorithms.sums import WeightedSums

if TYPE_CHECKING:
    from evsim.algorithms.tree import Payload


@final
@dataclass(frozen=True, kw_only=True)
class Mean(SummingMerge):
    """sum_k w_k u_k / sum_k w_k for each payload; one accumulator, however many updates."""

    style = "mean"
    merges_parts = True

    @property
    @override
    def minimum_updates(self) -> int:
        return 1

    @override
    def finish(self, acc: WeightedSums, server: State, info: StepInfo) -> Payload:
        return acc.means()
