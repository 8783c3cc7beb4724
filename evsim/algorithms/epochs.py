"""How many passes a task makes where that differs from task to task: the slot `epochs`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np
from typing_extensions import override

from evsim.base import rng
from evsim.base.errors import require
from evsim.base.policy import Policy
from evsim.base.vocabulary import IntArray

_MOST = 10**6


class Epochs(Policy, ABC):
    """Draws the passes of a task when it is given out; the clock, the training and `tasks.steps` go by it."""

    slot: ClassVar[str] = "epochs"

    @property
    @abstractmethod
    def most(self) -> int:
        """No task makes more passes: what is declared of clients before a task is."""

    @abstractmethod
    def draw(self, key: int, clients: IntArray, nth: IntArray) -> IntArray:
        """Passes of a client's so-many-eth task, from 0: >= 1, <= `most`; the same for the same key, client and number.

        `key` names the draws of the run: use `rng.hash64(key, clients, nth)` or `rng.uniform`.
        """


@final
@dataclass(frozen=True, kw_only=True)
class UniformEpochs(Epochs):
    """Each whole number of passes from `from` to `to` with the same probability, as in FedNova's experiments.

    Wang et al., Tackling the Objective Inconsistency Problem, NeurIPS 2020, section 5: E ~ U(2, 5). With u the uniform
    draw named by (seed, "epochs", client, n-th task), a task makes from + floor(u (to - from + 1)) passes.

    Attributes:
        from_: the fewest passes.
        to: the most.
    """

    from_: int
    to: int

    def __post_init__(self) -> None:
        require(self.from_ >= 1, "from must be >= 1", given=self.from_)
        require(self.to <= _MOST, f"to must be <= {_MOST}", to=self.to)
        require(self.from_ <= self.to, "from must be <= to", given=self.from_, to=self.to)

    @property
    @override
    def most(self) -> int:
        return self.to

    @override
    def draw(self, key: int, clients: IntArray, nth: IntArray) -> IntArray:
        draws = rng.uniform(key, clients, nth)
        return np.asarray(self.from_ + np.floor(draws * (self.to - self.from_ + 1)).astype(np.int64))
