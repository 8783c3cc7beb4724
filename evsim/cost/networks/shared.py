"""A server whose link is narrower than those of its clients together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np
from typing_extensions import override

from evsim.base.errors import require
from evsim.cost.network import SharedNetwork, Way

if TYPE_CHECKING:
    from evsim.base.vocabulary import FloatArray, IntArray


@final
@dataclass(frozen=True, kw_only=True)
class SharedLink(SharedNetwork):
    """One link of the server's each way, shared max-min fairly by what is under way.

    Nobody gets more than its own link carries; what those leave is divided equally among the others (progressive
    filling: Bertsekas and Gallager, Data Networks, 2nd ed., 6.5.2). Rates change whenever a transfer begins or ends.

    Attributes:
        down_kbps: what the server can send, kbit/s; none: more than anybody asks for.
        up_kbps: what it can receive, likewise.
    """

    down_kbps: float | None = None
    up_kbps: float | None = None

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("down_kbps", "up_kbps"):
            value = getattr(self, name)
            expected = f"{name} must be finite and > 0: over a link without capacity nothing would ever arrive"
            require(value is None or 0 < value < np.inf, expected, **{name: value})
        given = (self.down_kbps, self.up_kbps)
        require(given != (None, None), "at least one of down_kbps and up_kbps is needed: what is shared")

    @override
    def rates(self, way: Way, clients: IntArray, most: FloatArray) -> FloatArray:
        capacity = self.down_kbps if way == "download" else self.up_kbps
        return most if capacity is None else max_min(most, capacity)


def max_min(most: FloatArray, capacity: float) -> FloatArray:
    """The max-min fair rates of links that can carry so much each and share a capacity.

    >>> max_min(np.array([1.0, 9.0, 4.0]), 9.0).tolist()
    [1.0, 4.0, 4.0]
    """
    if most.sum() <= capacity:
        return most
    ascending = np.sort(most)
    below = np.cumsum(ascending) - ascending
    level = (capacity - below) / np.arange(len(most), 0, -1)  # of the others, were all that are slower served in full
    return np.minimum(most, float(level[np.argmax(ascending >= level)]))
