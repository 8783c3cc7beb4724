"""Selection by data size: a client with twice the samples is twice as likely to be drawn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, final

import numpy as np
from typing_extensions import override

from evsim.base.errors import require
from evsim.selection.base import ClientView, Outcomes, Selector
from evsim.selection.sampling import weighted_draw

if TYPE_CHECKING:
    from evsim.base.vocabulary import IntArray


@final
@dataclass(frozen=True, kw_only=True)
class BySamples(Selector[None]):
    """Draws idle clients one after the other, with probability proportional to samples ** `power` among those left.

    With the weighting `uniform` and power 1 this is the sampling of Li et al. (FedProx, MLSys 2020), without
    replacement.

    Attributes:
        power: 0 is uniform selection; 1 in proportion to the declared data size.
    """

    memoryless: ClassVar[bool] = True

    power: float = 1.0

    def __post_init__(self) -> None:
        require(0 <= self.power < np.inf, "power must be >= 0 and finite", power=self.power)

    @override
    def init(self, n_clients: int) -> None:
        return None

    @override
    def select(self, state: None, view: ClientView, n: int, key: int) -> tuple[IntArray, None]:
        idle = view.idle
        sizes = np.maximum(view.samples[idle], 0).astype(np.float64)
        sizes /= max(sizes.max(initial=0.0), 1.0)  # or a high power would overflow
        return weighted_draw(idle, sizes**self.power, min(n, len(idle)), key), None

    @override
    def feedback(self, state: None, reports: Outcomes) -> None:
        return None
