"""A module tried before a run: finds what executors could not notice, or not in time.

Executors see a module as a function of parameters, buffers, inputs and a key. A module that changes its parameters,
keeps state elsewhere, or reaches parameters on a way of its own is no such function, and would train to something else
without a word.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from evsim.algorithms.schedule import last_batches_of_one
from evsim.base.caveat import Caveat
from evsim.base.errors import ModelError, Problem, TrainingError, report
from evsim.base.user_code import user_code
from evsim.training.draws import named_draws
from evsim.training.executors.agreement import tolerance
from evsim.training.executors.base import TrainTask
from evsim.training.executors.dropout import keyed, set_keys
from evsim.training.executors.functional import Functional, with_dense_gradients
from evsim.training.executors.opening import gradient_of
from evsim.training.executors.serial import Serial
from evsim.training.models.leaves import averaged, trained
from evsim.training.models.modes import as_trained, private_copy

if TYPE_CHECKING:
    from torch import nn

    from evsim.algorithms.tree import Payload, Tree
    from evsim.base.vocabulary import IntArray
    from evsim.training.executors.base import Job

_KEY = 1
_ROWS = 4  # of two samples: never one sample alone, which BatchNorm refuses
_Pass = tuple[torch.Tensor, "Tree"]  # the output, and a gradient of it


def probe(job: Job) -> None:
    """Train on two samples: as a plain module, as executors do, and as they do after other samples.

    Raises:
        ModelError: if the model raises anything, or is no function of its parameters, buffers, input and global draws.
    """
    if len(job.data.index) == 0:
        return
    with user_code(ModelError, slot="model", cls=job.model, **{"while": "it is trained on a few samples"}):
        x, others = _samples(job, 0, -1), _samples(job, len(job.data.index) // 3, len(job.data.index) // 2)
        plain, once, used = _plain(job, x), _functional(job, Functional(job), x), Functional(job)
        _functional(job, used, others)
        again = _functional(job, used, x)
    if not _agree(job, once, again):
        _refuse(
            job,
            "another output for the same parameters, buffers, input and seed",
            "a module that keeps no state of its own (counters, generators, what it saw before)",
            "hold state in buffers that are there from the start; draw from the global generators, which evsim seeds",
        )
    if not _agree(job, plain, once):
        _refuse(
            job,
            "another result once its parameters are exchanged",
            "parameters that are used under the names they have in named_parameters()",
            "do not keep them in lists or closures of your own; nn.ParameterList is fine",
        )


def rehearse(job: Job, received: Payload) -> None:
    """Train one pass of the smallest and the largest client, and of one that comes to a mini-batch of one sample.

    Raises:
        TrainingError: if the model or the client rule raises anything.
    """
    sizes = np.diff(job.data.offsets)
    filled = np.flatnonzero(sizes)
    if len(filled) == 0:
        return
    alone = np.flatnonzero(last_batches_of_one(job.rule.schedule, sizes))[:1]
    chosen = {*filled[[sizes[filled].argmin(), sizes[filled].argmax()]].tolist(), *alone.tolist()}
    with user_code(TrainingError, slot="client_rule", cls=job.rule):
        steps = job.rule.schedule.per_pass(sizes)[0].tolist()
        state = job.rule.init_client(received)
    tasks = [TrainTask(0, client, 0, 0, received, state, steps[client]) for client in sorted(chosen)]
    for _ in Serial(threads=1).open(job).run(tasks):
        pass


def batch_of_one(job: Job, samples: IntArray, sizes: IntArray | None = None) -> Caveat | None:
    """What to say if the model cannot train on one sample (BatchNorm) but some clients would ask it to.

    Args:
        job: the job.
        samples: data size of each client.
        sizes: samples of a mini-batch of each client, where these are not the rule's.
    """
    alone = last_batches_of_one(job.rule.schedule, samples, sizes)
    if not alone.any() or not _refuses_one(job):
        return None
    remedy = "set client_rule.drop_last = true" if (samples[alone] > 1).all() else "give every client two samples"
    return Caveat(
        "batch_of_one",
        "clients come to a mini-batch of one sample, on which this model cannot train, and the run ends there",
        f"{int(alone.sum())} of {int((samples > 0).sum())} clients with data",
        remedy if job.rule.schedule.drop_last or not (samples[alone] > 1).all() else f"{remedy}, or change batch_size",
    )


def _refuses_one(job: Job) -> bool:
    model = as_trained(private_copy(job.model))
    x = job.data.x[:1].to(job.device)
    try:
        with torch.no_grad(), named_draws(_KEY, job.device):
            model(x)
    except ValueError:
        return True
    return False


def _samples(job: Job, *places: int) -> torch.Tensor:
    """The inputs of two samples of clients, each several times."""
    rows = job.data.index[list(places)].repeat(_ROWS // len(places))
    return job.data.take(job.data.rows(rows))[0]


def _plain(job: Job, x: torch.Tensor) -> _Pass:
    """As the module itself has it."""
    model = with_dense_gradients(as_trained(private_copy(job.model)))
    set_keys(keyed(model), torch.tensor(_KEY, device=job.device))
    before = [leaf.detach().clone() for leaf in model.parameters()]
    with named_draws(_KEY, job.device), torch.autocast(job.device.type, torch.bfloat16, enabled=job.autocast):
        output = model(x)
    _check_parameters(job, model, before)
    return _passed(job, output, {**trained(model)})


def _functional(job: Job, functional: Functional, x: torch.Tensor) -> _Pass:
    """As executors have it."""
    params = {name: leaf.detach().clone().requires_grad_() for name, leaf in trained(job.model).items()}
    key = torch.tensor(_KEY, device=job.device)
    buffers = averaged(job.model)
    output, new = functional.apply(key)(params, buffers, x)
    for name, leaf in buffers.items():
        if (new[name].shape, new[name].dtype) != (leaf.shape, leaf.dtype):
            given = f"a forward pass after which buffer '{name}' is {_kind(new[name])}"
            _refuse(job, given, f"{_kind(leaf)}, as before", "clients' buffers are averaged number by number")
    return _passed(job, output, params)


def _passed(job: Job, output: Any, params: Tree) -> _Pass:
    if not isinstance(output, torch.Tensor) or output.dim() == 0 or len(output) != _ROWS:
        given = tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
        expected = f"outputs of shape ({job.objective.axes})"
        _refuse(job, f"{given} in training mode for {_ROWS} samples", expected, "")
    slopes = torch.linspace(1.0, 2.0, output.numel(), device=job.device).reshape(output.shape)
    return output.detach(), gradient_of((output * slopes).sum(), params)


def _check_parameters(job: Job, model: nn.Module, before: list[torch.Tensor]) -> None:
    for (name, leaf), old in zip(model.named_parameters(), before, strict=True):
        if not torch.equal(leaf.detach(), old) and not bool(old.isnan().any()):
            hint = "register what the forward pass changes as a buffer"
            _refuse(job, f"a forward pass that changes parameter '{name}'", "one that only reads parameters", hint)


def _agree(job: Job, one: _Pass, other: _Pass) -> bool:
    pairs = [(one[0], other[0]), *((leaf, other[1][name]) for name, leaf in one[1].items())]
    return all(_close(a.double(), b.double(), tolerance(job)) for a, b in pairs)


def _close(a: torch.Tensor, b: torch.Tensor, allowed: float) -> bool:
    """Equal to rounding; what is not finite at the same places agrees."""
    size = float(b.nan_to_num(0.0, 0.0, 0.0).abs().max()) if b.numel() else 0.0
    return torch.allclose(a, b, rtol=0.0, atol=allowed * size, equal_nan=True)


def _kind(leaf: torch.Tensor) -> str:
    return f"{str(leaf.dtype).removeprefix('torch.')} of shape {tuple(leaf.shape)}"


def _refuse(job: Job, given: str, expected: str, hint: str) -> None:
    raise ModelError(report([Problem(f"model {type(job.model).__name__}", given, expected, hint)]))
