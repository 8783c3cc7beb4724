"""The weighted mean of the updates: FedAvg's merge."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from typing_extensions import override

from evsim.algorithms import tree
from evsim.algorithms.base import Merge, ReportMeta, State, StepInfo

if TYPE_CHECKING:
    from evsim.algorithms.tree import Payload

Sums = dict[str, tuple["tree.Tree", float]]  # payload -> (weighted sum so far, sum of weights so far)


@final
@dataclass(frozen=True, kw_only=True)
class Mean(Merge[Sums]):
    """sum_k w_k u_k / sum_k w_k for each payload; one accumulator, however many updates."""

    style = "mean"

    @property
    @override
    def minimum_updates(self) -> int:
        return 1

    @override
    def init(self, server: State, info: StepInfo) -> Sums:
        return {}

    @override
    def add(self, acc: Sums, update: Payload, weight: dict[str, float], meta: ReportMeta) -> Sums:
        for name, leaves in update.items():
            w = weight.get(name, weight[""])
            if name in acc:
                total, weights = acc[name]
                tree.accumulate(total, leaves, w)
                acc[name] = (total, weights + w)
            else:
                acc[name] = (tree.scale(leaves, w), w)
        return acc

    @override
    def finish(self, acc: Sums, server: State, info: StepInfo) -> Payload:
        return {name: tree.scale(total, 1.0 / weight) for name, (total, weight) in acc.items() if weight > 0}
