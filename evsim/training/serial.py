"""The serial executor: one client after the other, one step after the other. The definition of correct."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import torch
from torch.func import functional_call
from typing_extensions import override

from evsim import rng
from evsim.training.base import Executor, Job, Result, Runner, TrainTask
from evsim.training.batches import batches
from evsim.training.opening import open_task

if TYPE_CHECKING:
    from evsim.algorithms.base import Carry
    from evsim.algorithms.tree import Tree


@final
@dataclass(frozen=True, kw_only=True)
class Serial(Executor):
    """Trains in this process, a client at a time."""

    @override
    def open(self, job: Job) -> Runner:
        return SerialRunner(job)


@final
class SerialRunner(Runner):
    """The loop every textbook shows, with the client rule's hooks."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._key = rng.key(job.seed, "local")

    @property
    @override
    def plan(self) -> Mapping[str, object]:
        return {"mode": "serial"}

    @override
    def run(self, tasks: Sequence[TrainTask]) -> Iterator[Result]:
        for task in tasks:
            yield self._train(task)

    @override
    def close(self) -> None:
        """Nothing to release."""

    def _train(self, task: TrainTask) -> Result:
        job, rule = self._job, self._job.rule
        carry = rule.begin(task.received, task.state, torch.tensor(task.version))
        carry = open_task(job, task, carry, self._apply)
        buffers = task.received["buffers"]
        losses = []
        rows = torch.as_tensor(job.data.of_client(task.client)).to(job.device)
        steps = batches(rule.schedule, len(rows), self._key, task.client, task.nth)
        for positions in steps:
            batch = rows[torch.as_tensor(positions).to(job.device)]
            grads, loss, buffers = self._gradient(carry, buffers, job.data.x[batch], job.data.y[batch])
            carry = rule.step(carry, grads, task.received, task.state)
            losses.append(loss)
        update = rule.finish(carry, task.received, task.state, torch.tensor(len(steps)))
        payload = {**update.payload, "buffers": _gained(buffers, task.received["buffers"])}
        seen = torch.cat(losses).double()
        metrics = {name: float(value) for name, value in update.metrics.items()}
        return Result(task, payload, update.state, len(steps), float(seen.mean()), float(seen.square().mean()), metrics)

    def _gradient(
        self, carry: Carry, buffers: Tree, x: torch.Tensor, y: torch.Tensor
    ) -> tuple[Tree, torch.Tensor, Tree]:
        """Gradient of the mean loss, the per-sample losses, the new buffers."""
        train = {name: leaf.detach().requires_grad_() for name, leaf in carry["train"].items()}
        with torch.enable_grad():
            per_sample, new = self._job.rule.loss(self._apply, {**carry, "train": train}, buffers, x, y)
            grads = torch.autograd.grad(per_sample.mean(), list(train.values()))
        return dict(zip(train, grads, strict=True)), per_sample.detach(), {k: v.detach() for k, v in new.items()}

    def _apply(self, params: Tree, buffers: Tree, x: torch.Tensor) -> tuple[torch.Tensor, Tree]:
        own = {name: leaf.clone() for name, leaf in buffers.items()}  # BatchNorm writes into its buffers
        with torch.autocast(self._job.device.type, torch.bfloat16, enabled=self._job.autocast):
            return functional_call(self._job.model, (params, own), (x,)), own


def _gained(new: Tree, old: Tree) -> Tree:
    return {name: leaf - old[name] for name, leaf in new.items()}
