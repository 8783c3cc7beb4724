"""Active federated learning: clients whose data the model still gets wrong, by a softmax over valuations.

Goetz et al., Active Federated Learning, 2019 (arXiv 1909.12641), algorithm 1: a client's valuation is the sum of the
losses of the model it received, over the root of its sample count, refreshed whenever it trains. The lowest alpha_1
share of the valuations is dropped; floor((1 - alpha_3) n) clients are drawn without replacement with probabilities
proportional to exp(alpha_2 v); the rest uniformly from all others.

The server of evsim knows the root of the mean *squared* loss of a report instead of the mean loss, as Oort's does; with
equal losses they are the same. It is the loss before each step, not in a pass of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING, ClassVar, final

import numpy as np
from typing_extensions import override

from evsim.base import rng
from evsim.base.counts import floor_count
from evsim.base.errors import require
from evsim.selection.base import ClientView, Outcomes, Selector
from evsim.selection.sampling import largest, smallest_keys, weighted_draw

if TYPE_CHECKING:
    from evsim.base.vocabulary import FloatArray, IntArray


@final
@dataclass(frozen=True, kw_only=True)
class ActiveFl(Selector["FloatArray"]):
    """Draws by exp(alpha_2 v), v = sqrt(n_k) times the loss last reported; a client never heard of is worth the most.

    Attributes:
        dropped: alpha_1, the share of the valuations, the lowest, that cannot be drawn by them.
        temperature: alpha_2.
        uniform_share: alpha_3, of the cohort that is drawn uniformly from the others.
    """

    needs_utility: ClassVar[bool] = True

    dropped: float = 0.75
    temperature: float = 0.01
    uniform_share: float = 0.1

    def __post_init__(self) -> None:
        require(0 <= self.dropped < 1, "0 <= dropped < 1 must hold", dropped=self.dropped)
        require(isfinite(self.temperature), "temperature must be finite", temperature=self.temperature)
        require(0 <= self.uniform_share <= 1, "0 <= uniform_share <= 1 must hold", uniform_share=self.uniform_share)

    @override
    def init(self, n_clients: int) -> FloatArray:
        return np.full(n_clients, np.nan)

    @override
    def select(self, state: FloatArray, view: ClientView, n: int, key: int) -> tuple[IntArray, FloatArray]:
        idle = view.idle
        n = min(n, len(idle))
        values = state[idle]
        values = np.where(np.isnan(values), np.nanmax(values, initial=0.0), values)
        kept = largest(np.arange(len(idle)), values, len(idle) - floor_count(self.dropped, len(idle)), key)
        drawn = min(floor_count(1 - self.uniform_share, n), len(kept))
        scaled = self.temperature * values[kept]
        weights = np.exp(scaled - scaled.max(initial=-np.inf)) if len(kept) else scaled
        chosen = weighted_draw(idle[kept], weights, drawn, rng.mix(rng.mix(key)))
        others = idle[~np.isin(idle, chosen)]
        return np.concatenate([chosen, smallest_keys(others, n - drawn, rng.mix(key))]), state

    @override
    def feedback(self, state: FloatArray, reports: Outcomes) -> FloatArray:
        told = reports.has_utility
        state[reports.clients[told]] = np.sqrt(reports.samples[told]) * reports.utility[told]
        return state
