"""q-FedAvg: clients with a high loss count more.

Li et al., Fair Resource Allocation in Federated Learning, ICLR 2020, algorithm 2. With L = 1 / eta_l and
d_k = L (w - y_k), client k sends F_k^q d_k and h_k = q F_k^(q-1) ||d_k||^2 + L F_k^q; the server subtracts
sum_k F_k^q d_k / sum_k h_k. F_k is the loss of the *received* model on the client's data, before training, as the paper
has it; public code uses one global loss, the training loss or a moving average of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING, final

import numpy as np
import torch
from typing_extensions import override

from evsim.algorithms import tree
from evsim.algorithms.base import Carry, Opening, OpeningPass, ServerOptimizer, State, StepInfo, Update, Wire, Wires
from evsim.algorithms.local_sgd import LocalSgd
from evsim.base.errors import require
from evsim.cost.work import Work

if TYPE_CHECKING:
    from evsim.algorithms.tree import Payload, Tree
    from evsim.base.vocabulary import IntArray

_FLOOR = 1e-10  # F = 0 with q < 1 would divide by zero


@final
@dataclass(frozen=True, kw_only=True)
class FairSgd(LocalSgd, OpeningPass):
    """Local SGD that sends F^q L (y - w), the descent direction, and h: 1x + 4 B, and one forward pass more.

    Attributes:
        q: how much fairness; 0 is FedAvg with uniform weights.
    """

    sends = frozenset({"model", "buffers", "fair"})

    q: float

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        require(isfinite(self.q) and self.q >= 0, "q must be >= 0", q=self.q)

    @property
    @override
    def opening(self) -> Opening:
        return "loss"

    @override
    def opened(self, carry: Carry, loss: torch.Tensor, gradient: Tree) -> Carry:
        return {**carry, "opening": {"loss": loss}}

    @override
    def overhead(self, n_samples: IntArray) -> Work:
        return Work(np.zeros_like(n_samples), n_samples)

    @override
    def wires(self, model: Wires) -> Wires:
        return {**model, "fair": {"h": Wire(size=1, sent=1)}}

    @override
    def direction(self, grads: Tree, carry: Carry, received: Payload, state: State) -> Tree:
        return grads

    @override
    def report(self, delta: Tree, carry: Carry, received: Payload, state: State, steps: torch.Tensor) -> Update:
        loss = carry["opening"]["loss"].double() + _FLOOR
        lipschitz = 1 / (torch.zeros_like(loss) + self.rate(carry))
        move = tree.scale(delta, lipschitz)
        h = self.q * loss ** (self.q - 1) * tree.norm(move, like=loss) ** 2 + lipschitz * loss**self.q
        return Update({"model": tree.scale(move, loss**self.q), "fair": {"h": h}}, state, {})


@final
@dataclass(frozen=True, kw_only=True)
class QFedAvg(ServerOptimizer):
    """W <- w + eta D / H, with D the mean of F^q L (y - w) and H the mean of h; eta = 1 is the paper.

    Attributes:
        learning_rate: eta.
    """

    needs = frozenset({"model", "fair"})

    learning_rate: float = 1.0

    def __post_init__(self) -> None:
        rate = self.learning_rate
        require(isfinite(rate) and rate > 0, "learning_rate must be > 0", learning_rate=rate)

    @override
    def init(self, model: Tree) -> State:
        return {}

    @override
    def apply(self, server: State, merged: Payload, info: StepInfo) -> State:
        rate = self.learning_rate / merged["fair"]["h"]
        return {**server, "model": tree.add_scaled(server["model"], merged["model"], rate)}
