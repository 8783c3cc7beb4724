"""Natural clients put together, whole, to fewer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np
from typing_extensions import override

from evsim.base.errors import DataError
from evsim.base.vocabulary import IntArray
from evsim.training.data.base import Partition
from evsim.training.data.partition import Split, by_owner, count_of


@final
@dataclass(frozen=True, kw_only=True)
class Grouped(Partition):
    """Each client has all samples of some natural clients, drawn at random, as many of them as any other client."""

    by_labels: ClassVar[bool] = False

    @override
    def split(
        self, y: IntArray, groups: IntArray | None, n_classes: int, n_clients: int | None, rng: np.random.Generator
    ) -> Split:
        n = count_of(n_clients)
        if groups is None:
            raise DataError("partition grouped: this data set has no natural clients; use another partition")
        own = int(groups.max(initial=-1)) + 1
        if n > own:
            raise DataError(f"population.clients: {n}; expected at most {own}, the natural clients that are grouped")
        group = np.empty(own + 1, np.int64)
        group[rng.permutation(own)] = np.arange(own) * n // own
        group[-1] = n  # groups of -1 are nobody's
        return by_owner(group[groups], n)
