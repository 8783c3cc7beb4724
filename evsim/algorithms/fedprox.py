"""FedProx: local SGD that is pulled towards the model it received.

Li et al., Federated Optimization in Heterogeneous Networks, MLSys 2020, equation 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING, final

from typing_extensions import override

from evsim.algorithms import tree
from evsim.algorithms.base import Carry, State
from evsim.algorithms.local_sgd import LocalSgd
from evsim.base.errors import require

if TYPE_CHECKING:
    from evsim.algorithms.tree import Payload, Tree


@final
@dataclass(frozen=True, kw_only=True)
class FedProx(LocalSgd):
    """The gradient of ``F_k(y) + mu/2 ||y - w||^2``, inside the optimizer step; mu = 0 is FedAvg.

    The pull is not part of the reported loss, and its sign is towards w: a step moves y by ``-rate mu (y - w)``.

    Attributes:
        mu: strength of the pull; the paper tries 0.001, 0.01, 0.1 and 1.
    """

    mu: float

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        require(isfinite(self.mu) and self.mu >= 0, "mu must be >= 0", mu=self.mu)

    @override
    def direction(self, grads: Tree, carry: Carry, received: Payload, state: State) -> Tree:
        return tree.add_scaled(grads, tree.sub(carry["train"], received["model"]), self.mu)
