"""SCAFFOLD: control variates against client drift.

Karimireddy et al., SCAFFOLD: Stochastic Controlled Averaging for Federated Learning, ICML 2020, algorithm 1. A client
steps along g - c_k + c; after its K_k steps it takes

    option 1: c_k+ = grad F_k(w), one more pass over its samples, or
    option 2: c_k+ = c_k - c + (w - y_k) / (K_k eta_l),

and sends Delta y and Delta c = c_k+ - c_k. The server adds eta_g times the mean of Delta y, and |S|/N times the
*uniform* mean of Delta c; N counts the clients with data, the others have no control. All controls start at 0, so the
first round is FedAvg. K_k are the steps really executed; with local momentum it is norm1(a), the effective number of
steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING, Any, Literal, final

import numpy as np
import torch
from typing_extensions import override

from evsim.algorithms import tree
from evsim.algorithms.base import (
    Broadcast,
    Carry,
    Opening,
    OpeningPass,
    ServerOptimizer,
    State,
    StepInfo,
    Update,
    Wires,
)
from evsim.algorithms.company import in_rounds
from evsim.algorithms.local_sgd import LocalSgd, effective_steps
from evsim.base.caveat import Caveat
from evsim.base.errors import require
from evsim.cost.work import Work

if TYPE_CHECKING:
    from collections.abc import Iterator

    from evsim.algorithms.tree import Payload, Tree
    from evsim.base.vocabulary import IntArray


@final
@dataclass(frozen=True, kw_only=True)
class WithControl(Broadcast):
    """The whole model, its buffers and the server's control variate: 2x."""

    sends = frozenset({"model", "buffers", "control"})

    @override
    def wires(self, model: Wires) -> Wires:
        return {**model, "control": model["model"]}

    @override
    def send(self, server: State) -> Payload:
        return {name: server[name] for name in ("model", "buffers", "control")}


@final
@dataclass(frozen=True, kw_only=True)
class ScaffoldSgd(LocalSgd, OpeningPass):
    """Local SGD along g - c_k + c; sends the model's and the control's update: 2x.

    A client without a single step keeps its control.

    Attributes:
        option: how the new control is found.
    """

    receives = frozenset({"model", "buffers", "control"})
    sends = frozenset({"model", "buffers", "control"})

    option: Literal[1, 2] = 2

    @override
    def caveats(self, scenario: Any) -> Iterator[Caveat]:
        if not in_rounds(scenario.aggregation):
            yield Caveat(
                "scaffold_not_in_rounds",
                "SCAFFOLD's analysis assumes that the clients of a step start from the same model; under this "
                "aggregation they do not, so its guarantee does not carry over",
                remedy='use aggregation kind = "synchronous"',
            )

    @property
    @override
    def opening(self) -> Opening:
        return "gradient" if self.option == 1 else "none"

    @override
    def opened(self, carry: Carry, loss: torch.Tensor, gradient: Tree) -> Carry:
        return {**carry, "opening": gradient}

    @override
    def overhead(self, n_samples: IntArray) -> Work:
        nothing = np.zeros_like(n_samples)
        return Work(n_samples if self.option == 1 else nothing, nothing)

    @override
    def wires(self, model: Wires) -> Wires:
        return {**model, "control": model["model"]}

    @override
    def init_client(self, received: Payload) -> State:
        return {"control": tree.zeros(received["model"])}

    @override
    def direction(self, grads: Tree, carry: Carry, received: Payload, state: State) -> Tree:
        return tree.add(grads, tree.sub(received["control"], state["control"]))

    @override
    def report(self, delta: Tree, carry: Carry, received: Payload, state: State, steps: torch.Tensor) -> Update:
        worked = (steps > 0).double()
        if self.option == 1:
            gain = tree.sub(carry["opening"], state["control"])
        else:
            moved = self.rate(carry) * effective_steps(steps, self.momentum, nesterov=self.nesterov).clamp(min=1.0)
            gain = tree.sub(tree.scale(delta, -1 / moved), received["control"])
        gain = tree.scale(gain, worked)
        return Update({"model": delta, "control": gain}, {"control": tree.add(state["control"], gain)}, {})


@final
@dataclass(frozen=True, kw_only=True)
class Scaffold(ServerOptimizer):
    """W <- w + eta_g D; c <- c + |S|/N Delta c.

    Attributes:
        learning_rate: eta_g.
    """

    needs = frozenset({"model", "control"})
    keeps = frozenset({"control"})

    learning_rate: float = 1.0

    def __post_init__(self) -> None:
        rate = self.learning_rate
        require(isfinite(rate) and rate > 0, "learning_rate must be > 0", learning_rate=rate)

    @override
    def init(self, model: Tree) -> State:
        return {"control": tree.zeros(model)}

    @override
    def apply(self, server: State, merged: Payload, info: StepInfo) -> State:
        control = tree.add_scaled(server["control"], merged["control"], info.n_reports / info.n_clients)
        model = tree.add_scaled(server["model"], merged["model"], self.learning_rate)
        return {**server, "model": model, "control": control}
