"""What a policy of the slot `epochs` must do, as tests to inherit: give `make`, get the rest.

class TestMine(EpochsContract):
    def make(self):
        return Mine()
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np

from evsim.algorithms.epochs import Epochs
from evsim.base import rng

_CLIENTS, _NTH = np.arange(400) % 40, np.arange(400) // 40


class EpochsContract(ABC):
    """Passes are whole, at least one, at most `most`, and a function of the run, the client and the task's number."""

    @abstractmethod
    def make(self) -> Epochs:
        """The policy."""

    def test_passes_are_whole_numbers_within_bounds(self) -> None:
        policy = self.make()
        passes = policy.draw(rng.key(1, "epochs"), _CLIENTS, _NTH)
        assert passes.dtype == np.int64
        assert passes.shape == _CLIENTS.shape
        assert passes.min() >= 1
        assert passes.max() <= policy.most

    def test_passes_of_a_task_do_not_depend_on_the_others(self) -> None:
        policy, key = self.make(), rng.key(2, "epochs")
        together = policy.draw(key, _CLIENTS, _NTH)
        assert policy.draw(key, _CLIENTS[::-1], _NTH[::-1]).tolist() == together[::-1].tolist()
        alone = [policy.draw(key, _CLIENTS[k : k + 1], _NTH[k : k + 1]).item() for k in range(0, 400, 37)]
        assert alone == together[::37].tolist()

    def test_nobody_is_drawn_for_nobody(self) -> None:
        assert len(self.make().draw(3, _CLIENTS[:0], _NTH[:0])) == 0
