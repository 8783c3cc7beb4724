"""Devices by number."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, final

import numpy as np
from typing_extensions import override

from evsim.base.vocabulary import IntArray
from evsim.traces.joins.base import Join, Score

if TYPE_CHECKING:
    from numpy.random import Generator


@final
@dataclass(frozen=True, kw_only=True)
class Modulo(Join):
    """Client i gets device i modulo the number of devices: FedScale's rule; clones are exact copies."""

    varies_clones: ClassVar[bool] = False

    @override
    def devices(
        self, n_clients: int, n_devices: int, sizes: IntArray, score: Score, stream: Generator
    ) -> tuple[IntArray, IntArray]:
        clients = np.arange(n_clients, dtype=np.int64)
        return clients % n_devices, clients // n_devices
