"""The server's SGD: adds the merged update times a learning rate."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING, final

from typing_extensions import override

from evsim.algorithms import tree
from evsim.algorithms.base import ServerOptimizer, State, StepInfo
from evsim.base.errors import require

if TYPE_CHECKING:
    from evsim.algorithms.tree import Payload, Tree


@final
@dataclass(frozen=True, kw_only=True)
class ServerSgd(ServerOptimizer):
    """W + eta D, where D is the merged update; eta = 1 is FedAvg (McMahan et al. 2017)."""

    learning_rate: float = 1.0

    def __post_init__(self) -> None:
        rate = self.learning_rate
        require(isfinite(rate) and rate > 0, "learning_rate must be > 0", learning_rate=rate)

    @override
    def init(self, model: Tree) -> State:
        return {}

    @override
    def apply(self, server: State, merged: Payload, info: StepInfo) -> State:
        return {**server, "model": tree.add_scaled(server["model"], merged["model"], self.learning_rate)}
