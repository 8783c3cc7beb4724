"""Upload: a random part of the entries, scaled up so that nothing is lost on average.

Stich, Cordonnier, Jaggi, Sparsified SGD with Memory, NeurIPS 2018, definition 2.1 (rand-k); the factor d / k makes it
unbiased, with a variance of (d / k - 1) ||v||^2. The receiver draws the same places from the seed, so no index travels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np
import torch
from typing_extensions import override

from evsim.algorithms import tree
from evsim.algorithms.base import ReportMeta, State, Upload, Wires
from evsim.algorithms.wires import shared_out
from evsim.base import rng
from evsim.base.counts import ceil_count
from evsim.base.errors import require

if TYPE_CHECKING:
    from evsim.algorithms.base import Wire
    from evsim.algorithms.tree import Payload

_DENSE = ("model", "control")
_SEED_BYTES = 8


@final
@dataclass(frozen=True, kw_only=True)
class RandK(Upload):
    """Sends ceil(share d) of the d numbers of the model's update (and of a control's), times d / k; 4 B each + 8 B.

    Attributes:
        share: of the entries that are sent, in (0, 1].
        common: all clients of a model version send the same places, as secure sums need it. Their errors then do not
            average out; those of places of each client's own do.
    """

    share: float
    common: bool = False

    def __post_init__(self) -> None:
        require(0 < self.share <= 1, "0 < share <= 1 must hold", share=self.share)

    @override
    def wires(self, update: Wires) -> Wires:
        return {name: self._sparse(leaves) if name in _DENSE else leaves for name, leaves in update.items()}

    @override
    def init_client(self, update: Payload) -> State:
        return {}

    @override
    def encode(self, update: Payload, state: State, meta: ReportMeta, key: int) -> tuple[Payload, State]:
        named = rng.key(meta.seed, "rand_k", meta.version) if self.common else key
        kept = {name: self._kept(update[name], named) for name in _DENSE if name in update}
        return {**update, **kept}, state

    def _kept(self, leaves: tree.Tree, key: int) -> tree.Tree:
        vector = tree.flat(leaves)
        size = len(vector)
        count = self._count(size)
        stream = np.random.Generator(np.random.Philox(key=key))
        places = torch.from_numpy(stream.choice(size, count, replace=False, shuffle=False))
        sparse = torch.zeros_like(vector)
        sparse[places] = vector[places] * (size / max(count, 1))
        return tree.unflat(sparse, leaves)

    def _count(self, size: int) -> int:
        return min(size, ceil_count(self.share, size))

    def _sparse(self, leaves: dict[str, Wire]) -> dict[str, Wire]:
        found = shared_out(leaves, self._count(sum(wire.sent for wire in leaves.values())))
        if found:  # the seed belongs to no leaf; the first one carries it
            first, wire = next(iter(found.items()))
            found[first] = wire.but(extra_bytes=wire.extra_bytes + _SEED_BYTES)
        return found
