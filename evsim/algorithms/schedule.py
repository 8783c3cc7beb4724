"""The mini-batches of a task: how many steps, over how many samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np

from evsim.base.errors import require
from evsim.base.vocabulary import IntArray

#: So that samples times epochs fit into 64 bits.
_MOST = {"batch_size": 10**12, "epochs": 10**6, "steps": 10**12}


@final
@dataclass(frozen=True)
class Schedule:
    """Mini-batches of one task: whole passes in a fresh random order each, or a number of steps."""

    batch_size: int
    epochs: int | None = None
    steps: int | None = None

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

    def n_steps(self, n_samples: IntArray) -> IntArray:
        """Steps per client."""
        per_epoch = -(-n_samples // self.batch_size)
        if self.epochs is not None:
            return np.asarray(per_epoch * self.epochs)
        return np.where(n_samples > 0, np.int64(self.steps or 0), 0)

    def n_processed(self, n_samples: IntArray) -> IntArray:
        """Samples that go through a step, with repetition, per client."""
        if self.epochs is not None:
            return np.asarray(n_samples * self.epochs)
        per_epoch = np.maximum(-(-n_samples // self.batch_size), 1)
        epochs, rest = np.divmod(self.n_steps(n_samples), per_epoch)
        return np.asarray(epochs * n_samples + np.minimum(rest * self.batch_size, n_samples))

    def n_processed_in(self, n_samples: IntArray, steps: IntArray) -> IntArray:
        """Samples that go through the first `steps` steps, per client."""
        epochs, rest = np.divmod(steps, np.maximum(-(-n_samples // self.batch_size), 1))
        return np.asarray(epochs * n_samples + np.minimum(rest * self.batch_size, n_samples))

    def n_steps_within(self, n_samples: IntArray, processed: IntArray) -> IntArray:
        """Whole steps that process at most so many samples, per client; never more than scheduled."""
        epochs, rest = np.divmod(np.maximum(processed, 0), np.maximum(n_samples, 1))
        steps = epochs * -(-n_samples // self.batch_size) + rest // self.batch_size
        return np.asarray(np.minimum(steps, self.n_steps(n_samples)))
