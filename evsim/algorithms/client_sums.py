"""The reports of one client in a step as one: what a promise at the level of clients is about.

Reports reach a merge in (client, task) order, so those of a client come one after the other, and a merge that closes a
client when the next one begins needs no more memory than one update.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from evsim.algorithms import tree
from evsim.algorithms.tree import Tree
from evsim.base.errors import TrainingError

if TYPE_CHECKING:
    from evsim.algorithms.base import ReportMeta


@final
@dataclass(frozen=True)
class ClientSum:
    """What a client adds: `heaviest` x `update` = sum_j w_j u_j over its reports j.

    With one report `update` is that report, unchanged. With several of equal weights it is their sum.

    Attributes:
        client: whose.
        update: sum_j (w_j / heaviest) u_j.
        heaviest: max_j w_j.
        weight: sum_j w_j.
    """

    client: int
    update: Tree
    heaviest: float
    weight: float

    @classmethod
    def first(cls, meta: ReportMeta, update: Tree, weight: float) -> ClientSum:
        """Of a client's first report."""
        return cls(meta.client, update, weight, weight)

    def is_of(self, meta: ReportMeta) -> bool:
        """Whether a report is one more of this client.

        Raises:
            TrainingError: if it belongs to a client before: that one was closed, and would be counted twice.
        """
        if meta.client < self.client:
            raise TrainingError(f"merge: client {meta.client} reports after client {self.client}; clients must ascend")
        return meta.client == self.client

    def plus(self, update: Tree, weight: float) -> ClientSum:
        """With one more report."""
        if weight <= self.heaviest:
            together = tree.add_scaled(self.update, update, weight / self.heaviest) if weight else self.update
        else:
            together = tree.add_scaled(update, self.update, self.heaviest / weight)
        return ClientSum(self.client, together, max(self.heaviest, weight), self.weight + weight)
