"""What the learning side keeps of a task, before and after its training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import numpy as np
import torch

from evsim.algorithms.tree import Payload
from evsim.base.vocabulary import Feedback, IntArray

Seen = dict[int, tuple[float, bool]]  # by task: its utility, and whether its update is finite


@final
@dataclass(frozen=True, eq=False)
class Resolved:
    """A trained task: its update as the server sees it (None: not finite), and its utility."""

    update: Payload | None
    utility: float


def moved(buffer: torch.Tensor, gained: torch.Tensor) -> torch.Tensor:
    """A buffer and the mean of what clients gained, nothing else; integers are rounded and never wrap around."""
    total = buffer.double() + gained
    if buffer.is_floating_point():
        return total
    bounds = torch.iinfo(buffer.dtype)
    return total.round().clamp(bounds.min, bounds.max).to(buffer.dtype)


def feedback_of(tasks: IntArray, seen: Seen, weights: Mapping[int, float] | None = None) -> Feedback:
    """(utility, valid) and the merge weight by task, in the order asked for."""
    wanted = tasks.tolist()
    found = [seen[task] for task in wanted]
    utility, valid = np.array([u for u, _ in found], np.float64), np.array([v for _, v in found], np.bool_)
    weight = None if weights is None else np.array([weights[task] for task in wanted], np.float64)
    return Feedback(tasks, utility, valid, weight)
