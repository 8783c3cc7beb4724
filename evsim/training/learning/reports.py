"""What the learning side keeps of a task, before and after its training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np

from evsim.algorithms.tree import Payload
from evsim.base.vocabulary import Feedback, IntArray

if TYPE_CHECKING:
    import torch


Seen = dict[int, tuple[float, bool]]  # by task: its utility, and whether its update is finite


@final
@dataclass(frozen=True, eq=False)
class Resolved:
    """A trained task: its update as the server sees it (None: not finite), and its utility."""

    update: Payload | None
    utility: float


def averaged(buffer: torch.Tensor, gained: torch.Tensor) -> torch.Tensor:
    """Buffers are averaged and nothing else; integer ones are rounded."""
    total = buffer.double() + gained
    return total if buffer.is_floating_point() else total.round().to(buffer.dtype)


def feedback_of(tasks: IntArray, seen: Seen, weights: Mapping[int, float] | None = None) -> Feedback:
    """(utility, valid) and the merge weight by task, in the order asked for."""
    wanted = tasks.tolist()
    found = [seen[task] for task in wanted]
    utility, valid = np.array([u for u, _ in found], np.float64), np.array([v for _, v in found], np.bool_)
    weight = None if weights is None else np.array([weights[task] for task in wanted], np.float64)
    return Feedback(tasks, utility, valid, weight)
