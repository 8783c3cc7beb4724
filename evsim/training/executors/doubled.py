"""A few tasks in double precision: whether two executors differ by rounding, or by more.

Where a unit of a deep network is nearly off, rounding in float32 turns it on or off, and a gradient changes by a
thousandth: that of `Serial` in float32 is then as far from its own in float64. Only double precision tells.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from evsim.algorithms import tree
from evsim.training.executors.base import Job, TrainTask
from evsim.training.models.modes import private_copy

if TYPE_CHECKING:
    from evsim.algorithms.tree import Payload


def in_double(job: Job, tasks: Sequence[TrainTask]) -> tuple[Job, list[TrainTask]]:
    """The job in float64 on the samples of these tasks, and the tasks on it; they train other mini-batches there."""
    data, own = job.data, [job.data.of_client(task.client) for task in tasks]
    rows = np.concatenate(own)
    x, y = data.take(data.rows(rows))
    offsets = np.concatenate([[0], np.cumsum([len(each) for each in own])])
    some = replace(data, x=_wide(x), y=_wide(y), index=np.arange(len(rows)), offsets=offsets, streamed=False, held=None)
    model = private_copy(job.model).double()
    changed = [
        replace(task, client=place, received=_payload(task.received), state=_payload(task.state))
        for place, task in enumerate(tasks)
    ]
    return replace(job, model=model, data=some, dtype=torch.float64), changed


def _payload(payload: Payload) -> Payload:
    return {name: tree.apply(_wide, leaves) for name, leaves in payload.items()}


def _wide(leaf: torch.Tensor) -> torch.Tensor:
    return leaf.double() if leaf.is_floating_point() else leaf
