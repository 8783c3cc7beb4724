"""How far two executors may be apart, and whether they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterable

    from evsim.training.executors.base import Job, Result

#: Largest difference between two executors, as a share of the largest number of the update, by precision. Training
#: amplifies rounding, so these are bounds for a few dozen steps.
TOLERANCE = {"float64": 1e-9, "float32": 1e-3, "bfloat16": 0.25}


def tolerance(job: Job) -> float:
    """The tolerance for a job's precision."""
    if job.autocast:
        return TOLERANCE["bfloat16"]
    return TOLERANCE["float64" if job.dtype == torch.float64 else "float32"]


def disagreement(job: Job, expected: Iterable[Result], found: Iterable[Result]) -> str:
    """What is wrong with the results of another executor; empty if they agree."""
    allowed = tolerance(job)
    for right, other in zip(expected, found, strict=True):
        apart = largest_difference(right, other)
        if not apart <= allowed:
            return f"its updates differ from those of Serial by {apart:.1e} (allowed: {allowed:.0e})"
    return ""


def largest_difference(right: Result, other: Result) -> float:
    """Largest absolute difference between two updates, as a share of the largest number in its payload.

    Two updates that are both not finite agree.
    """
    apart = 0.0
    for name, leaves in right.update.items():
        if not leaves:
            continue
        size = max(float(leaf.abs().max()) if leaf.numel() else 0.0 for leaf in leaves.values())
        gap = max(_gap(leaf, other.update[name][k]) for k, leaf in leaves.items())
        apart = max(apart, gap / max(size, 1e-12) if gap else 0.0)
    return apart


def _gap(a: torch.Tensor, b: torch.Tensor) -> float:
    if a.numel() == 0 or not (bool(torch.isfinite(a).all()) or bool(torch.isfinite(b).all())):
        return 0.0
    return float((a.double() - b.double()).abs().max())
