"""The geometric median of the updates: RFA.

Pillutla, Kakade, Harchaoui, Robust Aggregation for Federated Learning, IEEE Trans. Signal Processing 2022 (arXiv
1912.13445), algorithm 2, the smoothed Weiszfeld algorithm: z minimizes sum_k a_k ||z - u_k||, found by

    b_k = a_k / max(nu, ||z - u_k||),    z <- sum_k b_k u_k / sum_k b_k.

It starts at z = 0, the current model: the mean, where the authors' code starts, is where an attacker wants it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import isfinite
from typing import final

import torch
from typing_extensions import override

from evsim.algorithms import tree
from evsim.algorithms.base import Merge, ReportMeta, State, StepInfo
from evsim.algorithms.tree import Payload
from evsim.base.errors import require


@final
@dataclass(eq=False)
class Weighed:
    """The updates of a step and the weight of each; changed in place."""

    updates: list[Payload] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)


@final
@dataclass(frozen=True, kw_only=True)
class GeometricMedian(Merge[Weighed]):
    """Withstands bad reports of less than half of the *weight*: with weights by samples, one large client can have it.

    Distances are those of the whole model; buffers are averaged with the same b_k. Every step of the iteration would be
    a secure sum of its own in a deployment, which the clock does not charge.

    Attributes:
        iterations: at most so many steps.
        smoothing: nu; distances below it count as it.
        tolerance: stops when the sum of distances falls by less than this share of it; the authors' 1e-6.
    """

    style = "model"

    iterations: int = 100
    smoothing: float = 1e-6
    tolerance: float = 1e-6

    def __post_init__(self) -> None:
        require(self.iterations >= 1, "iterations must be >= 1", iterations=self.iterations)
        good = isfinite(self.smoothing) and self.smoothing > 0
        require(good, "smoothing must be > 0", smoothing=self.smoothing)
        require(0 <= self.tolerance < 1, "0 <= tolerance < 1 must hold", tolerance=self.tolerance)

    @property
    @override
    def minimum_updates(self) -> int:
        return 1

    @override
    def init(self, server: State, info: StepInfo) -> Weighed:
        return Weighed()

    @override
    def add(self, acc: Weighed, update: Payload, weight: dict[str, float], meta: ReportMeta) -> Weighed:
        weighs = weight.get("model", weight[""])
        if weighs > 0:
            acc.updates.append(update)
            acc.weights.append(weighs)
        return acc

    @override
    def finish(self, acc: Weighed, server: State, info: StepInfo) -> Payload:
        if not acc.updates:
            return {}
        vectors = torch.stack([tree.flat(update["model"]) for update in acc.updates])
        shares = self.shares(vectors, torch.tensor(acc.weights, dtype=torch.float64)).tolist()
        return {
            name: {
                leaf: sum(s * each[name][leaf] for s, each in zip(shares, acc.updates, strict=True)) for leaf in part
            }
            for name, part in acc.updates[0].items()
        }

    def shares(self, vectors: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """How much of each row (float64) the median is made of; they sum to 1."""
        weights = weights / weights.sum()
        distances = torch.linalg.vector_norm(vectors, dim=1)
        shares = weights
        for _ in range(self.iterations):
            pulls: torch.Tensor = weights / distances.clamp(min=self.smoothing)
            shares = pulls / pulls.sum()
            before = float(weights @ distances)
            distances = torch.linalg.vector_norm(vectors - shares @ vectors, dim=1)
            if before - float(weights @ distances) <= self.tolerance * before:
                break
        return shares
