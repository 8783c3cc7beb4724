"""FedNova: updates normalised by the work behind them.

Wang et al., Tackling the Objective Inconsistency Problem in Heterogeneous Federated Optimization, NeurIPS 2020. With
Delta_k what client k gained and a_k the coefficients of its gradients, client k sends Delta_k / norm1(a_k) and
norm1(a_k); the server adds tau_eff sum_k p_k Delta_k / norm1(a_k), where tau_eff = sum_k p_k norm1(a_k) (equation 9).
The proximal rule of the authors' code uses sum_k p_k tau_k for tau_eff instead; here it is norm1 throughout.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING, final

import torch
from typing_extensions import override

from evsim.algorithms import tree
from evsim.algorithms.base import Carry, ServerOptimizer, State, StepInfo, Update, Wire, Wires
from evsim.algorithms.local_sgd import LocalSgd, effective_steps
from evsim.base.errors import require

if TYPE_CHECKING:
    from evsim.algorithms.tree import Payload, Tree


@final
@dataclass(frozen=True, kw_only=True)
class NovaSgd(LocalSgd):
    """Local SGD, with momentum or a proximal pull if wanted, that sends its normalised update and norm1(a): 1x + 4 B.

    A client that took no step sends zero with norm1(a) = 0.

    Attributes:
        mu: strength of FedProx's pull; 0 for none.
    """

    sends = frozenset({"model", "buffers", "nova"})

    mu: float = 0.0

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        good = isfinite(self.mu) and 0 <= self.mu * self.learning_rate <= 1
        require(good, "mu must be >= 0 and mu x learning_rate <= 1", mu=self.mu, learning_rate=self.learning_rate)

    @override
    def wires(self, model: Wires) -> Wires:
        return {**model, "nova": {"norm1": Wire(size=1, sent=1)}}

    @override
    def direction(self, grads: Tree, carry: Carry, received: Payload, state: State) -> Tree:
        if self.mu == 0.0:
            return grads
        return tree.add_scaled(grads, tree.sub(carry["train"], received["model"]), self.mu)

    @override
    def report(self, delta: Tree, carry: Carry, received: Payload, state: State, steps: torch.Tensor) -> Update:
        norm1 = effective_steps(steps, self.momentum, self.rate(carry) * self.mu, nesterov=self.nesterov)
        return Update({"model": tree.scale(delta, 1 / norm1.clamp(min=1.0)), "nova": {"norm1": norm1}}, state, {})


@final
@dataclass(frozen=True, kw_only=True)
class FedNova(ServerOptimizer):
    """W <- w + eta tau_eff D, optionally with heavy-ball momentum on tau_eff D.

    Attributes:
        learning_rate: eta.
        momentum: beta; 0 for none.
    """

    needs = frozenset({"model", "nova"})
    keeps = frozenset({"velocity"})

    learning_rate: float = 1.0
    momentum: float = 0.0

    def __post_init__(self) -> None:
        rate = self.learning_rate
        require(isfinite(rate) and rate > 0, "learning_rate must be > 0", learning_rate=rate)
        require(0 <= self.momentum < 1, "0 <= momentum < 1 must hold", momentum=self.momentum)

    @override
    def init(self, model: Tree) -> State:
        return {"velocity": tree.zeros(model)} if self.momentum else {}

    @override
    def apply(self, server: State, merged: Payload, info: StepInfo) -> State:
        move = tree.scale(merged["model"], merged["nova"]["norm1"])
        if self.momentum:
            move = tree.add_scaled(move, server["velocity"], self.momentum)
            server = {**server, "velocity": move}
        return {**server, "model": tree.add_scaled(server["model"], move, self.learning_rate)}
