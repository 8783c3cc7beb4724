"""Upload: only the largest entries of an update, with error feedback.

Stich, Cordonnier, Jaggi, Sparsified SGD with Memory, NeurIPS 2018: p = update + e; send the k entries of p of largest
absolute value; e <- p - sent.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import torch
from typing_extensions import override

from evsim.algorithms import tree
from evsim.algorithms.base import ReportMeta, State, Upload, Wires
from evsim.algorithms.wires import shared_out
from evsim.base.counts import ceil_count
from evsim.base.errors import require

if TYPE_CHECKING:
    from evsim.algorithms.base import Wire
    from evsim.algorithms.tree import Payload, Tree

_INDEX_BITS = 32


@final
@dataclass(frozen=True, kw_only=True)
class TopK(Upload):
    """Sends ceil(share d) of the d numbers of the model's update (and of a control's), as values and 32-bit indices.

    Of equally large entries the first ones are sent. The residual is the client's state: it changes only when a report
    is accepted. A client that is rarely picked carries an old one, so it can be forgotten after some versions.

    Attributes:
        share: of the entries that are sent, in (0, 1].
        error_feedback: add what was not sent to the next update.
        reset_after: forget a residual older than so many model versions; None keeps it.
    """

    share: float
    error_feedback: bool = True
    reset_after: int | None = None

    def __post_init__(self) -> None:
        require(0 < self.share <= 1, "0 < share <= 1 must hold", share=self.share)
        good = self.reset_after is None or self.reset_after >= 1
        require(good, "reset_after must be >= 1", reset_after=self.reset_after)

    @override
    def wires(self, update: Wires) -> Wires:
        return {name: self._sparse(leaves) if name in _DENSE else leaves for name, leaves in update.items()}

    @override
    def init_client(self, update: Payload) -> State:
        if not self.error_feedback:
            return {}
        state = {name: tree.zeros(update[name]) for name in _DENSE if name in update}
        return {**state, "since": {"version": torch.zeros(())}}

    @override
    def encode(self, update: Payload, state: State, meta: ReportMeta, key: int) -> tuple[Payload, State]:
        sent, kept = dict(update), {}
        fresh = self._is_fresh(state, meta.version)
        for name in [name for name in _DENSE if name in update]:
            whole = tree.add(update[name], state[name]) if self.error_feedback and fresh else update[name]
            sent[name] = _largest(whole, self._count(sum(leaf.numel() for leaf in whole.values())))
            kept[name] = tree.sub(whole, sent[name])
        if not self.error_feedback:
            return sent, state
        return sent, {**kept, "since": {"version": torch.tensor(float(meta.version))}}

    def _is_fresh(self, state: State, version: int) -> bool:
        return self.reset_after is None or version - float(state["since"]["version"]) <= self.reset_after

    def _count(self, size: int) -> int:
        return min(size, ceil_count(self.share, size))

    def _sparse(self, leaves: dict[str, Wire]) -> dict[str, Wire]:
        return shared_out(leaves, self._count(sum(wire.sent for wire in leaves.values())), _INDEX_BITS)


_DENSE = ("model", "control")


def _largest(whole: Tree, count: int) -> Tree:
    vector = tree.flat(whole)
    places = torch.argsort(vector.abs(), descending=True, stable=True)[:count]
    sparse = torch.zeros_like(vector)
    sparse[places] = vector[places]
    return tree.unflat(sparse, whole)
