"""Training a chunk of clients at once: stacked parameters, a vmapped gradient, the rule's step on stacked leaves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, final

import numpy as np
import torch
from torch._C._functorch import _set_vmap_fallback_warning_enabled  # type: ignore[attr-defined]  # torch's stub lacks it
from torch.func import grad, vmap

from evsim.algorithms import tree
from evsim.algorithms.base import Carry, OpeningPass, State
from evsim.algorithms.sums import WeightedSums
from evsim.algorithms.tree import Payload, Tree
from evsim.training.data.placing import on_device
from evsim.training.data.samples import Ahead, Batch, TrainingData
from evsim.training.executors.agreement import tolerance
from evsim.training.executors.base import Job, Result, TrainTask
from evsim.training.executors.batches import BatchPlan, plan_batches
from evsim.training.executors.functional import Functional
from evsim.training.executors.opening import mean_loss
from evsim.training.executors.serial import gained
from evsim.training.executors.stacking import between, first, split_shared, stack_payloads, take, unstack
from evsim.training.executors.sums import Block, Weights, stacked_sums, weights_at

if TYPE_CHECKING:
    from evsim.base.vocabulary import FloatArray, IntArray

_CLEAR = 0.05


def train_chunk(job: Job, functional: Functional, tasks: Sequence[TrainTask]) -> list[Result]:
    """Train tasks, sorted by falling number of steps, all at once; one result each, in that order."""
    return _trained(job, functional, tasks).results()


def sum_chunk(job: Job, functional: Functional, tasks: Sequence[TrainTask], weights: Weights) -> Block:
    """Train tasks, sorted by falling number of steps, all at once, and add their updates up while they are stacked."""
    return _trained(job, functional, tasks).block(weights)


def _trained(job: Job, functional: Functional, tasks: Sequence[TrainTask]) -> _Chunk:
    """A chunk after its last step. Everything stays on the device: nothing inside the steps waits for it."""
    plan = plan_batches(job.rule.schedule, job.data, job.seed, tasks)
    received = stack_payloads([task.received for task in tasks])
    state = stack_payloads([task.state for task in tasks])
    versions = torch.tensor([task.version for task in tasks], device=job.device)
    carry = _opened(job, functional, tasks, job.rule.begin(received, state, versions))
    chunk = _Chunk(job, functional, tasks, plan, received, state, carry, received["buffers"])
    for step in range(plan.rows.shape[1]):
        chunk.shrink(int((plan.steps > step).sum()))
        chunk.step(step)
    chunk.shrink(0)
    return chunk


def padding_matters(job: Job, functional: Functional, task: TrainTask) -> bool:
    """Whether rows without weight change a client's gradient, because samples of a batch see each other."""
    if len(job.data.x) < 2:  # noqa: PLR2004
        return False
    received, state = stack_payloads([task.received]), stack_payloads([task.state])
    carry = job.rule.begin(received, state, torch.tensor([task.version], device=job.device))
    carry = _opened(job, functional, [task], carry)
    keys = torch.tensor([task.task], device=job.device) if functional.uses_key else None
    found = []
    for rows, weights in (([[0, 1]], [[0.5, 0.5]]), ([[0, 1, 0, 0]], [[0.5, 0.5, 0.0, 0.0]])):
        samples = job.data.take(job.data.rows(np.array(rows)))
        batch = (samples, keys, torch.tensor(weights).to(job.device, job.dtype))
        found.append(gradients(job, functional, carry, received["buffers"], batch)[0])
    one, other = tree.flat(found[0]), tree.flat(found[1])
    size, gap = float(one.abs().max()), float((one - other).abs().max())
    return not gap <= min(tolerance(job), _CLEAR) * size


@final
@dataclass(eq=False)
class _Chunk:
    """The clients of a chunk that still train; those at the end that are done are cut off and finished."""

    job: Job
    functional: Functional
    tasks: Sequence[TrainTask]
    plan: BatchPlan
    received: Payload
    state: Payload
    carry: Carry
    buffers: Tree
    sums: torch.Tensor = field(init=False)  # (clients, 2): losses and their squares
    data: TrainingData = field(init=False)  # where their samples are
    rows: torch.Tensor = field(init=False)  # (clients, steps, batch), beside the samples
    ahead: Ahead = field(init=False)
    weights: torch.Tensor = field(init=False)  # (clients, steps, batch): 1 / size of the batch, 0 for padding
    steps: torch.Tensor = field(init=False)  # (clients,)
    keys: torch.Tensor | None = field(init=False)
    done: list[tuple[Payload, Payload, Tree]] = field(default_factory=list)  # update, state, metrics; last ones first

    def __post_init__(self) -> None:
        device = self.job.device
        self.data, near = self.job.data.near(self.plan.rows)
        self.rows, self.ahead = self.data.rows(near), Ahead(self.data)
        self.weights = on_device(_weights(self.plan), device).to(self.job.dtype)
        self.steps = on_device(self.plan.steps, device)
        self.keys = on_device(self.plan.keys, device) if self.functional.uses_key else None
        self.sums = torch.zeros(len(self.tasks), 2, dtype=torch.float64, device=device)
        self.count = len(self.tasks)

    def shrink(self, count: int) -> None:
        """Finish the clients from `count` on."""
        if count == self.count:
            return
        cut = partial(between, start=count, stop=self.count)
        steps = self.steps[count : self.count]
        received = cut(self.received)
        update = self.job.rule.finish(cut(self.carry), received, cut(self.state), steps)
        buffers = cut({"": self.buffers})[""]
        payload = {**update.payload, "buffers": gained(buffers, received["buffers"])}
        self.done.append((payload, update.state, update.metrics))
        self.carry, self.state = first(self.carry, count), first(self.state, count)
        self.received, self.buffers = first(self.received, count), first({"": self.buffers}, count)[""]
        self.count = count

    def step(self, step: int) -> None:
        """One step of all clients that still train."""
        counts = self.plan.counts[: self.count, step]
        if self.functional.couples_samples and (counts != counts[0]).any():
            self._step_by_size(step, counts)
        else:
            self.carry, self.buffers, sums = self._stepped(step, None, counts)
            self.sums[: self.count] += sums
            self._look_ahead(step + 1)

    def results(self) -> list[Result]:
        """One result per task, in the order of the tasks."""
        means = self._means()
        found: list[Result] = []
        for payload, state, metrics in reversed(self.done):
            count = _clients(payload)
            numbers = {name: values.tolist() for name, values in metrics.items()}
            states = unstack(state, count, own=True)
            for place, (update, own) in enumerate(zip(unstack(payload, count), states, strict=True)):
                at = len(found)
                task, mean, square = self.tasks[at], float(means[at, 0]), float(means[at, 1])
                metric = {name: values[place] for name, values in numbers.items()}
                found.append(Result(task, update, own, int(self.plan.steps[at]), mean, square, metric))
        return found

    def block(self, weights: Weights) -> Block:
        """The weighted sums of the updates, places in the order of the tasks."""
        sums, finite, states, start = WeightedSums(), [], list[State](), 0
        for payload, state, _ in reversed(self.done):
            part = slice(start, start := start + _clients(payload))
            some, good = stacked_sums(payload, weights_at(weights, part), len(self.tasks[part]))
            sums.join(some)
            finite.append(good)
            states += unstack(state, len(good), own=True)
        return Block(np.arange(start), sums, np.concatenate(finite), self._means()[:, 1], states)

    def _means(self) -> FloatArray:
        """Mean loss and mean square loss of each task, (tasks, 2); NaN for a task without a step."""
        samples = np.maximum(self.plan.counts.sum(1), 1)
        means: FloatArray = self.sums.cpu().numpy() / samples[:, None]
        means[self.plan.steps == 0] = np.nan
        return means

    def _look_ahead(self, step: int) -> None:
        """Streamed samples of the next step come over while the device still works on this one."""
        count = int((self.plan.steps > step).sum())
        if count:
            width = int(self.plan.counts[:count, step].max())
            self.ahead.load(step, self.rows[:count, step, :width], self.plan.keys[:count, step])

    def _step_by_size(self, step: int, counts: IntArray) -> None:
        """Take clients with the same batch size together, so that none of them needs a row of padding."""
        parts: list[tuple[torch.Tensor, Carry, Tree]] = []
        for size in np.unique(counts):
            at = np.flatnonzero(counts == size)
            places = on_device(at, self.job.device)
            carry, buffers, sums = self._stepped(step, at, counts[at])
            self.sums.index_add_(0, places, sums)
            parts.append((places, carry, buffers))
        order = torch.argsort(torch.cat([places for places, _, _ in parts]))
        names = parts[0][1]
        self.carry = {name: _joined([carry[name] for _, carry, _ in parts], order) for name in names}
        self.buffers = _joined([buffers for _, _, buffers in parts], order)

    def _stepped(self, step: int, at: IntArray | None, counts: IntArray) -> tuple[Carry, Tree, torch.Tensor]:
        """Carry, buffers and sums of losses after a step of the clients at these places (None: all)."""
        places = None if at is None else on_device(at, self.job.device)
        of = _everything if places is None else partial(take, places=places)
        carry, buffers = of(self.carry), of({"": self.buffers})[""]
        width = int(counts.max())
        rows, keys = self.rows[: self.count, step, :width], self.keys
        weights = self.weights[: self.count, step, :width]
        keys = None if keys is None else keys[: self.count, step]
        if places is not None:
            rows, weights = rows.index_select(0, places.to(rows.device)), weights.index_select(0, places)
            keys = None if keys is None else keys.index_select(0, places)
        drawn = self.plan.keys[: self.count, step]
        samples = self.ahead.get(step, rows, drawn) if at is None else self.data.take(rows, drawn[at])
        grads, losses, new = gradients(self.job, self.functional, carry, buffers, (samples, keys, weights))
        stepped = self.job.rule.step(carry, grads, of(self.received), of(self.state))
        seen = losses.double() * (weights > 0)
        return stepped, new, torch.stack([seen.sum(1), seen.square().sum(1)], 1)


_Inputs = tuple[Batch, torch.Tensor | None, torch.Tensor]  # samples, keys of the step, weights of the samples


def gradients(
    job: Job, functional: Functional, carry: Carry, buffers: Tree, batch: _Inputs
) -> tuple[Tree, torch.Tensor, Tree]:
    """Gradient of each client's weighted loss, per-sample losses (clients, batch), new buffers.

    Leaves that all clients share stay one: the first step of clients of one version is then one large product.
    """
    (x, y), keys, weights = batch
    values: Carry = {}
    dims: dict[str, dict[str, int | None]] = {}
    for name, leaves in carry.items():
        values[name], dims[name] = split_shared(leaves)
    train, train_dims = values.pop("train"), dims.pop("train")
    buffers, buffer_dims = _split_local(functional, buffers)
    key_dim = None if keys is None else 0
    mapped = vmap(
        grad(partial(_client_loss, job, functional), has_aux=True),
        in_dims=(train_dims, dims, buffer_dims, 0, 0, 0, key_dim),
        randomness="error",
    )
    with _without_advice():
        grads, (losses, new) = mapped(train, values, buffers, x, y, weights, keys)
    return grads, losses, new


@contextmanager
def _without_advice() -> Iterator[None]:
    """Without torch's request to file an issue about an operation that vmap does one client after the other.

    Not by a filter of `warnings`: to change those shows every other warning again at each step.
    """
    _set_vmap_fallback_warning_enabled(False)  # noqa: FBT003  torch's own
    try:
        yield
    finally:
        _set_vmap_fallback_warning_enabled(True)  # noqa: FBT003  torch's own


def _split_local(functional: Functional, buffers: Tree) -> tuple[Tree, dict[str, int | None]]:
    """Buffers that never travel stay one for all clients, unless training has changed them; a mask may be large."""
    if not functional.local:
        return buffers, dict.fromkeys(buffers, 0)
    local, dims = split_shared({name: leaf for name, leaf in buffers.items() if name in functional.local})
    return {**buffers, **local}, {**dict.fromkeys(buffers, 0), **dims}


def _client_loss(
    job: Job, functional: Functional, train: Tree, values: Carry, buffers: Tree, *batch: Any
) -> tuple[torch.Tensor, tuple[torch.Tensor, Tree]]:
    """The weighted loss of one client's mini-batch; what vmap sees."""
    x, y, weights, key = batch
    per_sample, new = job.rule.loss(functional.apply(key), {**values, "train": train}, buffers, (x, y), job.criterion)
    return (per_sample * weights).sum(), (per_sample.detach(), new)


def _opened(job: Job, functional: Functional, tasks: Sequence[TrainTask], carry: Carry) -> Carry:
    """The pass before the first step, for rules that ask for one; client by client, since sizes differ most here."""
    rule = job.rule
    if not isinstance(rule, OpeningPass) or rule.opening == "none":
        return carry
    alone = unstack({"train": carry["train"]}, len(tasks))
    pairs = [
        mean_loss(job, task, {**_rest(carry, place), **alone[place]}, functional) for place, task in enumerate(tasks)
    ]
    gradient = {name: torch.stack([leaves[name] for _, leaves in pairs]) for name in carry["train"]}
    return rule.opened(carry, torch.stack([loss for loss, _ in pairs]), gradient if rule.opening == "gradient" else {})


def _clients(payload: Payload) -> int:
    return len(next(iter(payload["model"].values())))


def _rest(carry: Carry, place: int) -> Carry:
    return {name: {k: leaf[place] for k, leaf in leaves.items()} for name, leaves in carry.items() if name != "train"}


def _weights(plan: BatchPlan) -> FloatArray:
    """1 / size of the mini-batch for its samples, 0 for its padding; (clients, steps, batch)."""
    counts = plan.counts[..., None]
    return np.asarray((np.arange(plan.rows.shape[2]) < counts) / np.maximum(counts, 1))


def _joined(parts: list[Tree], order: torch.Tensor) -> Tree:
    """Leaves of groups of clients as one, in the order of the clients."""
    return {name: torch.cat([part[name] for part in parts]).index_select(0, order) for name in parts[0]}


def _everything(payload: Payload) -> Payload:
    return payload
