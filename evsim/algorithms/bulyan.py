"""Bulyan: Krum again and again, then a trimmed mean around the median of what it chose.

El Mhamdi, Guerraoui, Rouault, The Hidden Vulnerability of Distributed Learning in Byzantium, ICML 2018, section 4.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import torch
from typing_extensions import override

from evsim.algorithms import tree
from evsim.algorithms.base import State, StepInfo
from evsim.algorithms.robust import Robust, Updates, check_enough
from evsim.base.errors import require

if TYPE_CHECKING:
    from evsim.algorithms.tree import Payload


@final
@dataclass(frozen=True, kw_only=True)
class Bulyan(Robust):
    """Needs n >= 4f + 3 arrived updates; every report weighs the same.

    theta = n - 2f times, Krum's winner moves from the rest to the selection; then each number is the mean of the
    beta = theta - 2f values of the selection closest to its median. The rest shrinks below the 2f + 3 that Krum asks
    for: the score then is the distance to max(n' - f - 2, 1) neighbors of the n' that are left. With f = 0 this is the
    mean.

    Attributes:
        attackers: f, how many bad updates a step may hold.
    """

    style = "model"

    attackers: int

    def __post_init__(self) -> None:
        require(self.attackers >= 0, "attackers must be >= 0", attackers=self.attackers)

    @property
    @override
    def minimum_updates(self) -> int:
        return 4 * self.attackers + 3

    @override
    def finish(self, acc: Updates, server: State, info: StepInfo) -> Payload:
        if not acc:
            return {}
        f = self.attackers
        check_enough("Bulyan", len(acc), self.minimum_updates, f)
        chosen = [acc[k] for k in selection(torch.stack([tree.flat(update["model"]) for update in acc]), f)]
        beta = len(chosen) - 2 * f
        return {
            name: {leaf: _near_median(torch.stack([each[name][leaf] for each in chosen]), beta) for leaf in leaves}
            for name, leaves in acc[0].items()
        }


def selection(vectors: torch.Tensor, attackers: int) -> list[int]:
    """Which n - 2f rows Krum chooses one after the other, ascending; rows are float64 updates."""
    squares = torch.cdist(vectors, vectors, compute_mode="donot_use_mm_for_euclid_dist").square()
    squares.fill_diagonal_(torch.inf)
    rest, chosen = list(range(len(vectors))), []
    for _ in range(len(vectors) - 2 * attackers):
        near = squares[rest][:, rest].sort(1).values
        scores = near[:, : max(len(rest) - attackers - 2, 1)].sum(1)
        chosen.append(rest.pop(int(torch.argsort(scores, stable=True)[0])))
    return sorted(chosen)


def _near_median(rows: torch.Tensor, count: int) -> torch.Tensor:
    """The mean of the `count` values of each column closest to its median; equal distances: the smaller value first."""
    ordered = rows.sort(0).values
    n = len(ordered)
    median = ordered[(n - 1) // 2 : n // 2 + 1].mean(0)
    nearest = (ordered - median).abs().argsort(dim=0, stable=True)[:count]
    return ordered.gather(0, nearest).mean(0)
