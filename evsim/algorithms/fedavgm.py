"""FedAvgM: the server's SGD with momentum.

Hsu, Qi, Brown, Measuring the Effects of Non-Identical Data Distribution for Federated Visual Classification, 2019,
section 4.2: v <- beta v + D, w <- w + eta v, without dampening; the first v is D.
"""

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
class FedAvgM(ServerOptimizer):
    """Heavy ball or Nesterov momentum on the merged update D.

    Attributes:
        learning_rate: eta.
        momentum: beta.
        nesterov: step along D + beta v instead of v.
    """

    keeps = frozenset({"velocity"})

    learning_rate: float = 1.0
    momentum: float = 0.9
    nesterov: bool = False

    def __post_init__(self) -> None:
        rate = self.learning_rate
        require(isfinite(rate) and rate > 0, "learning_rate must be > 0", learning_rate=rate)
        require(0 <= self.momentum < 1, "0 <= momentum < 1 must hold", momentum=self.momentum)

    @override
    def init(self, model: Tree) -> State:
        return {"velocity": tree.zeros(model)}

    @override
    def apply(self, server: State, merged: Payload, info: StepInfo) -> State:
        velocity = tree.add_scaled(merged["model"], server["velocity"], self.momentum)
        move = tree.add_scaled(merged["model"], velocity, self.momentum) if self.nesterov else velocity
        return {**server, "velocity": velocity, "model": tree.add_scaled(server["model"], move, self.learning_rate)}
