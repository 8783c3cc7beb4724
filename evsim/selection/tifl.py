"""Tiers of similar speed: a round asks clients of one tier only, so that nobody waits for a much slower one.

Chai et al., TiFL: A Tier-based Federated Learning System, HPDC 2020 (arXiv 2001.09249): clients are sorted by profiled
latency into tiers of equal size; a round draws a tier, then its clients uniformly. The static policies of the paper are
fixed probabilities. The adaptive one (algorithm 2) ranks the tiers by test accuracy and limits each by credits; a
server of evsim has no accuracy of a tier, so the variant `tifl_loss` ranks by the losses that reports bring.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, final

import numpy as np
from typing_extensions import override

from evsim.base import rng
from evsim.base.errors import require
from evsim.base.vocabulary import FloatArray, IntArray
from evsim.selection.base import ClientView, Outcomes, Selector
from evsim.selection.sampling import smallest_keys

if TYPE_CHECKING:
    from collections.abc import Sequence

_LONGEST_MS = float((1 << 31) - 1)  # 24 days; beyond it, all are as slow


def tiers(latency_ms: FloatArray, n_tiers: int, key: int) -> IntArray:
    """The tier of each client, 0 the fastest, of equal sizes (but for one); at random where latencies are equal.

    Unknown latencies come last. Whole ms count. The cost grows with the clients, not with their logarithm.

    >>> tiers(np.array([30.0, np.nan, 10.0, 20.0]), 2, key=0).tolist()
    [1, 1, 0, 0]
    """
    n = len(latency_ms)
    whole = np.nan_to_num(np.minimum(latency_ms, _LONGEST_MS), nan=_LONGEST_MS).astype(np.int64)
    keys = (whole << 32) | _shuffled(n, key)  # distinct: the parts of a partition are then sets that nothing can change
    edges = [-(-n * tier // n_tiers) for tier in range(1, n_tiers)]
    found = np.zeros(n, np.int64)
    if n:
        order = np.argpartition(keys, sorted({edge for edge in edges if edge < n}) or [0])
        for edge in edges:
            found[order[edge:]] += 1
    return found


def _shuffled(n: int, key: int) -> IntArray:
    """A distinct number below 2^32 for each of 0 to n - 1, in no order: every operation can be undone."""
    x = np.arange(n, dtype=np.uint32) ^ np.uint32(key & 0xFFFFFFFF)
    for factor, shift in ((0x9E3779B1, 16), (0x85EBCA6B, 13), (0xC2B2AE35, 16)):
        x = x * np.uint32(factor)
        x ^= x >> np.uint32(shift)
    return x.astype(np.int64)


def choose_tier(chances: FloatArray, open_to: Sequence[bool], key: int) -> int:
    """A tier by its chance among those that are open; uniformly if none of these has one."""
    weights = np.where(open_to, chances, 0.0)
    weights = weights if weights.sum() > 0 else np.asarray(open_to, np.float64)
    edges = np.cumsum(weights) / weights.sum()
    return int(np.searchsorted(edges, float(rng.uniform(key)), side="right"))


@final
@dataclass(frozen=True, kw_only=True)
class Tifl(Selector[None]):
    """Draws one tier with idle clients by fixed probabilities, and its clients uniformly.

    Latencies are what device classes declare; tiers are made of all clients that declared one, anew at each selection.
    When the tier has fewer idle clients than wanted, the nearest tiers fill up, the slower one first.

    Attributes:
        probabilities: of the tiers, the fastest first; they are scaled to sum to 1. The paper has five tiers and
            `uniform`; (1, 0, 0, 0, 0) is its `fast`.
    """

    memoryless: ClassVar[bool] = True

    probabilities: tuple[float, ...] = (0.2, 0.2, 0.2, 0.2, 0.2)

    def __post_init__(self) -> None:
        chances = np.asarray(self.probabilities, np.float64)
        good = len(chances) >= 1 and np.isfinite(chances).all() and (chances >= 0).all() and chances.sum() > 0
        require(bool(good), "probabilities must be >= 0 and not all 0", probabilities=self.probabilities)

    @override
    def init(self, n_clients: int) -> None:
        return None

    @override
    def select(self, state: None, view: ClientView, n: int, key: int) -> tuple[IntArray, None]:
        tier_of = tiers(view.declared_ms, len(self.probabilities), key)
        idle = view.idle
        there = np.bincount(tier_of[idle], minlength=len(self.probabilities)) > 0
        if not there.any():
            return idle, None
        tier = choose_tier(np.asarray(self.probabilities), there.tolist(), key)
        return from_tier(idle, tier_of[idle], tier, n, rng.mix(key)), None

    @override
    def feedback(self, state: None, reports: Outcomes) -> None:
        return None


@final
@dataclass(slots=True)
class TierState:
    """What the adaptive variant keeps.

    Attributes:
        loss: of each client, last reported; NaN before.
        chances: of the tiers.
        credits: rounds that each tier may still have.
        drawn: rounds drawn since the chances were made.
    """

    loss: FloatArray
    chances: FloatArray
    credits: IntArray
    drawn: int = 0


@final
@dataclass(frozen=True, kw_only=True)
class TiflLoss(Selector[TierState]):
    """Algorithm 2 of the paper with losses of reports in place of test accuracies.

    Every `every` selections, tiers with credits are ranked by the mean of the losses their clients last reported, the
    largest first (rank 0; tiers never heard of count as that), and rank i of n gets (n - i) / (n (n + 1) / 2), the
    paper's rule as the three public codes have it. A draw costs a credit; when all are used up, every tier gets its
    credits back.

    Attributes:
        n_tiers: how many.
        credits: draws of each tier before others must have had theirs.
        every: selections between two rankings.
    """

    needs_utility: ClassVar[bool] = True

    n_tiers: int = 5
    credits: int = 100
    every: int = 10

    def __post_init__(self) -> None:
        for name in ("n_tiers", "credits", "every"):
            require(getattr(self, name) >= 1, f"{name} must be >= 1", **{name: getattr(self, name)})

    @override
    def init(self, n_clients: int) -> TierState:
        n = self.n_tiers
        return TierState(np.full(n_clients, np.nan), np.full(n, 1 / n), np.full(n, self.credits, np.int64))

    @override
    def select(self, state: TierState, view: ClientView, n: int, key: int) -> tuple[IntArray, TierState]:
        tier_of = tiers(view.declared_ms, self.n_tiers, key)
        idle = view.idle
        there = np.bincount(tier_of[idle], minlength=self.n_tiers) > 0
        if not there.any():
            return idle, state
        if not (there & (state.credits > 0)).any():
            state.credits[:] = self.credits
        if state.drawn == self.every:
            state.chances, state.drawn = ranked(_losses(state.loss, tier_of, self.n_tiers)), 0
        tier = choose_tier(state.chances, (there & (state.credits > 0)).tolist(), key)
        state.credits[tier] -= 1
        state.drawn += 1
        return from_tier(idle, tier_of[idle], tier, n, rng.mix(key)), state

    @override
    def feedback(self, state: TierState, reports: Outcomes) -> TierState:
        told = reports.has_utility
        state.loss[reports.clients[told]] = reports.utility[told]
        return state


def ranked(losses: FloatArray) -> FloatArray:
    """Probabilities of the tiers: rank i of n by falling loss gets (n - i) / (n (n + 1) / 2).

    >>> ranked(np.array([0.1, 0.5, 0.3])).round(3).tolist()
    [0.167, 0.5, 0.333]
    """
    n = len(losses)
    chances = np.empty(n)
    chances[np.argsort(-losses, kind="stable")] = (n - np.arange(n)) / (n * (n + 1) / 2)
    return chances


def from_tier(idle: IntArray, tier_of: IntArray, tier: int, n: int, key: int) -> IntArray:
    """So many idle clients of a tier, uniformly; if it has too few, of the tiers next to it, the slower one first."""
    chosen: list[IntArray] = []
    missing = min(n, len(idle))
    for near in sorted(np.unique(tier_of).tolist(), key=lambda other: (abs(other - tier), -other)):
        some = smallest_keys(idle[tier_of == near], missing, key)
        chosen.append(some)
        missing -= len(some)
        if missing == 0:
            break
    return np.concatenate(chosen) if chosen else idle[:0]


def _losses(loss: FloatArray, tier_of: IntArray, n_tiers: int) -> FloatArray:
    known = ~np.isnan(loss)
    counts = np.bincount(tier_of[known], minlength=n_tiers)
    totals = np.bincount(tier_of[known], loss[known], minlength=n_tiers)
    return np.where(counts > 0, totals / np.maximum(counts, 1), np.inf)
