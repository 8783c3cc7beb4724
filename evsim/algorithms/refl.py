"""REFL's staleness-aware aggregation: stale updates count by their age and by how much they differ from the fresh ones.

Abdelmoniem et al., REFL: Resource-Efficient Federated Learning, EuroSys 2023, section 4.2. As the paper prints it: the
published code collects the stale updates, counts them in the divisor and never adds them.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp
from typing import TYPE_CHECKING, Any, ClassVar, Literal, final

from typing_extensions import override

from evsim.algorithms import tree
from evsim.algorithms.base import Merge, ReportMeta, State, StepInfo
from evsim.algorithms.company import in_rounds, never_stale
from evsim.base.caveat import Caveat
from evsim.base.errors import Problem, require

if TYPE_CHECKING:
    from collections.abc import Iterator

    from evsim.algorithms.tree import Payload, Tree

Updates = list[tuple["Payload", int]]  # update and its staleness


@final
@dataclass(frozen=True, kw_only=True)
class Refl(Merge[Updates]):
    """Fresh updates weigh 1; a stale one (1 - b) / (tau + 1) + b (1 - exp(-L / L_max)); weights are normalized.

    L = ||u - (u_s + n u) / (n + 1)||^2 / ||u||^2 with u the mean of the n fresh updates and u_s the stale one; L_max is
    the largest L of the step. Keeps all updates of a step in memory. The scenario's weighting is not used.

    L says how far a stale update is from the fresh ones, so it needs some. In a step whose fresh updates were all
    invalid there is nothing to differ from, and the stale ones count by their age alone: 1 / (tau + 1), normalized.

    Attributes:
        beta: b, the weight of the deviation; the paper uses 0.35.
    """

    beta: float = 0.35
    style: ClassVar[Literal["mean", "coordinate", "whole", "model"]] = "mean"

    def __post_init__(self) -> None:
        require(0 <= self.beta <= 1, "0 <= beta <= 1 must hold", beta=self.beta)

    @override
    def problems(self, scenario: Any) -> Iterator[Problem]:
        if not in_rounds(scenario.aggregation):
            given, hint = "refl without rounds", "a buffer may hold stale updates only, which refl weighs by fresh ones"
            yield Problem("merge.kind", given, 'refl with aggregation.kind = "synchronous", or buffer_mean', hint)

    @override
    def caveats(self, scenario: Any) -> Iterator[Caveat]:
        if never_stale(scenario.aggregation):
            yield Caveat(
                "refl_without_stale",
                "no report of a round is stale: merge refl is then the plain mean of the reports, without weights",
                remedy='set aggregation.late_reports = "keep"',
            )

    @property
    @override
    def minimum_updates(self) -> int:
        return 1

    @override
    def init(self, server: State, info: StepInfo) -> Updates:
        return []

    @override
    def add(self, acc: Updates, update: Payload, weight: dict[str, float], meta: ReportMeta) -> Updates:
        acc.append((update, meta.staleness))
        return acc

    @override
    def finish(self, acc: Updates, server: State, info: StepInfo) -> Payload:
        weights = self._weights(acc)
        total = sum(weights)
        return {
            name: _weighted([update[name] for update, _ in acc], [weight / total for weight in weights])
            for name in acc[0][0]
        }

    def _weights(self, acc: Updates) -> list[float]:
        fresh = [update["model"] for update, staleness in acc if staleness == 0]
        if not fresh:
            return [1.0 / (staleness + 1) for _, staleness in acc]
        mean = _weighted(fresh, [1.0 / len(fresh)] * len(fresh))
        known = float(tree.norm(mean)) > 0  # ||u||^2 divides every L, and cancels in L / L_max
        deviations = [
            _deviation(update["model"], mean, len(fresh)) if staleness and known else 0.0 for update, staleness in acc
        ]
        largest = max(deviations)
        return [
            1.0 if staleness == 0 else (1 - self.beta) / (staleness + 1) + self.beta * _boost(deviation, largest)
            for (_, staleness), deviation in zip(acc, deviations, strict=True)
        ]


def _deviation(stale: Tree, mean: Tree, fresh: int) -> float:
    together = tree.scale(tree.add_scaled(stale, mean, fresh), 1.0 / (fresh + 1))
    return float(tree.norm(tree.sub(mean, together))) ** 2


def _boost(deviation: float, largest: float) -> float:
    return 1 - exp(-deviation / largest) if largest > 0 else 0.0


def _weighted(trees: list[Tree], weights: list[float]) -> Tree:
    total = tree.scale(trees[0], weights[0])
    for leaves, weight in zip(trees[1:], weights[1:], strict=True):
        total = tree.add_scaled(total, leaves, weight)
    return total
