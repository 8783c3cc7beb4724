"""Merges that withstand a few bad updates: they keep all updates of a step in memory, one float64 model per report.

Weights are not used, since an attacker may lie about its samples, except that reports of weight 0 are left out.

These rules count *reports*. Where a client may have several in one step (a buffer, or late reports kept beside fresh
ones), `attackers` and `share` bound the bad reports and not the bad clients; `caveats` says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import torch
from typing_extensions import override

from evsim.algorithms import tree
from evsim.algorithms.base import Merge, ReportMeta, State, StepInfo
from evsim.algorithms.company import may_report_twice, name_of
from evsim.base.caveat import Caveat
from evsim.base.counts import floor_count
from evsim.base.errors import TrainingError, require

if TYPE_CHECKING:
    from evsim.algorithms.tree import Payload

Updates = list["Payload"]


class Robust(Merge[Updates]):
    """A merge that looks at all updates of a step at once; those of weight 0 are left out."""

    @property
    @override
    def minimum_updates(self) -> int:
        return 1

    @override
    def init(self, server: State, info: StepInfo) -> Updates:
        return []

    @override
    def add(self, acc: Updates, update: Payload, weight: dict[str, float], meta: ReportMeta) -> Updates:
        if weight.get("model", weight[""]) > 0:
            acc.append(update)
        return acc

    @override
    def caveats(self, scenario: Any) -> Iterator[Caveat]:
        if may_report_twice(scenario.aggregation):
            yield Caveat(
                "robust_merge_counts_reports",
                f"merge {name_of(self)} withstands a number of bad reports, and a client may have several in a step: "
                "one bad client can be more than one of them",
                f"{scenario.aggregation.reports_per_step} reports per step",
                'use rounds with late_reports = "discard", or merge kind = "norm_clip", which bounds each client',
            )


@final
@dataclass(frozen=True, kw_only=True)
class Median(Robust):
    """The median of each coordinate (Yin et al., ICML 2018); of an even number, the mean of the two in the middle."""

    style = "coordinate"

    @override
    def finish(self, acc: Updates, server: State, info: StepInfo) -> Payload:
        n = len(acc)
        return _by_coordinate(acc, lambda rows: rows[(n - 1) // 2 : n // 2 + 1].mean(0))


@final
@dataclass(frozen=True, kw_only=True)
class TrimmedMean(Robust):
    """The mean of each coordinate without its floor(share n) largest and smallest values (Yin et al., ICML 2018).

    Attributes:
        share: cut at each side, below 0.5.
    """

    style = "coordinate"

    share: float = 0.1

    def __post_init__(self) -> None:
        require(0 <= 2 * self.share < 1, "0 <= share < 0.5 must hold", share=self.share)

    @override
    def finish(self, acc: Updates, server: State, info: StepInfo) -> Payload:
        n = len(acc)
        cut = min(floor_count(self.share, n), (n - 1) // 2)
        return _by_coordinate(acc, lambda rows: rows[cut : n - cut].mean(0))


@final
@dataclass(frozen=True, kw_only=True)
class Krum(Robust):
    """The update nearest to its neighbours (Blanchard et al., NeurIPS 2017); needs n >= 2f + 3 arrived updates.

    The score of an update is the sum of its n - f - 2 smallest squared distances to others; the lowest score wins.

    Attributes:
        attackers: f, how many bad updates a step may hold.
    """

    style = "whole"

    attackers: int

    def __post_init__(self) -> None:
        require(self.attackers >= 0, "attackers must be >= 0", attackers=self.attackers)

    @property
    @override
    def minimum_updates(self) -> int:
        return 2 * self.attackers + 3

    @override
    def finish(self, acc: Updates, server: State, info: StepInfo) -> Payload:
        return _krum(acc, self.attackers, keep=1)


@final
@dataclass(frozen=True, kw_only=True)
class MultiKrum(Robust):
    """The mean, each with the same weight, of the updates of the lowest Krum scores; needs n >= 2f + 3 arrived updates.

    Attributes:
        attackers: f, how many bad updates a step may hold.
        keep: how many updates are averaged; None keeps n - f.
    """

    style = "whole"

    attackers: int
    keep: int | None = None

    def __post_init__(self) -> None:
        require(self.attackers >= 0, "attackers must be >= 0", attackers=self.attackers)
        require(self.keep is None or self.keep >= 1, "keep must be >= 1", keep=self.keep)

    @property
    @override
    def minimum_updates(self) -> int:
        return max(2 * self.attackers + 3, self.keep or 0)

    @override
    def finish(self, acc: Updates, server: State, info: StepInfo) -> Payload:
        return _krum(acc, self.attackers, self.keep or len(acc) - self.attackers)


def check_enough(rule: str, arrived: int, needed: int, attackers: int) -> None:
    """Refuse to merge too few updates for what a rule promises.

    Raises:
        TrainingError: with both numbers and the remedy.
    """
    if arrived < needed:
        raise TrainingError(
            f"merge: {arrived} usable updates arrived, but {rule} with attackers = {attackers} needs at least "
            f"{needed}; raise minimum_reports (and cohort_goal) to {needed} or more, or lower attackers"
        )


def krum_scores(vectors: torch.Tensor, attackers: int) -> torch.Tensor:
    """Sum of the n - f - 2 smallest squared distances of each row to the others; rows are float64 updates.

    Distances come from differences: the expansion ||x||^2 + ||y||^2 - 2xy loses the digits of close updates.
    """
    n = len(vectors)
    squares = torch.cdist(vectors, vectors, compute_mode="donot_use_mm_for_euclid_dist").square()
    squares.fill_diagonal_(torch.inf)
    return squares.sort(1).values[:, : n - attackers - 2].sum(1)


def _by_coordinate(acc: Updates, middle: Callable[[torch.Tensor], torch.Tensor]) -> Payload:
    """`middle` of the sorted values (reports first) of every number of every payload; {} for no updates."""
    if not acc:
        return {}
    return {
        name: {leaf: middle(torch.stack([update[name][leaf] for update in acc]).sort(0).values) for leaf in leaves}
        for name, leaves in acc[0].items()
    }


def _krum(acc: Updates, attackers: int, keep: int) -> Payload:
    needed = max(2 * attackers + 3, keep)
    if not acc:
        return {}
    check_enough("Krum", len(acc), needed, attackers)
    scores = krum_scores(torch.stack([tree.flat(update["model"]) for update in acc]), attackers)
    return _mean([acc[i] for i in sorted(torch.argsort(scores, stable=True)[:keep].tolist())])


def _mean(updates: Updates) -> Payload:
    total = updates[0]
    for update in updates[1:]:
        total = {name: tree.add(leaves, update[name]) for name, leaves in total.items()}
    return {name: tree.scale(leaves, 1 / len(updates)) for name, leaves in total.items()}
