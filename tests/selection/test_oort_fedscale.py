"""The preset "fedscale" along a run, against a plain transcription of FedScale's rule.

Draws cannot be equal, so everything that is not a draw is compared: how many explore, T, each score, who is admitted to
each draw and with which weight.
"""

from __future__ import annotations

from math import inf, log, sqrt

import numpy as np
import pytest
from scipy.stats import chi2

from evsim.base.vocabulary import Outcome
from evsim.selection import oort_draws
from evsim.selection.base import Outcomes
from evsim.selection.oort import Oort
from evsim.timeline.manager import ClientManager

N, K, WINDOW, ROUNDS = 60, 10, 3, 25


class FedScale:
    """One arm per client: reward, duration, time stamp, count; the selector is asked from the second round on."""

    def __init__(self, sizes, durations):
        self.reward, self.duration = [float(size) for size in sizes], list(durations)
        self.stamp, self.count = [0] * N, [0] * N
        self.asked, self.exploration, self.threshold = 0, 0.9, 30.0
        self.exploited, self.heard, self.history = [], set(), []

    def feedback(self, client, reward, duration, stamp):
        self.reward[client], self.duration[client], self.stamp[client] = reward, duration, stamp
        self.count[client] += 1
        self.heard.add(client)

    def ask(self, online):
        """(explorers, {client: weight} to exploit, {client: weight} to explore)."""
        self.asked += 1
        self._pace()
        order = sorted(self.duration)
        at = min(int(N * self.threshold / 100), N - 1)
        self.preferred = order[at] if self.threshold < 100 else inf
        rewards = sorted(self.reward[k] for k in online if self.reward[k] > 0)
        clip, low = rewards[min(int(len(rewards) * 0.9), len(rewards) - 1)], 0.999 * rewards[0]
        span = max(rewards[-1] - low, 1e-4)
        scores = {}
        for k in online:
            if self.count[k]:
                score = (min(self.reward[k], clip) - low) / span + sqrt(0.1 * log(self.asked) / self.stamp[k])
                scores[k] = abs(score * self._penalty(k))
        self.exploration = max(self.exploration * 0.98, 0.3)
        fresh = [k for k in online if not self.count[k]]
        exploit = min(K - int(K * self.exploration), len(scores))
        explore = min(len(fresh), K - exploit)
        exploit = min(K - explore, len(scores))  # evsim fills the cohort up; FedScale's returns fewer
        weight = {k: self.reward[k] * self._penalty(k) for k in fresh}
        best = sorted(weight, key=weight.get, reverse=True)[: int(5.0 * explore)]
        return explore, self._admitted(scores, exploit), {k: weight[k] for k in best}

    def _admitted(self, scores, exploit):
        ranked = sorted(scores, key=scores.get, reverse=True)
        cut = 0.05 * scores[ranked[exploit]] if exploit < len(ranked) else -inf
        taken = {}
        for k in ranked:
            if scores[k] < cut and len(taken) > 10.0 * exploit:
                break
            taken[k] = scores[k]
        return taken

    def _penalty(self, k):
        return (self.preferred / self.duration[k]) ** 2 if self.duration[k] > self.preferred else 1.0

    def _pace(self):
        heard = [self.reward[k] for k in self.exploited if k in self.heard]
        self.history.append(sum(heard) / (len(heard) + 1e-4))
        self.heard = set()
        if self.asked >= 2 * WINDOW and self.asked % WINDOW == 0:
            before, recent = sum(self.history[-2 * WINDOW : -WINDOW]), sum(self.history[-WINDOW:])
            if abs(recent - before) <= 0.1 * before:
                self.threshold = min(100.0, self.threshold + 5.0)
            elif abs(recent - before) >= 5 * before:
                self.threshold = max(5.0, self.threshold - 5.0)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("growth", [1.0, 2.0])  # utilities that stay, and some that change sharply
def test_a_trajectory_follows_fedscales_rule(seed, growth, monkeypatch):
    draw = np.random.default_rng(seed)
    sizes, declared = draw.integers(5, 90, N), draw.integers(100, 5000, N).astype(np.float64)
    draws = []
    weighted = oort_draws.weighted_draw

    def noted(clients, weights, n, key):
        draws.append((dict(zip(clients.tolist(), weights.tolist(), strict=True)), n))
        return weighted(clients, weights, n, key)

    monkeypatch.setattr(oort_draws, "weighted_draw", noted)
    manager = ClientManager(Oort(preset="fedscale", pacer_window=WINDOW, pacer_every=WINDOW), N, seed)
    manager.register_client(np.arange(N), 0, samples=sizes, declared_ms=declared)
    theirs, paces = FedScale(sizes, declared), set()
    for number in range(1, ROUNDS + 1):
        offline = draw.choice(N, 12, replace=False)  # enough stay online
        manager.deregister_client(offline, 0)
        online = sorted(set(range(N)) - set(offline.tolist()))
        draws.clear()
        chosen = manager.select_clients(K, 0)
        assert len(set(chosen.tolist())) == K
        if number == 1:
            assert not draws
        else:
            _compare(theirs, online, draws)
            theirs.exploited = [k for k in chosen.tolist() if theirs.count[k]]
            assert manager._state.pace == theirs.threshold
            paces.add(theirs.threshold)
        _tell(manager, theirs, chosen, number, draw, growth)
        manager.register_client(offline, 0)
    assert len(paces) > 1  # the pacer moved
    assert theirs.exploration < 0.9 * 0.98**20  # and exploration decayed


def _compare(theirs, online, draws):
    """The two draws of a selection, whoever won them, with those of the transcription."""
    explore, exploitable, explorable = theirs.ask(online)
    asked = {n: weights for weights, n in draws}
    expected = {n: weights for weights, n in ((exploitable, K - explore), (explorable, explore)) if n}
    assert asked.keys() == expected.keys()
    for n, weights in expected.items():
        assert asked[n] == pytest.approx(weights, rel=1e-9, abs=1e-12)


def _tell(manager, theirs, chosen, number, draw, growth):
    rms = draw.uniform(0.5, 2.0, K) * growth**number
    durations = draw.integers(80, 6000, K)
    outcome = np.full(K, Outcome.AGGREGATED, np.int8)
    at = np.full(K, number)
    manager.register_feedback(Outcomes(chosen, at, at - 1, outcome, durations, np.full(K, 20), rms))
    for client, loss, duration in zip(chosen.tolist(), rms.tolist(), durations.tolist(), strict=True):
        theirs.feedback(client, 20 * loss, duration, number)


def test_the_first_round_is_uniform_whatever_is_known_of_the_clients():
    """Sizes, speeds and even utilities count for nothing: each of ten is chosen three times in ten."""
    counts = np.zeros(10)
    for seed in range(3000):
        manager = ClientManager(Oort(preset="fedscale"), 10, seed)
        manager.register_client(np.arange(10), 0, samples=np.arange(10) ** 3, declared_ms=np.arange(1.0, 11.0))
        counts[manager.select_clients(3, 0)] += 1
    statistic = ((counts - 900) ** 2).sum() / (900 * 0.7 * 10 / 9)  # variances of a draw of three of ten
    assert statistic < chi2.isf(1e-6, 9)
