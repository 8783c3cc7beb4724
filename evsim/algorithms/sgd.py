"""Local SGD: the client of FedAvg.

McMahan et al., Communication-Efficient Learning of Deep Networks from Decentralized Data, AISTATS 2017, algorithm 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from typing_extensions import override

from evsim.algorithms.base import Carry, State
from evsim.algorithms.local_sgd import LocalSgd

if TYPE_CHECKING:
    from evsim.algorithms.tree import Payload, Tree


@final
@dataclass(frozen=True, kw_only=True)
class Sgd(LocalSgd):
    """Mini-batch SGD on the client's own samples."""

    @override
    def direction(self, grads: Tree, carry: Carry, received: Payload, state: State) -> Tree:
        return grads
