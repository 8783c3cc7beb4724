"""Ditto: beside the global model every client trains one of its own, pulled to the global one.

Li, Hu, Beirami, Smith, Ditto: Fair and Robust Federated Learning Through Personalization, ICML 2021, algorithm 1 in the
form of the authors' code: both models take a step on each mini-batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING, final

from typing_extensions import override

from evsim.algorithms import tree
from evsim.algorithms.base import Apply, Batch, Carry, Criterion, KeepsModel, LossValue, State, Update, supervised
from evsim.algorithms.local_sgd import LocalSgd
from evsim.base.errors import require
from evsim.cost.work import Work

if TYPE_CHECKING:
    import torch

    from evsim.algorithms.tree import Payload, Tree
    from evsim.base.vocabulary import IntArray

_OWN = "."  # no name of a parameter begins with it


@final
@dataclass(frozen=True, kw_only=True)
class Ditto(LocalSgd, KeepsModel):
    """``y <- y - rate g(y)`` and ``v <- v - rate (g(v) + lam (v - w))``, on the same mini-batches; w as received.

    y is reported as FedAvg would; v, the client's own model, stays with it, and is w as received before its first
    accepted task. lam = 0 is local training, and rate lam must stay below 2 for v not to diverge. Momentum, clipping
    and weight decay act on each of the two by itself. Both are trained, so a task computes twice as much.

    Attributes:
        lam: strength of the pull; the paper tries 0.1, 1 and 2.
    """

    lam: float

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        require(isfinite(self.lam) and self.lam >= 0, "lam must be >= 0", lam=self.lam)

    @override
    def init_client(self, received: Payload) -> State:
        return {"own": received["model"]}

    @override
    def begin(self, received: Payload, state: State, version: torch.Tensor) -> Carry:
        return super().begin({**received, "model": _both(received["model"], state["own"])}, state, version)

    @override
    def loss(self, apply: Apply, carry: Carry, buffers: Tree, batch: Batch, criterion: Criterion) -> LossValue:
        shared, own = _apart(carry["train"])
        told, new = supervised(apply, {"train": shared}, buffers, batch, criterion)
        beside, _ = supervised(apply, {"train": own}, buffers, batch, criterion)
        return told + beside - beside.detach(), new  # the server hears of the loss of y alone

    @override
    def shortened(self, grads: Tree, longest: torch.Tensor) -> Tree:
        shared, own = _apart(grads)
        return _both(super().shortened(shared, longest), super().shortened(own, longest))

    @override
    def direction(self, grads: Tree, carry: Carry, received: Payload, state: State) -> Tree:
        shared, own = _apart(grads)
        pull = tree.sub(_apart(carry["train"])[1], received["model"])
        return _both(shared, tree.add_scaled(own, pull, self.lam))

    @override
    def finish(self, carry: Carry, received: Payload, state: State, steps: torch.Tensor) -> Update:
        shared, own = _apart(carry["train"])
        return Update({"model": tree.sub(shared, received["model"])}, {"own": own}, {})

    @override
    def work_of(self, n_samples: IntArray, steps: IntArray) -> Work:
        once = super().work_of(n_samples, steps)
        return Work(2 * once.samples, once.forward_samples)

    @override
    def n_steps_within(self, n_samples: IntArray, processed: IntArray) -> IntArray:
        return super().n_steps_within(n_samples, processed // 2)

    @override
    def own_model(self, received: Payload, state: State) -> Payload:
        return {"model": state["own"], "buffers": received["buffers"]}


def _both(shared: Tree, own: Tree) -> Tree:
    """One tree of two models."""
    return {**shared, **{_OWN + name: leaf for name, leaf in own.items()}}


def _apart(both: Tree) -> tuple[Tree, Tree]:
    """The two models of one tree."""
    own = {name[len(_OWN) :]: leaf for name, leaf in both.items() if name.startswith(_OWN)}
    return {name: leaf for name, leaf in both.items() if not name.startswith(_OWN)}, own
