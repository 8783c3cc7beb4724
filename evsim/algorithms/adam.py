"""Local Adam: an adaptive client.

Kingma and Ba, Adam: A Method for Stochastic Optimization, ICLR 2015, algorithm 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np
import torch
from typing_extensions import override

from evsim.algorithms import tree
from evsim.algorithms.base import (
    Apply,
    Batch,
    Carry,
    ClientRule,
    Criterion,
    LossValue,
    Schedule,
    State,
    Update,
    Wires,
    WorkBySteps,
    supervised,
)
from evsim.algorithms.decay import Decay
from evsim.algorithms.epochs import Epochs
from evsim.algorithms.local_sgd import check_local
from evsim.base.errors import require
from evsim.cost.work import Work

if TYPE_CHECKING:
    from evsim.algorithms.tree import Payload, Scale, Tree
    from evsim.base.vocabulary import IntArray


@final
@dataclass(frozen=True, kw_only=True)
class Adam(ClientRule, WorkBySteps):
    """Adam with bias correction, as ``torch.optim.Adam``; moments start at zero in every task and are never sent.

    Attributes:
        learning_rate: step size.
        batch_size: samples per step.
        epochs: passes over the client's samples; 1 if neither is given. A fraction (0.25) takes that share of the
            batches of a pass, rounded up; a table draws for each task: {kind = "uniform", from = 1, to = 5}.
        steps: number of steps instead of passes.
        drop_last: leave out the last batch of a pass if it is not full, as BatchNorm may need; a client with less than
            one batch trains on one batch of all it has.
        beta1: decay of the first moment.
        beta2: decay of the second moment.
        epsilon: added to the root of the second moment.
        weight_decay: adds this times the parameters to the gradient.
        decay: how the learning rate falls over server steps.
    """

    learning_rate: float
    batch_size: int = 20
    epochs: int | float | Epochs | None = None
    steps: int | None = None
    drop_last: bool = False
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.0
    decay: Decay | None = None

    def __post_init__(self) -> None:
        check_local(self.learning_rate, self.weight_decay)
        require(0 <= self.beta1 < 1, "0 <= beta1 < 1 must hold", beta1=self.beta1)
        require(0 <= self.beta2 < 1, "0 <= beta2 < 1 must hold", beta2=self.beta2)
        require(0 < self.epsilon < np.inf, "epsilon must be > 0", epsilon=self.epsilon)
        _ = self.schedule

    @property
    @override
    def schedule(self) -> Schedule:
        epochs = 1 if self.epochs is None and self.steps is None else self.epochs
        return Schedule(self.batch_size, epochs, self.steps, self.drop_last)

    @override
    def work(self, n_samples: IntArray) -> Work:
        return self.work_of(n_samples, self.schedule.n_steps(n_samples))

    @override
    def work_of(self, n_samples: IntArray, steps: IntArray) -> Work:
        return Work(self.schedule.n_processed_in(n_samples, steps), np.zeros_like(n_samples))

    @override
    def wires(self, model: Wires) -> Wires:
        return model

    @override
    def init_client(self, received: Payload) -> State:
        return {}

    @override
    def begin(self, received: Payload, state: State, version: torch.Tensor) -> Carry:
        zeros = tree.zeros(received["model"])
        carry = {"train": received["model"], "first": zeros, "second": zeros}
        carry["count"] = {"": torch.zeros_like(version, dtype=torch.float64)}
        if self.decay is not None:
            carry["rate"] = {"": self.decay.rate(self.learning_rate, version)}
        return carry

    @override
    def loss(self, apply: Apply, carry: Carry, buffers: Tree, batch: Batch, criterion: Criterion) -> LossValue:
        return supervised(apply, carry, buffers, batch, criterion)

    @override
    def step(self, carry: Carry, grads: Tree, received: Payload, state: State) -> Carry:
        if self.weight_decay:
            grads = tree.add_scaled(grads, carry["train"], self.weight_decay)
        count = carry["count"][""] + 1
        first = tree.add_scaled(tree.scale(carry["first"], self.beta1), grads, 1 - self.beta1)
        second = tree.add_scaled(tree.scale(carry["second"], self.beta2), tree.mul(grads, grads), 1 - self.beta2)
        root = tree.sqrt(tree.scale(second, 1 / (1 - self.beta2**count)))
        move = tree.div(tree.scale(first, self._rate(carry) / (1 - self.beta1**count)), tree.shift(root, self.epsilon))
        train = tree.sub(carry["train"], move)
        return {**carry, "train": train, "first": first, "second": second, "count": {"": count}}

    @override
    def finish(self, carry: Carry, received: Payload, state: State, steps: torch.Tensor) -> Update:
        return Update({"model": tree.sub(carry["train"], received["model"])}, state, {})

    def _rate(self, carry: Carry) -> Scale:
        return self.learning_rate if self.decay is None else carry["rate"][""]
