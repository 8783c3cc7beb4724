"""FedDyn: every client's objective gets a linear and a quadratic term, so that local optima meet the global one.

Acar et al., Federated Learning Based on Dynamic Regularization, ICLR 2021 (arXiv 2111.04263), algorithm 1. Client k
minimizes F_k(y) - <h_k, y> + alpha/2 ||y - w||^2 and takes h_k <- h_k - alpha (y_k - w). The server keeps

    h <- h - (alpha / N) sum_{k in S} (y_k - w)    and sets    w <- mean_{k in S} y_k - h / alpha.

N counts the clients with data. All h start at 0, so the first round is FedAvg with a pull (FedProx) and a step of the
server. Means are uniform; a client whose task is lost keeps its h_k.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING, Any, final

from typing_extensions import override

from evsim.algorithms import tree
from evsim.algorithms.base import Carry, ServerOptimizer, State, StepInfo, Update
from evsim.algorithms.company import in_rounds, name_of
from evsim.algorithms.local_sgd import LocalSgd
from evsim.algorithms.weighting import EqualWeights
from evsim.base.caveat import Caveat
from evsim.base.errors import Problem, require

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch

    from evsim.algorithms.tree import Payload, Tree


@final
@dataclass(frozen=True, kw_only=True)
class FedDynSgd(LocalSgd):
    """Local SGD along g - h_k + alpha (y - w); keeps h_k, sends the model: 1x.

    Attributes:
        alpha: strength of both terms; the paper tries 0.001, 0.01 and 0.1. The server optimizer needs the same.
    """

    alpha: float

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        _check(self.alpha)

    @override
    def problems(self, scenario: Any) -> Iterator[Problem]:
        server = scenario.server_optimizer
        if getattr(server, "alpha", None) != self.alpha or not isinstance(server, FedDyn):
            given = f"{name_of(server)} beside client rule FedDynSgd with alpha = {self.alpha}"
            yield Problem(
                "server_optimizer", given, f'kind = "feddyn" with alpha = {self.alpha}: h means the same in both'
            )

    @override
    def init_client(self, received: Payload) -> State:
        return {"linear": tree.zeros(received["model"])}

    @override
    def direction(self, grads: Tree, carry: Carry, received: Payload, state: State) -> Tree:
        pulled = tree.add_scaled(grads, tree.sub(carry["train"], received["model"]), self.alpha)
        return tree.sub(pulled, state["linear"])

    @override
    def report(self, delta: Tree, carry: Carry, received: Payload, state: State, steps: torch.Tensor) -> Update:
        linear = tree.add_scaled(state["linear"], delta, -self.alpha)
        return Update({"model": delta}, {"linear": linear}, {})


@final
@dataclass(frozen=True, kw_only=True)
class FedDyn(ServerOptimizer):
    """H <- h - alpha |S| / N D; w <- w + D - h / alpha.

    Attributes:
        alpha: as the client rule's.
    """

    keeps = frozenset({"linear"})

    alpha: float

    def __post_init__(self) -> None:
        _check(self.alpha)

    @override
    def problems(self, scenario: Any) -> Iterator[Problem]:
        if not isinstance(scenario.client_rule, FedDynSgd):
            yield Problem("client_rule", name_of(scenario.client_rule), 'kind = "feddyn": FedDyn is both halves')
        if not isinstance(scenario.weighting, EqualWeights):
            yield Problem("weighting", name_of(scenario.weighting), "'uniform': FedDyn's means are over clients")

    @override
    def caveats(self, scenario: Any) -> Iterator[Caveat]:
        if not in_rounds(scenario.aggregation):
            yield Caveat(
                "feddyn_not_in_rounds",
                "FedDyn's analysis assumes that the clients of a step start from the same model; under this "
                "aggregation they do not, so its guarantee does not carry over",
                remedy='use aggregation kind = "synchronous"',
            )

    @override
    def init(self, model: Tree) -> State:
        return {"linear": tree.zeros(model)}

    @override
    def apply(self, server: State, merged: Payload, info: StepInfo) -> State:
        share = info.n_reports / info.n_clients
        linear = tree.add_scaled(server["linear"], merged["model"], -self.alpha * share)
        mean = tree.add(server["model"], merged["model"])
        return {**server, "model": tree.add_scaled(mean, linear, -1 / self.alpha), "linear": linear}


def _check(alpha: float) -> None:
    require(isfinite(alpha) and alpha > 0, "alpha must be > 0", alpha=alpha)
