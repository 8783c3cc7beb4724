"""REFL's merge against a transcription of the paper's rule."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from evsim.algorithms.base import ReportMeta, StepInfo
from evsim.algorithms.refl import Refl
from evsim.base.errors import ScenarioError
from evsim.scenario import Scenario

INFO = StepInfo(version=9, n_clients=20, cohort_goal=3, n_reports=5, seed=0)


def merged(updates: np.ndarray, staleness: list[int], beta: float = 0.35) -> np.ndarray:
    merge = Refl(beta=beta)
    acc = merge.init({}, INFO)
    for number, (update, tau) in enumerate(zip(updates, staleness, strict=True)):
        tree = {"model": {"w": torch.tensor(update[:3]), "b": torch.tensor(update[3:])}}
        acc = merge.add(acc, tree, {"": 1.0}, ReportMeta(number, number, 10, 1, 9 - tau, tau))
    out = merge.finish(acc, {}, INFO)["model"]
    return np.concatenate([out["w"].numpy(), out["b"].numpy()])


def paper(updates: np.ndarray, staleness: list[int], beta: float) -> np.ndarray:
    tau = np.array(staleness)
    fresh = updates[tau == 0]
    mean, n = fresh.mean(axis=0), len(fresh)
    weights = np.ones(len(updates))
    deviation = {
        s: ((mean - (updates[s] + n * mean) / (n + 1)) ** 2).sum() / (mean**2).sum() for s in np.flatnonzero(tau)
    }
    for s, own in deviation.items():
        weights[s] = (1 - beta) / (tau[s] + 1) + beta * (1 - np.exp(-own / max(deviation.values())))
    return weights @ updates / weights.sum()


@pytest.mark.parametrize("beta", [0.0, 0.35, 1.0])
def test_weights_are_those_of_the_paper(beta: float) -> None:
    updates = np.random.default_rng(3).normal(size=(5, 5))
    staleness = [0, 2, 0, 5, 0]
    np.testing.assert_allclose(merged(updates, staleness, beta), paper(updates, staleness, beta), rtol=0, atol=1e-12)


def test_without_stale_updates_it_is_the_mean() -> None:
    updates = np.random.default_rng(4).normal(size=(3, 4))
    np.testing.assert_allclose(merged(updates, [0, 0, 0]), updates.mean(axis=0), rtol=0, atol=1e-15)


@pytest.mark.parametrize("beta", [0.0, 0.35, 1.0])
def test_stale_updates_alone_count_by_their_age(beta: float) -> None:
    """There is no fresh mean to differ from: (1 - b) / (tau + 1) is left, and normalizing takes the factor out."""
    updates = np.random.default_rng(5).normal(size=(3, 5))
    weights = 1 / (1 + np.array([1, 3, 3]))
    found = merged(updates, [1, 3, 3], beta)
    np.testing.assert_allclose(found, weights @ updates / weights.sum(), rtol=0, atol=1e-14)


def test_tiny_updates_keep_their_weights() -> None:
    """||u||^2 is in every L and underflows here; the weights only need the ratios of the Ls."""
    updates = np.random.default_rng(6).normal(size=(5, 5))
    tiny = merged(1e-155 * updates, [0, 2, 0, 5, 0])
    np.testing.assert_allclose(tiny * 1e155, paper(updates, [0, 2, 0, 5, 0], 0.35), rtol=1e-5)


def test_a_scenario_that_could_hold_stale_updates_only_is_refused() -> None:
    buffer = 'aggregation={ kind = "buffered", concurrency = 20, buffer_size = 5 }'
    with pytest.raises(ScenarioError, match="refl without rounds"):
        Scenario.load("quickstart", overrides=["merge.kind=refl", buffer])
    assert Scenario.load("quickstart", overrides=["merge.kind=refl", "aggregation.late_reports=keep"]).merge == Refl()
