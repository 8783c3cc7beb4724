"""Weighted sums of updates: all that a mean has to know of them, so they can be added up where they were trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import final

import torch

from evsim.algorithms import tree
from evsim.algorithms.clients import Part
from evsim.algorithms.tree import Payload, Tree

_NOTHING = 1e-300  # a weight so small has lost its digits, and 1 over it may be infinite

#: Weight of one report by payload; the entry "" serves payloads not named.
Weight = Mapping[str, float]


@final
@dataclass(eq=False)
class WeightedSums:
    """sum_k w_k u_k and sum_k w_k by payload. Whoever adds owns it; what it holds is changed in place.

    Attributes:
        totals: by payload, the weighted sum of the updates; float64 unless said otherwise where it is made.
        weights: by payload, the sum of the weights.
        coverage: by payload, the sum of the weights of those that hold each number, where clients hold parts.
    """

    totals: Payload = field(default_factory=dict)
    weights: dict[str, float] = field(default_factory=dict)
    coverage: Payload = field(default_factory=dict)

    def add(self, update: Payload, weight: Weight, *, exact: bool = True) -> None:
        """Take one update; `exact`: sum in float64, else in the precision of the update."""
        for name, leaves in update.items():
            w = weight.get(name, weight[""])
            if name in self.totals:
                tree.accumulate(self.totals[name], leaves, w)
            else:
                self.totals[name] = tree.scale(_summable(leaves, exact=exact), w)
            self.weights[name] = self.weights.get(name, 0.0) + w

    def join(self, other: WeightedSums) -> None:
        """Take other sums, in float64."""
        for name, leaves in other.totals.items():
            if name in self.totals:
                tree.accumulate(self.totals[name], leaves, 1.0)
            else:
                self.totals[name] = {k: leaf.to(torch.float64, copy=True) for k, leaf in leaves.items()}
            self.weights[name] = self.weights.get(name, 0.0) + other.weights[name]

    def means(self) -> Payload:
        """Each sum over the sum of its weights; payloads that weigh nothing, or next to it, are left out.

        A number that nobody holds is 0: nothing is added to it.
        """
        return {
            name: _covered(leaves, self.coverage[name])
            if name in self.coverage
            else tree.scale(leaves, 1 / self.weights[name])
            for name, leaves in self.totals.items()
            if self.weights[name] > _NOTHING
        }


def spread(sums: Mapping[int, WeightedSums], parts: Mapping[int, Part], whole: Payload) -> WeightedSums:
    """The sums of groups that hold parts of the model as one, with what each number weighs.

    Args:
        sums: by group.
        parts: by group.
        whole: leaves in their whole shapes, by payload; entries that are not in it are the same for all groups.
    """
    found = WeightedSums()
    for group in sorted(sums):
        own = sums[group]
        for name, leaves in own.totals.items():
            like = whole.get(name, whole["model"] if leaves.keys() <= whole["model"].keys() else leaves)
            if name not in found.totals:
                found.totals[name] = {k: torch.zeros_like(like[k], dtype=torch.float64) for k in leaves}
                found.coverage[name] = {k: torch.zeros_like(like[k], dtype=torch.float64) for k in leaves}
                found.weights[name] = 0.0
            parts[group].spread(found.totals[name], found.coverage[name], leaves, own.weights[name])
            found.weights[name] += own.weights[name]
    return found


def _covered(totals: Tree, weights: Tree) -> Tree:
    return {
        name: torch.where(weights[name] > _NOTHING, leaf / weights[name].clamp(min=_NOTHING), torch.zeros_like(leaf))
        for name, leaf in totals.items()
    }


def _summable(leaves: Tree, *, exact: bool) -> Tree:
    """Integer leaves cannot hold weighted sums."""
    return {k: leaf.double() if exact or not leaf.is_floating_point() else leaf for k, leaf in leaves.items()}
