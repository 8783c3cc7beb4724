"""The serial executor: one client after the other, one step after the other. The definition of correct."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import torch
from typing_extensions import override

from evsim.training.draws import torch_state
from evsim.training.executors.base import Executor, Job, Result, Runner, TrainTask
from evsim.training.executors.batches import BatchPlan, plan_batches
from evsim.training.executors.functional import Functional
from evsim.training.executors.naming import naming
from evsim.training.executors.opening import gradient_of, open_task
from evsim.training.executors.threads import check_threads, limited_threads

if TYPE_CHECKING:
    from evsim.algorithms.base import Carry
    from evsim.algorithms.tree import Payload, Tree
    from evsim.training.data.samples import Batch

_AHEAD = 64  # tasks whose mini-batches are drawn together; cannot change them


@final
@dataclass(frozen=True, kw_only=True)
class Serial(Executor):
    """Trains in this process, a client at a time.

    Attributes:
        threads: threads of one operation; torch's own setting if not given. Small models are fastest with 1.
        channels_last: keep convolutions' weights channels last, often faster on a CPU; the same result up to rounding.
    """

    threads: int | None = None
    channels_last: bool = False

    def __post_init__(self) -> None:
        check_threads(self.threads)

    @override
    def open(self, job: Job) -> Runner:
        return SerialRunner(job, self)


@final
class SerialRunner(Runner):
    """The loop every textbook shows, with the client rule's hooks."""

    def __init__(self, job: Job, options: Serial) -> None:
        self._job, self._options = job, options
        self._functional = Functional(job)
        self._threads = options.threads or torch.get_num_threads()
        self._received = ChannelsLast() if options.channels_last else None

    @property
    @override
    def plan(self) -> Mapping[str, object]:
        return {"kind": "serial", "threads": self._threads, "channels_last": self._options.channels_last}

    @override
    def run(self, tasks: Sequence[TrainTask]) -> Iterator[Result]:
        for start in range(0, len(tasks), _AHEAD):
            some = tasks[start : start + _AHEAD]
            plan = plan_batches(self._job.rule.schedule, self._job.data, self._job.seed, some)
            for place, task in enumerate(some):
                with limited_threads(self._threads), naming(self._job, task):
                    result = self._trained(task, plan, place)
                yield result

    @override
    def close(self) -> None:
        """Nothing to release."""

    def _trained(self, task: TrainTask, plan: BatchPlan, place: int) -> Result:
        """Train a task; once more, with named draws, if the model drew although it had not before."""
        functional, device = self._functional, self._job.device
        if functional.draws_globally:
            return self._train(task, plan, place)
        before = torch_state(device)
        result = self._train(task, plan, place)
        if torch.equal(before, torch_state(device)):
            return result
        functional.draws_globally = True
        return self._train(task, plan, place)

    def _train(self, task: TrainTask, plan: BatchPlan, place: int) -> Result:
        """Train the task that has this place in the plan."""
        rule, received = self._job.rule, self._arranged(task.received)
        steps = int(plan.steps[place])
        carry = rule.begin(received, task.state, torch.tensor(task.version, device=self._job.device))
        carry = open_task(self._job, task, carry, self._functional)
        buffers = received["buffers"]
        losses = []
        for step, samples in enumerate(self._samples(plan, place, steps)):
            grads, loss, buffers = self._gradient(carry, buffers, samples, plan.keys[place, step])
            carry = rule.step(carry, grads, received, task.state)
            losses.append(loss)
        update = rule.finish(carry, received, task.state, torch.tensor(steps, device=self._job.device))
        payload = {**update.payload, "buffers": gained(buffers, received["buffers"])}
        if self._received is not None:
            payload = {name: _contiguous(leaves) for name, leaves in payload.items()}
        metrics = {name: float(value) for name, value in update.metrics.items()}
        return Result(task, payload, update.state, steps, *_moments(losses), metrics)

    def _samples(self, plan: BatchPlan, place: int, steps: int) -> Iterator[Batch]:
        """The mini-batch of each step."""
        counts = iter(plan.counts[place, :steps].tolist())
        for x, y in self._job.data.blocks(plan.rows[place, :steps], plan.keys[place, :steps]):
            for inputs, labels in zip(x, y, strict=True):
                count = next(counts)
                yield inputs[:count], labels[:count]

    def _gradient(self, carry: Carry, buffers: Tree, samples: Batch, key: int) -> tuple[Tree, torch.Tensor, Tree]:
        """Gradient of the mean loss of a step, the per-sample losses, the new buffers."""
        train = {name: leaf.detach().requires_grad_() for name, leaf in carry["train"].items()}
        apply = self._functional.apply(self._functional.key(key))
        carry, criterion = {**carry, "train": train}, self._job.criterion
        with torch.enable_grad():
            per_sample, new = self._job.rule.loss(apply, carry, buffers, samples, criterion)
            grads = gradient_of(per_sample.mean(), train)
        return grads, per_sample.detach(), {k: v.detach() for k, v in new.items()}

    def _arranged(self, received: Payload) -> Payload:
        return received if self._received is None else self._received(received)


@final
class ChannelsLast:
    """Received payloads with their convolution weights channels last; remembers the latest one."""

    def __init__(self) -> None:
        self._latest: tuple[Payload, Payload] | None = None

    def __call__(self, received: Payload) -> Payload:
        """The payload in the other memory format."""
        if self._latest is None or self._latest[0] is not received:
            self._latest = received, {name: _channels_last(leaves) for name, leaves in received.items()}
        return self._latest[1]


def gained(new: Tree, old: Tree) -> Tree:
    """What the buffers that were received gained; narrow integers would wrap around below zero."""
    return {name: _wide(new[name]) - _wide(leaf) for name, leaf in old.items()}


def _wide(leaf: torch.Tensor) -> torch.Tensor:
    return leaf if leaf.is_floating_point() else leaf.long()


def _moments(losses: list[torch.Tensor]) -> tuple[float, float]:
    """Mean and mean square of all per-sample losses; NaN if there is none."""
    if not losses:
        return float("nan"), float("nan")
    seen = torch.cat(losses).double()
    mean, square = torch.stack([seen.mean(), seen.square().mean()]).tolist()
    return mean, square


def _channels_last(leaves: Tree) -> Tree:
    return {
        name: leaf.contiguous(memory_format=torch.channels_last) if leaf.dim() == 4 else leaf  # noqa: PLR2004
        for name, leaf in leaves.items()
    }


def _contiguous(leaves: Tree) -> Tree:
    return {name: leaf.contiguous() for name, leaf in leaves.items()}
