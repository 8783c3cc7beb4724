"""The mini-batches of a task: how many steps, over how many samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np

from evsim.base.errors import require
from evsim.base.vocabulary import BoolArray, IntArray

#: So that samples times epochs fit into 64 bits.
_MOST = {"batch_size": 10**12, "epochs": 10**6, "steps": 10**12}


@final
@dataclass(frozen=True)
class Schedule:
    """Mini-batches of one task: whole passes in a fresh random order each, or a number of steps.

    Attributes:
        batch_size: samples per step.
        epochs: passes over the samples.
        steps: steps instead of passes; they go on through as many passes as they need.
        drop_last: leave out the last batch of a pass if it is not full, as ``DataLoader(drop_last=True)`` does; a
            client with less than one batch still trains, on one batch of all it has.
    """

    batch_size: int
    epochs: int | None = None
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
        require(self.epochs is None or self.epochs >= 1, "epochs must be >= 1", epochs=self.epochs)
        require(self.steps is None or self.steps >= 1, "steps must be >= 1", steps=self.steps)
        for name, most in _MOST.items():
            value = getattr(self, name)
            require(value is None or value <= most, f"{name} must be <= {most}", **{name: value})

    def per_pass(self, n_samples: IntArray) -> tuple[IntArray, IntArray]:
        """Steps of one pass over a client's samples, and the samples that go through them."""
        if not self.drop_last:
            return np.asarray(-(-n_samples // self.batch_size)), np.asarray(n_samples)
        full = n_samples // self.batch_size
        steps = np.maximum(full, np.minimum(n_samples, 1))
        return steps, np.where(full > 0, full * self.batch_size, n_samples)

    def n_steps(self, n_samples: IntArray) -> IntArray:
        """Steps per client."""
        if self.epochs is not None:
            return np.asarray(self.per_pass(n_samples)[0] * self.epochs)
        return np.where(n_samples > 0, np.int64(self.steps or 0), 0)

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


def last_batches_of_one(schedule: Schedule, n_samples: IntArray) -> BoolArray:
    """Which clients come to a mini-batch of a single sample, on which BatchNorm cannot train.

    >>> last_batches_of_one(Schedule(4, epochs=1), np.array([0, 1, 4, 5])).tolist()
    [False, True, False, True]
    >>> last_batches_of_one(Schedule(4, epochs=1, drop_last=True), np.array([0, 1, 4, 5])).tolist()
    [False, True, False, False]
    """
    per_pass, used = schedule.per_pass(n_samples)
    last = used - (per_pass - 1) * schedule.batch_size
    reached = schedule.n_steps(n_samples) >= (1 if schedule.batch_size == 1 else per_pass)
    return np.asarray((n_samples > 0) & reached & (last == 1))
