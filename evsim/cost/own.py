"""What clients' tasks cost where they differ, as columns: bytes, share of the computing, work."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np

from evsim.base.vocabulary import FloatArray, IntArray
from evsim.cost.work import Work


@final
@dataclass(frozen=True, eq=False)
class Own:
    """One entry per client; it follows from what clients declare, and stays for a run.

    Attributes:
        group: whose message each gets.
        bytes_down, bytes_up: charged size of a message down and up.
        compute_share: cost of computing on a sample, relative to the whole model.
        max_steps: most local steps of a task; 0: as many as are scheduled.
        batch_size: samples of a mini-batch; 0: as the client rule says.
        work: samples of a task of so many steps.
    """

    group: IntArray
    bytes_down: IntArray
    bytes_up: IntArray
    compute_share: FloatArray
    max_steps: IntArray
    batch_size: IntArray
    work: Work

    def batch_sizes(self, default: int) -> IntArray:
        """Samples of a mini-batch of each client; `default`: what the client rule says."""
        return np.where(self.batch_size > 0, self.batch_size, default)

    def work_at(self, clients: IntArray) -> Work:
        """The work of some clients."""
        return Work(self.work.samples[clients], self.work.forward_samples[clients])
