"""What all client rules built on local SGD share; a rule of this family says only what is special about it.

One step is ``v <- momentum v + d`` and ``y <- y - rate v``, where ``d = direction(g + weight_decay y)``: the update of
``torch.optim.SGD`` (no dampening) with a hook. Momentum starts at zero in every task; with Nesterov's the step is along
``d + momentum v``.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from functools import lru_cache
from math import isfinite
from typing import TYPE_CHECKING, Any

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
    PartialWork,
    Schedule,
    State,
    Update,
    Wires,
    supervised,
)
from evsim.algorithms.decay import Decay
from evsim.algorithms.epochs import Epochs
from evsim.base.errors import require
from evsim.cost.work import Work

if TYPE_CHECKING:
    from evsim.algorithms.tree import Payload, Scale, Tree
    from evsim.base.vocabulary import IntArray


@dataclass(frozen=True, kw_only=True)
class LocalSgd(ClientRule, PartialWork):
    """A client rule that is local SGD with something special.

    Subclasses implement `direction`; those that send, keep or compute more also override the hooks `init_client`,
    `wires`, `report` and `overhead`, which by default add nothing.

    Attributes:
        learning_rate: step size.
        batch_size: samples per step; the last batch of a pass may be smaller.
        epochs: passes over the client's samples, each in a fresh order; 1 if neither is given. A fraction (0.25) takes
            that share of the batches of a pass, rounded up; a table draws for each task: {kind = "uniform", from = 1,
            to = 5}.
        steps: number of steps instead of passes.
        drop_last: leave out the last batch of a pass if it is not full, as BatchNorm may need; a client with less than
            one batch trains on one batch of all it has.
        momentum: heavy ball, from zero in every task.
        nesterov: step along d + momentum v instead of v.
        clip_norm: shorten the gradient of a mini-batch to this norm, over all parameters, before anything is added to
            it; None: never. Recurrent models need it.
        weight_decay: adds this times the parameters to the gradient; not in the reported loss.
        decay: how the learning rate falls over server steps; None keeps it.
        partial_work: a client that would miss the deadline does the whole steps that fit, if any, and reports them.
    """

    learning_rate: float
    batch_size: int = 20
    epochs: int | float | Epochs | None = None
    steps: int | None = None
    drop_last: bool = False
    momentum: float = 0.0
    nesterov: bool = False
    clip_norm: float | None = None
    weight_decay: float = 0.0
    decay: Decay | None = None
    partial_work: bool = False

    def __post_init__(self) -> None:
        check_local(self.learning_rate, self.weight_decay)
        require(0 <= self.momentum < 1, "0 <= momentum < 1 must hold", momentum=self.momentum)
        require(self.momentum > 0 or not self.nesterov, "nesterov needs momentum > 0", momentum=self.momentum)
        bound = self.clip_norm
        require(bound is None or (isfinite(bound) and bound > 0), "clip_norm must be > 0 or left out", clip_norm=bound)
        _ = self.schedule

    # -- hooks ------------------------------------------------------------------------------------------------------

    @abstractmethod
    def direction(self, grads: Tree, carry: Carry, received: Payload, state: State) -> Tree:
        """What to step along instead of the gradient of the mini-batch's mean loss; leafwise."""

    @override
    def init_client(self, received: Payload) -> State:
        return {}

    @override
    def wires(self, model: Wires) -> Wires:
        return model

    def report(self, delta: Tree, carry: Carry, received: Payload, state: State, steps: torch.Tensor) -> Update:
        """The update, given what the model gained in `steps` steps."""
        return Update({"model": delta}, state, {})

    def shortened(self, grads: Tree, longest: torch.Tensor) -> Tree:
        """G min(1, longest / ||g||) of each client; `longest` has shape () or (clients,)."""
        length = tree.norm(grads, like=longest)
        return tree.scale(grads, torch.where(length > longest, longest / length, torch.ones_like(length)))

    def overhead(self, n_samples: IntArray) -> Work:
        """What a task costs beside its steps."""
        return Work(np.zeros_like(n_samples), np.zeros_like(n_samples))

    # -- the same for all -------------------------------------------------------------------------------------------

    @property
    @override
    def schedule(self) -> Schedule:
        epochs = 1 if self.epochs is None and self.steps is None else self.epochs
        return _schedule(self.batch_size, epochs, self.steps, drop_last=self.drop_last)

    @override
    def work(self, n_samples: IntArray) -> Work:
        return self.work_of(n_samples, self.schedule.n_steps(n_samples))

    @override
    def work_of(self, n_samples: IntArray, steps: IntArray) -> Work:
        extra = self.overhead(n_samples)
        return Work(self.schedule.n_processed_in(n_samples, steps) + extra.samples, extra.forward_samples)

    @override
    def n_steps_within(self, n_samples: IntArray, processed: IntArray) -> IntArray:
        return self.schedule.n_steps_within(n_samples, processed - self.overhead(n_samples).samples)

    @override
    def begin(self, received: Payload, state: State, version: torch.Tensor) -> Carry:
        carry = {"train": received["model"]}
        if self.momentum:
            carry["velocity"] = tree.zeros(received["model"])
        if self.decay is not None:
            carry["rate"] = {"": self.decay.rate(self.learning_rate, version)}
        if self.clip_norm is not None:
            carry["longest"] = {"": torch.full_like(version, self.clip_norm, dtype=torch.float64)}
        return carry

    @override
    def loss(self, apply: Apply, carry: Carry, buffers: Tree, batch: Batch, criterion: Criterion) -> LossValue:
        return supervised(apply, carry, buffers, batch, criterion)

    @override
    def step(self, carry: Carry, grads: Tree, received: Payload, state: State) -> Carry:
        if self.clip_norm is not None:
            grads = self.shortened(grads, carry["longest"][""])
        if self.weight_decay:
            grads = tree.add_scaled(grads, carry["train"], self.weight_decay)
        move = self.direction(grads, carry, received, state)
        if self.momentum:
            velocity = tree.add_scaled(move, carry["velocity"], self.momentum)
            carry = {**carry, "velocity": velocity}
            move = tree.add_scaled(move, velocity, self.momentum) if self.nesterov else velocity
        return {**carry, "train": tree.add_scaled(carry["train"], move, -self.rate(carry))}

    @override
    def finish(self, carry: Carry, received: Payload, state: State, steps: torch.Tensor) -> Update:
        delta = tree.sub(carry["train"], received["model"])
        return self.report(delta, carry, received, state, steps)

    def rate(self, carry: Carry) -> Scale:
        """The learning rate of this task: a number, or one per client."""
        return self.learning_rate if self.decay is None else carry["rate"][""]


def check_local(learning_rate: float, weight_decay: float) -> None:
    """Refuse impossible values that all local rules share."""
    good = isfinite(learning_rate) and learning_rate > 0
    require(good, "learning_rate must be > 0", learning_rate=learning_rate)
    require(isfinite(weight_decay) and weight_decay >= 0, "weight_decay must be >= 0", weight_decay=weight_decay)


def effective_steps(steps: torch.Tensor, momentum: float, pull: Scale = 0.0, *, nesterov: bool = False) -> torch.Tensor:
    """norm1(a): how far `steps` unit gradients move a client, in learning rates (Wang et al. 2020, section 3).

    The displacement of local SGD is minus the rate times sum_s a_s g_s. By linearity the sum of a_s is what unit
    gradients in every step would give, so the rule is run on them: v <- momentum v + 1 - pull d; d <- d + v (with
    Nesterov's, d <- d + 1 - pull d + momentum v). This
    equals the paper's closed forms, a_s = (1 - rho^(tau-s)) / (1 - rho) and a_s = (1 - rate mu)^(tau-1-s), and
    serves both at once. Valid while all a_s >= 0: pull <= 1.

    Args:
        steps: executed steps, 0-dim or (clients,).
        momentum: of the local optimizer.
        pull: rate times the proximal mu.
        nesterov: whether the momentum is Nesterov's.

    >>> effective_steps(torch.tensor([1, 3]), 0.5)
    tensor([1.0000, 4.2500], dtype=torch.float64)
    """
    moved = torch.zeros_like(steps, dtype=torch.float64)
    speed = moved
    if momentum == 0.0 and isinstance(pull, float) and pull == 0.0:
        return moved + steps
    for done in range(int(steps.max())):
        runs = steps > done
        push = 1 - pull * moved
        speed = momentum * speed + push
        moved = torch.where(runs, moved + (push + momentum * speed if nesterov else speed), moved)
    return moved


@lru_cache(maxsize=64, typed=True)
def _schedule(batch_size: Any, epochs: Any, steps: Any, *, drop_last: bool) -> Schedule:
    return Schedule(batch_size, epochs, steps, drop_last)  # checked when it is made, and asked for at every dispatch
