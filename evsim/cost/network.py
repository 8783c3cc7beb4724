"""The slot of the network: how long a transfer takes.

A network sees all transfers of one dispatch as arrays, so that bandwidth that changes over time or a server link shared
by a cohort can follow without touching the engine.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, final

import numpy as np
from typing_extensions import override

if TYPE_CHECKING:
    from evsim.base.vocabulary import FloatArray, IntArray

_BITS = 8


class Network(ABC):
    """Prices transfers.

    Attributes:
        is_constant: whether a transfer takes equally long whenever it begins.
    """

    is_constant: ClassVar[bool] = False

    @abstractmethod
    def transfer_ms(self, sizes: IntArray, kbps: FloatArray, begin: IntArray) -> FloatArray:
        """Duration of each transfer, ms: bytes, link rate in kbit/s, instant at which it begins in ms."""


@final
@dataclass(frozen=True, kw_only=True)
class IndependentLinks(Network):
    """Each device has a link of its own with a constant rate; the server is never the bottleneck."""

    is_constant: ClassVar[bool] = True

    @override
    def transfer_ms(self, sizes: IntArray, kbps: FloatArray, begin: IntArray) -> FloatArray:
        return np.asarray(sizes.astype(np.float64) * _BITS / kbps)  # bytes x 8 / (kbit/s) = ms; in int64 x 8 may wrap
