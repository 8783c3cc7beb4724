"""Merges of asynchronous methods: FedBuff's sum over the buffer size, FedAsync's mixing of models."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, final

import numpy as np
import torch
from typing_extensions import override

from evsim.algorithms import tree
from evsim.algorithms.base import Merge, ReportMeta, Reports, State, StepInfo, SummingMerge
from evsim.algorithms.company import in_rounds, name_of
from evsim.algorithms.sums import WeightedSums
from evsim.base.caveat import Caveat
from evsim.base.errors import Problem, require

if TYPE_CHECKING:
    from collections.abc import Iterator

    from evsim.algorithms.tree import Payload


@final
@dataclass(frozen=True, kw_only=True)
class BufferMean(SummingMerge):
    """sum_k s_k u_k / K with K the buffer size, whatever the weights: FedBuff as printed (Nguyen et al. 2022, alg. 1).

    Stale buffers therefore make smaller steps; `mean` divides by the sum of weights instead. Model buffers, which are
    averages and no updates, are divided by their own weights here too; where all of those are 0 they stay as they are.
    """

    style: ClassVar[Literal["mean", "coordinate", "whole", "model"]] = "mean"

    @override
    def caveats(self, scenario: Any) -> Iterator[Caveat]:
        aggregation = scenario.aggregation
        size = aggregation.reports_per_step
        if in_rounds(aggregation):
            yield Caveat(
                "buffer_mean_in_rounds",
                f"merge buffer_mean divides by cohort_goal = {size}, however few reports came; it is FedBuff's",
                remedy='use merge kind = "mean", or aggregation kind = "buffered"',
            )
        most = getattr(aggregation, "concurrency", size)
        if getattr(aggregation, "period", None) is not None and size > most:
            yield Caveat(
                "buffer_mean_of_periods",
                f"merge buffer_mean divides by buffer_size = {size}, however few reports a period brought: steps come "
                "out too small",
                f"concurrency = {most}",
                "merge mean divides by the weights of those that came",
            )

    @property
    @override
    def minimum_updates(self) -> int:
        return 1

    @override
    def finish(self, acc: WeightedSums, server: State, info: StepInfo) -> Payload:
        size = info.cohort_goal or info.n_reports
        divisors = {**dict.fromkeys(acc.totals, float(size)), "buffers": acc.weights.get("buffers", 0.0)}
        return {name: tree.scale(total, 1 / divisors[name]) for name, total in acc.totals.items() if divisors[name] > 0}


@final
@dataclass(frozen=True, kw_only=True)
class Mixing(Merge["Payload"]):
    """w <- (1 - a s) w + a s y, one report after the other: FedAsync as printed (Xie et al. 2019, algorithm 1).

    y = base + delta is the client's *model*, so a stale report also pulls back what was learnt since its version; s is
    the report's weight, to be given by a staleness weighting with uniform base. The merged update is the sum of the
    moves, for a server optimizer with learning rate 1.

    Attributes:
        alpha: a.
    """

    alpha: float = 0.6
    style: ClassVar[Literal["mean", "coordinate", "whole", "model"]] = "model"

    def __post_init__(self) -> None:
        require(0 < self.alpha <= 1, "0 < alpha <= 1 must hold", alpha=self.alpha)

    @override
    def problems(self, scenario: Any) -> Iterator[Problem]:
        """A share of the client's model: a weight that counts samples would throw the server's model far away."""
        large_and_fresh = Reports(np.array([0]), np.array([1000]), np.array([0]))
        weight = float(scenario.weighting.weights(large_and_fresh)[""][0])
        if weight > 1:
            yield Problem(
                "weighting",
                f"{name_of(scenario.weighting)} gives a fresh report of 1000 samples the weight {weight:g}",
                "weights of at most 1, which merge kind = 'mixing' multiplies by alpha",
                "use weighting kind = 'uniform', or a staleness weighting with base = 'uniform'",
            )

    @override
    def caveats(self, scenario: Any) -> Iterator[Caveat]:
        size = scenario.aggregation.reports_per_step
        if in_rounds(scenario.aggregation):
            remedy = 'use aggregation kind = "buffered" with buffer_size = 1'
            yield Caveat("mixing_in_rounds", "merge mixing is FedAsync's, not for rounds", remedy=remedy)
        elif size > 1:
            yield Caveat(
                "mixing_in_buffers",
                "FedAsync steps with every single report; in a buffer merge mixing takes them in one after the other, "
                "and their staleness does not count each other",
                f"buffer_size = {size}",
                "set aggregation.buffer_size = 1",
            )

    @property
    @override
    def minimum_updates(self) -> int:
        return 1

    @override
    def init(self, server: State, info: StepInfo) -> Payload:
        return {"model": server["model"], "buffers": server["buffers"]}

    @override
    def add(self, acc: Payload, update: Payload, weight: dict[str, float], meta: ReportMeta) -> Payload:
        share = self.alpha * weight[""]
        mixed: Payload = {}
        for name in ("model", "buffers"):
            theirs = tree.add(tree.cast(meta.base[name], torch.float64), update[name])
            mixed[name] = tree.add_scaled(acc[name], tree.sub(theirs, acc[name]), share) if theirs else acc[name]
        return mixed

    @override
    def finish(self, acc: Payload, server: State, info: StepInfo) -> Payload:
        return {name: tree.sub(leaves, server[name]) if leaves else leaves for name, leaves in acc.items()}
