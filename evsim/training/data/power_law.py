"""Numbers of samples from a power law: many clients with few, few with many."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import ClassVar, final

import numpy as np
from typing_extensions import override

from evsim.base.errors import require
from evsim.base.vocabulary import IntArray
from evsim.training.data.base import Partition
from evsim.training.data.partition import Split, count_of

_MOST = 2.0**40  # samples of a client, before the bound: keeps integers in range


@final
@dataclass(frozen=True, kw_only=True)
class PowerLaw(Partition):
    """P(size >= s) = (s / smallest)^-(exponent - 1), up to rounding down; labels at random, drawn with replacement.

    Attributes:
        exponent: of the density, above 1; at 2 or below the law has no mean, so that `largest` decides.
        smallest: number of samples of the smallest clients.
        largest: bound on a client's samples; None: no bound.
    """

    by_labels: ClassVar[bool] = False

    exponent: float = 2.5
    smallest: int = 10
    largest: int | None = 1000

    def __post_init__(self) -> None:
        require(isfinite(self.exponent) and self.exponent > 1, "exponent must be > 1", exponent=self.exponent)
        require(self.smallest >= 1, "smallest must be >= 1", smallest=self.smallest)
        largest = self.largest
        fits = largest is None or largest >= self.smallest
        require(fits, "largest must be >= smallest", largest=largest, smallest=self.smallest)

    @override
    def split(
        self, y: IntArray, groups: IntArray | None, n_classes: int, n_clients: int | None, rng: np.random.Generator
    ) -> Split:
        draws = 1.0 - rng.random(count_of(n_clients))  # in (0, 1]
        with np.errstate(over="ignore"):
            sizes = np.minimum(self.smallest * draws ** (-1.0 / (self.exponent - 1.0)), self.largest or _MOST)
        offsets = np.concatenate([[0], np.cumsum(sizes.astype(np.int64))])
        return rng.integers(len(y), size=int(offsets[-1])), offsets
