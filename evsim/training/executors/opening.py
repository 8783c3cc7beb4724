"""The pass over a client's samples before its training, for rules that ask for one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from evsim.algorithms import tree
from evsim.algorithms.base import OpeningPass
from evsim.base import rng

if TYPE_CHECKING:
    from evsim.algorithms.base import Carry
    from evsim.algorithms.tree import Tree
    from evsim.training.executors.base import Job, TrainTask
    from evsim.training.executors.functional import Functional

_ROWS = 1024  # rows per forward pass: bounds memory, cannot change the result beyond rounding


def open_task(job: Job, task: TrainTask, carry: Carry, functional: Functional) -> Carry:
    """Let the rule look at the received model, in evaluation mode, on all of one client's samples.

    Does nothing for a rule that asks for nothing. A client without samples has loss 0 and gradient 0.
    """
    rule = job.rule
    if not isinstance(rule, OpeningPass) or rule.opening == "none":
        return carry
    loss, gradient = mean_loss(job, task, carry, functional)
    return rule.opened(carry, loss, gradient if rule.opening == "gradient" else {})


def mean_loss(job: Job, task: TrainTask, carry: Carry, functional: Functional) -> tuple[torch.Tensor, Tree]:
    """Mean loss of one client's samples and its gradient, zeros unless the rule asks for it."""
    train = {name: leaf.detach().requires_grad_() for name, leaf in carry["train"].items()}
    rows = job.data.rows(job.data.of_client(task.client))
    wants_gradient = isinstance(job.rule, OpeningPass) and job.rule.opening == "gradient"
    total = torch.zeros((), dtype=job.dtype, device=job.device)
    gradient = tree.zeros(carry["train"])
    for number, part in enumerate(torch.split(rows, _ROWS)):
        if len(part) == 0:
            break
        apply = functional.evaluating(rng.key(job.seed, "opening", task.client, task.nth, number))
        with torch.set_grad_enabled(wants_gradient):
            batch = job.data.take(part)
            losses, _ = job.rule.loss(apply, {**carry, "train": train}, task.received["buffers"], batch, job.criterion)
            share = losses.sum() / len(rows)
        total = total + share.detach()
        if wants_gradient:
            gradient = tree.add(gradient, gradient_of(share, train))
    return total, gradient


def gradient_of(loss: torch.Tensor, train: Tree) -> Tree:
    """The gradient in every leaf; zeros for one that the loss does not depend on, as `torch.func.grad` has it."""
    if not loss.requires_grad:
        return tree.zeros(train)
    grads = torch.autograd.grad(loss, list(train.values()), materialize_grads=True)
    return dict(zip(train, grads, strict=True))
