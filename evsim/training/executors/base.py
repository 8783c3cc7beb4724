"""The slot of executors: how tasks are really trained.

`Serial` is the definition of correct; every other executor must agree with it within a stated tolerance. An executor is
a frozen policy; `open` gives it the job and returns a live `Runner`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import final

import torch

from evsim.algorithms.base import ClientRule, Criterion, State
from evsim.algorithms.tree import Payload
from evsim.training.data.samples import TrainingData
from evsim.training.executors.sums import Block, Weights, added_up_in_few, weights_at
from evsim.training.objectives.base import Objective, criterion
from evsim.training.objectives.classification import Classification

_BLOCK = 8  # tasks that are added up together if an executor has no way of its own


@final
@dataclass(frozen=True, eq=False)
class Job:
    """What does not change during a run: the model, the rule, the data, the precision, the objective.

    `dtype` is the precision of parameters; with `autocast` the forward pass runs in bfloat16.
    """

    model: torch.nn.Module
    rule: ClientRule
    data: TrainingData
    dtype: torch.dtype
    autocast: bool
    device: torch.device
    seed: int
    objective: Objective = field(default_factory=Classification)

    @cached_property
    def criterion(self) -> Criterion:
        """Per-sample losses of outputs and labels."""
        return criterion(self.objective)


@final
@dataclass(frozen=True, eq=False)
class TrainTask:
    """One task with all its inputs, fixed at dispatch: training it any time later gives the same result."""

    task: int
    client: int
    nth: int  # how many tasks the client had before
    version: int
    received: Payload
    state: State
    max_steps: int = 0  # partial work: no more steps than this; 0 for no limit
    batch_size: int = 0  # samples of a mini-batch; 0: as the rule's schedule says


@final
@dataclass(frozen=True, eq=False)
class Result:
    """What training a task gave.

    Attributes:
        task: the task.
        update: deltas in the precision of training: "model", "buffers", and what else the rule sends.
        state: the client's next state, valid if the report is accepted.
        steps: executed steps.
        mean_loss, mean_square_loss: over every sample that went through a step, losses as they were before the step.
        metrics: numbers from the rule.
    """

    task: TrainTask
    update: Payload
    state: State
    steps: int
    mean_loss: float
    mean_square_loss: float
    metrics: Mapping[str, float] = field(default_factory=dict)


class Runner(ABC):
    """A live executor."""

    @property
    @abstractmethod
    def plan(self) -> Mapping[str, object]:
        """What was chosen (mode, chunk, threads ...), for the manifest."""

    @abstractmethod
    def run(self, tasks: Sequence[TrainTask]) -> Iterator[Result]:
        """Train the tasks; one result each, in the order given."""

    def sums(self, tasks: Sequence[TrainTask], weights: Weights) -> Iterator[Block]:
        """Train the tasks and give the weighted sums of their updates, some tasks at a time.

        For merges that need no single update. Every task is in one block; which ones are in a block together depends
        on the tasks and on settings of the executor only, never on time, so the same sums come out again.
        """
        for start in range(0, len(tasks), _BLOCK):
            part = slice(start, start + _BLOCK)
            block = added_up_in_few(partial(self.run, tasks[part]), weights_at(weights, part))
            yield replace(block, places=block.places + start)

    @abstractmethod
    def close(self) -> None:
        """Release processes and memory."""


class Executor(ABC):
    """A way to train many small clients."""

    @abstractmethod
    def open(self, job: Job) -> Runner:
        """Get ready for a job."""
