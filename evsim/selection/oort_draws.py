"""One selection of Oort: the sets of clients, their scores, the draw to exploit and the draw to explore."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, final

import numpy as np

from evsim.base import rng
from evsim.base.counts import floor_count
from evsim.selection import oort_score as score
from evsim.selection.sampling import largest, round_randomly, weighted_draw

if TYPE_CHECKING:
    from evsim.base.vocabulary import FloatArray, IntArray
    from evsim.selection.base import ClientView
    from evsim.selection.oort_rules import OortRules
    from evsim.selection.oort_state import OortState


@final
class OortSelection:
    """One selection: the sets, the scores and the two draws."""

    def __init__(self, rules: OortRules, state: OortState, view: ClientView, n: int, key: int) -> None:
        self.rules, self.state, self.view, self.n, self.key = rules, state, view, n, key
        idle = view.idle
        explored = np.isfinite(state.utility[idle])
        self.unexplored = idle[~explored]
        self.allowed = self._without_blacklisted(idle[explored])
        self.scored: tuple[IntArray, FloatArray] = np.empty(0, np.int64), np.empty(0)

    @property
    def exploration(self) -> float:
        """The share of the cohort that explores."""
        return self.rules.exploration_at(self.state.selection)

    def scores_of(self, clients: IntArray) -> FloatArray:
        """What each client's utility came to in the draw to exploit; NaN of one that was not in it."""
        among, values = self.scored
        known = dict(zip(among.tolist(), values.tolist(), strict=True))
        return np.array([known.get(client, np.nan) for client in clients.tolist()])

    def pick(self) -> tuple[IntArray, IntArray]:
        """Clients to exploit and clients to explore: n together, or fewer if the cap leaves fewer."""
        share = self.exploration
        whole = self.rules.whole_explorers
        wanted = floor_count(share, self.n) if whole else round_randomly(share * self.n, rng.mix(self.key ^ 5))
        exploit = min(self.n - wanted, len(self.allowed))
        explore = min(self.n - exploit, len(self.unexplored))
        exploit = min(self.n - explore, len(self.allowed))  # nothing left to explore: exploit more
        return self._exploit(exploit), self._explore(explore)

    @cached_property
    def preferred_ms(self) -> float:
        """T, the preferred duration."""
        rules, state = self.rules, self.state
        if rules.preferred_percentile is not None:
            known = self._expected_ms(slice(None))
            return score.preferred_at_percentile(known[~np.isnan(known)], state.pace)
        if rules.pacer_delta is not None:
            return state.pace * rules.pacer_delta
        durations = state.duration_ms[np.isfinite(state.utility)]
        return score.preferred_to_cover(durations, int(state.pace) * rules.pacer_window * self.n)

    def _exploit(self, n: int) -> IntArray:
        if n == 0:
            return np.empty(0, np.int64)
        state, clients = self.state, self.allowed
        value = self._scaled(state.utility[clients])
        counted = self.rules.counted(state.selection)
        value = value + score.uncertainty(counted, state.last[clients], self.rules.uncertainty)
        value = np.abs(value * score.system_penalty(state.duration_ms[clients], self.preferred_ms, self.rules.penalty))
        value = score.with_fairness(value, self.view.selected[clients], self.rules.fairness)
        self.scored = clients, value
        enters = score.admitted(value, n, self.rules.cut_off, self.rules.cut_off_keep)
        return weighted_draw(clients[enters], value[enters], n, rng.mix(self.key ^ 1))

    def _scaled(self, utility: FloatArray) -> FloatArray:
        rules = self.rules
        if rules.utility_scale == "raw":
            everyone = self.state.utility[np.isfinite(self.state.utility)]
            return np.minimum(utility, score.clip_level(everyone, rules.clip, truncate=False))
        among = np.concatenate([utility, self._credited(self.unexplored)])
        among = among[among > 0]
        if len(among) == 0:
            return np.zeros(len(utility))
        return score.in_range(utility, among, score.clip_level(among, rules.clip, truncate=True))

    def _explore(self, n: int) -> IntArray:
        clients, key = self.unexplored, rng.mix(self.key ^ 2)
        if n == 0:
            return np.empty(0, np.int64)
        expected = self._expected_ms(clients)
        if self.rules.explore_by == "speed":
            return weighted_draw(clients, _speed(expected), n, key)
        weight = self._credited(clients) * score.system_penalty(expected, self.preferred_ms, self.rules.penalty)
        window = largest(clients, weight, floor_count(self.rules.exploration_window, n), key)
        return weighted_draw(window, weight[np.searchsorted(clients, window)], n, key)

    def _credited(self, clients: IntArray) -> FloatArray:
        """FedScale's reward before any report: the data size, at most local steps x batch size."""
        size = np.maximum(self.view.samples[clients], 0)
        return np.asarray(
            size if self.rules.sample_cap is None else np.minimum(size, self.rules.sample_cap), np.float64
        )

    def _expected_ms(self, clients: IntArray | slice) -> FloatArray:
        """Duration as last seen, else as declared; NaN where neither is known."""
        seen = self.state.duration_ms[clients]
        return np.where(np.isnan(seen), self.view.declared_ms[clients], seen)

    def _without_blacklisted(self, clients: IntArray) -> IntArray:
        cap, view = self.rules.participation_cap, self.view
        if cap is None:
            return clients
        over = np.flatnonzero(view.selected > cap)
        most = floor_count(self.rules.blacklist_share, int(np.count_nonzero(view.samples >= 0)))
        if len(over) > most:
            over = largest(over, view.selected[over].astype(np.float64), most, rng.mix(self.key ^ 6))
        out = np.zeros(view.n_clients, np.bool_)
        out[over] = True
        return clients[~out[clients]]


def _speed(expected_ms: FloatArray) -> FloatArray:
    """1 / duration; clients of unknown speed count as average ones."""
    known = expected_ms > 0
    speed = np.ones(len(expected_ms))
    speed[known] = 1.0 / expected_ms[known]
    if known.any():
        speed[~known] = speed[known].mean()
    return speed
