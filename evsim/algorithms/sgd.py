"""Local SGD: the client of FedAvg.

McMahan et al., Communication-Efficient Learning of Deep Networks from Decentralized Data, AISTATS 2017, algorithm 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING, final

import numpy as np
from typing_extensions import override

from evsim.algorithms import tree
from evsim.algorithms.base import Apply, Carry, ClientRule, LossValue, Schedule, State, Update, Wires, cross_entropy
from evsim.errors import require
from evsim.traces.cost import Work

if TYPE_CHECKING:
    import torch

    from evsim.algorithms.tree import Payload, Tree
    from evsim.events import IntArray


@final
@dataclass(frozen=True, kw_only=True)
class Sgd(ClientRule):
    """Plain mini-batch SGD on the client's own samples.

    Attributes:
        learning_rate: step size.
        batch_size: samples per step; the last batch of a pass may be smaller.
        epochs: passes over the client's samples, each in a fresh order; 1 if neither is given.
        steps: number of steps instead of passes.
    """

    learning_rate: float
    batch_size: int = 20
    epochs: int | None = None
    steps: int | None = None

    def __post_init__(self) -> None:
        rate = self.learning_rate
        require(isfinite(rate) and rate > 0, "learning_rate must be > 0", learning_rate=rate)
        _ = self.schedule

    @property
    @override
    def schedule(self) -> Schedule:
        epochs = 1 if self.epochs is None and self.steps is None else self.epochs
        return Schedule(self.batch_size, epochs, self.steps)

    @override
    def work(self, n_samples: IntArray) -> Work:
        return Work(self.schedule.n_processed(n_samples), np.zeros_like(n_samples))

    @override
    def wires(self, model: Wires) -> Wires:
        return model

    @override
    def init_client(self, received: Payload) -> State:
        return {}

    @override
    def begin(self, received: Payload, state: State, version: torch.Tensor) -> Carry:
        return {"train": received["model"]}

    @override
    def loss(self, apply: Apply, carry: Carry, buffers: Tree, x: torch.Tensor, y: torch.Tensor) -> LossValue:
        return cross_entropy(apply, carry, buffers, x, y)

    @override
    def step(self, carry: Carry, grads: Tree, received: Payload, state: State) -> Carry:
        return {"train": tree.add_scaled(carry["train"], grads, -self.learning_rate)}

    @override
    def finish(self, carry: Carry, received: Payload, state: State, steps: torch.Tensor) -> Update:
        return Update({"model": tree.sub(carry["train"], received["model"])}, state, {})
