"""A share of every client's samples at random, the rest sorted by label."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
from typing_extensions import override

from evsim.base.errors import require
from evsim.base.vocabulary import IntArray
from evsim.training.data.base import Partition
from evsim.training.data.partition import Split, by_owner, count_of


@final
@dataclass(frozen=True, kw_only=True)
class Similarity(Partition):
    """All samples dealt once, as many to each client: a share at random, the rest in the order of their labels.

    The "s % similarity" of SCAFFOLD (Karimireddy et al. 2020, section 7), after Hsu et al. 2019.

    Attributes:
        iid_share: share that is dealt at random, in [0, 1]; 1 is `iid`, 0 is as skewed as equal sizes allow.
    """

    iid_share: float

    def __post_init__(self) -> None:
        require(0 <= self.iid_share <= 1, "0 <= iid_share <= 1 must hold", iid_share=self.iid_share)

    @override
    def split(
        self, y: IntArray, groups: IntArray | None, n_classes: int, n_clients: int | None, rng: np.random.Generator
    ) -> Split:
        n = count_of(n_clients)
        order = rng.permutation(len(y))
        cut = round(self.iid_share * len(y))
        rest = order[cut:][np.argsort(y[order[cut:]], kind="stable")]
        owner = np.empty(len(y), np.int64)
        owner[order[:cut]] = np.arange(cut) * n // max(cut, 1)
        owner[rest] = np.arange(len(rest)) * n // max(len(rest), 1)
        return by_owner(owner, n)
