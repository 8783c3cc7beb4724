"""An attack on the data: malicious clients train on flipped labels."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, final

import numpy as np

from evsim.algorithms.malicious import malicious_clients
from evsim.base.errors import require
from evsim.training.data.gathered import select
from evsim.training.data.labels import flipped

if TYPE_CHECKING:
    from evsim.training.data.base import FederatedData


@final
@dataclass(frozen=True, kw_only=True)
class LabelFlip:
    """Every label y of a malicious client becomes n_classes - 1 - y, every flag 1 - y.

    Which clients are malicious is a function of the seed, the same as for `sign_flip`. Their samples are copied, since
    clients may share rows; the test set stays as it is.

    Attributes:
        share: of the clients with data that are malicious, in [0, 1].
    """

    share: float

    def __post_init__(self) -> None:
        require(0 <= self.share <= 1, "0 <= share <= 1 must hold", share=self.share)

    def transform(self, data: FederatedData, seed: int) -> FederatedData:
        """The data as the clients use it."""
        sizes = np.diff(data.offsets)
        with_data = np.flatnonzero(sizes)
        bad = with_data[list(malicious_clients(seed, len(with_data), self.share))]
        places = np.flatnonzero(np.repeat(np.isin(np.arange(len(sizes)), bad), sizes))
        rows = data.index[places]
        index = data.index.copy()
        index[places] = len(data.y) + np.arange(len(rows))
        opposite = flipped(data.y[rows], data.n_classes, data.labels)
        x = select(data.x, np.concatenate([np.arange(len(data.y)), rows]))
        sources = np.arange(len(data.y)) if data.sources is None else data.sources
        sources = np.concatenate([sources, sources[rows]])
        return replace(data, x=x, y=np.concatenate([data.y, opposite]), index=index, sources=sources)
