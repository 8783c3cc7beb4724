"""The mini-batches of a task: how many steps, over how many samples."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import isfinite
from typing import final

import numpy as np

from evsim.algorithms.epochs import Epochs
from evsim.base import rng
from evsim.base.errors import require
from evsim.base.vocabulary import BoolArray, IntArray

#: So that samples times epochs fit into 64 bits.
_MOST = {"batch_size": 10**12, "epochs": 10**6, "steps": 10**12}
_DENOMINATOR = 10**6


@final
@dataclass(frozen=True, eq=False)
class TaskNames:
    """What names the draws of tasks: the run's seed, and for each task its client and how many that had before."""

    seed: int
    clients: IntArray
    nth: IntArray


@final
@dataclass(frozen=True)
class Schedule:
    """Mini-batches of one task: passes in a fresh random order each, or a number of steps.

    Passes need not be whole: with b batches in a pass, e epochs are ceil(e b) steps, at least one, and the last pass
    breaks off there. For e = 0.1 is meant 1/10, not the number of 64 bits next to it: the nearest fraction with a
    denominator of at most a million.

    Attributes:
        batch_size: samples per step.
        epochs: passes over the samples, or how they are drawn for each task.
        steps: steps instead of passes; they go on through as many passes as they need.
        drop_last: leave out the last batch of a pass if it is not full, as ``DataLoader(drop_last=True)`` does; a
            client with less than one batch still trains, on one batch of all it has.
    """

    batch_size: int
    epochs: int | float | Epochs | None = None
    steps: int | None = None
    drop_last: bool = False

    def __post_init__(self) -> None:
        require(self.batch_size >= 1, "batch_size must be >= 1", batch_size=self.batch_size)
        require(
            (self.epochs is None) != (self.steps is None),
            "give either epochs or steps",
            epochs=self.epochs,
            steps=self.steps,
        )
        fixed = None if isinstance(self.epochs, Epochs) else self.epochs
        require(fixed is None or (isfinite(fixed) and fixed > 0), "epochs must be > 0", epochs=fixed)
        require(self.steps is None or self.steps >= 1, "steps must be >= 1", steps=self.steps)
        for name, value in (("batch_size", self.batch_size), ("epochs", fixed), ("steps", self.steps)):
            require(value is None or value <= _MOST[name], f"{name} must be <= {_MOST[name]}", **{name: value})

    @property
    def is_drawn(self) -> bool:
        """Whether tasks of one client differ in their steps."""
        return isinstance(self.epochs, Epochs)

    def per_pass(self, n_samples: IntArray, size: IntArray | None = None) -> tuple[IntArray, IntArray]:
        """Steps of one pass over a client's samples, and the samples that go through them.

        `size`: samples of a mini-batch of each client, where these are not `batch_size`.
        """
        size = np.asarray(self.batch_size) if size is None else size
        if not self.drop_last:
            return np.asarray(-(-n_samples // size)), np.asarray(n_samples)
        full = n_samples // size
        steps = np.maximum(full, np.minimum(n_samples, 1))
        return steps, np.where(full > 0, full * size, n_samples)

    def n_steps(self, n_samples: IntArray, names: TaskNames | None = None, size: IntArray | None = None) -> IntArray:
        """Steps per client; where they are drawn, those of the named tasks, or without names the most.

        `size` as for `per_pass`.
        """
        if self.epochs is None:
            return np.where(n_samples > 0, np.int64(self.steps or 0), 0)
        batches = self.per_pass(n_samples, size)[0]
        if isinstance(self.epochs, Epochs):
            return np.asarray(batches * self._drawn(self.epochs, names))
        if isinstance(self.epochs, int):
            return np.asarray(batches * self.epochs)
        whole, rest = divmod(Fraction(self.epochs).limit_denominator(_DENOMINATOR), 1)
        steps = batches * int(whole) - (-batches * rest.numerator // rest.denominator)
        return np.asarray(np.maximum(steps, batches > 0))

    def _drawn(self, epochs: Epochs, names: TaskNames | None) -> IntArray | int:
        return epochs.most if names is None else epochs.draw(rng.key(names.seed, "epochs"), names.clients, names.nth)

    def n_processed(self, n_samples: IntArray) -> IntArray:
        """Samples that go through a step, with repetition, per client."""
        return self.n_processed_in(n_samples, self.n_steps(n_samples))

    def n_processed_in(self, n_samples: IntArray, steps: IntArray) -> IntArray:
        """Samples that go through the first `steps` steps, per client."""
        per_pass, used = self.per_pass(n_samples)
        passes, rest = np.divmod(steps, np.maximum(per_pass, 1))
        return np.asarray(passes * used + np.minimum(rest * self.batch_size, used))

    def n_steps_within(self, n_samples: IntArray, processed: IntArray) -> IntArray:
        """Whole steps that process at most so many samples, per client; never more than scheduled."""
        per_pass, used = self.per_pass(n_samples)
        passes, rest = np.divmod(np.maximum(processed, 0), np.maximum(used, 1))
        return np.asarray(np.minimum(passes * per_pass + rest // self.batch_size, self.n_steps(n_samples)))


def last_batches_of_one(schedule: Schedule, n_samples: IntArray, size: IntArray | None = None) -> BoolArray:
    """Which clients come to a mini-batch of a single sample, on which BatchNorm cannot train.

    `size`: samples of a mini-batch of each client, where these are not the schedule's.

    >>> last_batches_of_one(Schedule(4, epochs=1), np.array([0, 1, 4, 5])).tolist()
    [False, True, False, True]
    >>> last_batches_of_one(Schedule(4, epochs=1, drop_last=True), np.array([0, 1, 4, 5])).tolist()
    [False, True, False, False]
    """
    size = np.full(np.shape(n_samples), schedule.batch_size) if size is None else size
    per_pass, used = schedule.per_pass(n_samples, size)
    last = used - (per_pass - 1) * size
    reached = schedule.n_steps(n_samples, size=size) >= np.where(size == 1, 1, per_pass)
    return np.asarray((n_samples > 0) & reached & (last == 1))
