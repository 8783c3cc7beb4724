"""How many clients can be stacked: what one of them takes while its gradient is found."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import torch

from evsim.training.draws import named_draws
from evsim.training.executors.threads import limited_threads
from evsim.training.models.modes import private_copy

if TYPE_CHECKING:
    from evsim.training.executors.base import Job

_MOST, _MOST_GPU = 50, 1000
_MODEL_BYTES = 96 << 20  # of stacked leaves
_STEP_BYTES = 1 << 30  # of what a step keeps
_GPU = 20  # times as much on a GPU


def clients_that_fit(job: Job) -> int:
    """As many as 96 MiB of leaves and 1 GiB of what a step keeps allow, at most 50; on a GPU 20 times that."""
    cuda = job.device.type == "cuda"
    times = _GPU if cuda else 1
    by_leaves = times * _MODEL_BYTES // max(1, model_bytes(job))
    by_step = times * _STEP_BYTES // max(1, step_bytes(job)) if by_leaves > 1 else by_leaves
    return max(1, min(_MOST_GPU if cuda else _MOST, by_leaves, by_step))


def model_bytes(job: Job) -> int:
    """Of a client's own leaves: frozen ones are shared."""
    leaves = [*(leaf for leaf in job.model.parameters() if leaf.requires_grad), *job.model.buffers()]
    return sum(leaf.numel() * leaf.element_size() for leaf in leaves)


def step_bytes(job: Job) -> int:
    """What a client's step keeps, roughly: activations twice, and a gradient for each use of a leaf.

    Twice, because vmapped gradients keep the backward pass as well; each use, because a recurrent cell comes to a
    gradient of its weights at every step of time before they are added up. 0 if the model raises.
    """
    rows = min(job.rule.schedule.batch_size, len(job.data.x))
    trial, found, seen = private_copy(job.model), 0, set[int]()
    leaves = {leaf.untyped_storage().data_ptr(): leaf.requires_grad for leaf in trial.parameters()}

    def count(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal found
        place = tensor.untyped_storage().data_ptr()
        if leaves.get(place, place not in seen):
            found += tensor.nbytes * (1 if place in leaves else 2)
        seen.add(place)
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor)
    with suppress(Exception), torch.enable_grad(), limited_threads(1), named_draws(0, job.device), hooks:
        kept = trial(job.data.x[:rows].to(job.device))  # held until all is counted: freed places would be used again
        del kept
    return found
