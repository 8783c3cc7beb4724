"""Devices at random."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, final

from typing_extensions import override

from evsim.base.vocabulary import IntArray
from evsim.traces.joins.base import Join, Score, draw

if TYPE_CHECKING:
    from numpy.random import Generator


@final
@dataclass(frozen=True, kw_only=True)
class Sample(Join):
    """Devices at random without replacement until all are used; further clients get clones, again without replacement.

    A clone lives on another day of its device's trace, and its check-ins and check-outs differ by up to five minutes.
    """

    varies_clones: ClassVar[bool] = True

    @override
    def devices(
        self, n_clients: int, n_devices: int, sizes: IntArray, score: Score, stream: Generator
    ) -> tuple[IntArray, IntArray]:
        return draw(n_clients, n_devices, stream)
