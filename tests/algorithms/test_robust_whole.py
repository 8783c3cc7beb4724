"""Bulyan and the geometric median against literal loops, and how much they withstand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from evsim.algorithms.base import ReportMeta, StepInfo
from evsim.algorithms.bulyan import Bulyan
from evsim.algorithms.geometric_median import GeometricMedian
from evsim.base.errors import PolicyError, TrainingError

VECTORS = np.random.default_rng(1).normal(size=(15, 10))


def _update(vector):
    buffers = {"n": torch.tensor([float(vector[0])], dtype=torch.float64)}
    return {"model": {"a": torch.tensor(vector[:6].reshape(3, 2)), "b": torch.tensor(vector[6:])}, "buffers": buffers}


def _merge(rule, vectors, weights=None):
    info = StepInfo(0, 100, 9, len(vectors), 0)
    acc = rule.init({}, info)
    for k, vector in enumerate(vectors):
        weight = {"": 1.0 if weights is None else float(weights[k])}
        acc = rule.add(acc, _update(vector), weight, ReportMeta(k, k, 1, 1, 0, 0))
    merged = rule.finish(acc, {}, info)
    return np.concatenate([merged["model"]["a"].numpy().ravel(), merged["model"]["b"].numpy()]), merged["buffers"]["n"]


def _bulyan(vectors, f):
    rest, chosen = list(range(len(vectors))), []
    while len(chosen) < len(vectors) - 2 * f:
        near = max(len(rest) - f - 2, 1)
        scores = [sum(sorted(((vectors[i] - vectors[j]) ** 2).sum() for j in rest if j != i)[:near]) for i in rest]
        chosen.append(rest.pop(int(np.argmin(scores))))
    picked, merged = vectors[sorted(chosen)], []
    for column in picked.T:
        near = sorted(column, key=lambda value: abs(value - np.median(column)))
        merged.append(np.mean(near[: len(picked) - 2 * f]))
    return np.array(merged)


@pytest.mark.parametrize(("f", "n"), [(0, 3), (0, 9), (1, 7), (1, 12), (2, 11), (2, 15), (3, 15)])
def test_bulyan_equals_the_loop_of_its_paper(f, n):
    np.testing.assert_allclose(_merge(Bulyan(attackers=f), VECTORS[:n])[0], _bulyan(VECTORS[:n], f), rtol=1e-12)


def test_bulyan_without_attackers_is_the_mean_and_equal_updates_are_their_own_result():
    np.testing.assert_allclose(_merge(Bulyan(attackers=0), VECTORS)[0], VECTORS.mean(0), rtol=1e-12)
    same = np.repeat(VECTORS[:1], 11, axis=0)
    np.testing.assert_allclose(_merge(Bulyan(attackers=2), same)[0], VECTORS[0], rtol=1e-15)


@pytest.mark.parametrize("distance", [3.0, 700.0, 1e12])
def test_bulyan_stays_within_the_honest_values_of_every_number(distance):
    bad = VECTORS[:3] + distance
    found, _ = _merge(Bulyan(attackers=3), np.concatenate([bad, VECTORS[3:]]))
    assert (found >= VECTORS[3:].min(0) - 1e-12).all()
    assert (found <= VECTORS[3:].max(0) + 1e-12).all()


def test_bulyan_says_how_many_updates_it_needs():
    with pytest.raises(TrainingError, match=r"10 usable updates.*attackers = 2 needs at least 11; raise"):
        _merge(Bulyan(attackers=2), VECTORS[:10])
    with pytest.raises(PolicyError, match="attackers"):
        Bulyan(attackers=-1)


@pytest.mark.parametrize("weights", [None, np.arange(1.0, 16.0)])
def test_the_geometric_median_has_the_smallest_weighted_sum_of_distances(weights):
    w = np.ones(15) if weights is None else weights
    total = lambda z: (w * np.linalg.norm(VECTORS - z, axis=1)).sum()  # noqa: E731
    best = minimize(total, VECTORS.mean(0), method="BFGS", options={"gtol": 1e-10})
    found, _ = _merge(GeometricMedian(tolerance=0.0, iterations=5000), VECTORS, weights)
    np.testing.assert_allclose(found, best.x, rtol=0, atol=1e-6)
    assert total(_merge(GeometricMedian(), VECTORS, weights)[0]) == pytest.approx(best.fun, rel=1e-5)


def test_a_step_of_the_iteration_is_that_of_the_algorithm():
    z, a = np.zeros(10), np.full(15, 1 / 15)
    for step in range(1, 4):
        b = a / np.maximum(0.5, np.linalg.norm(VECTORS - z, axis=1))
        z = (b[:, None] * VECTORS).sum(0) / b.sum()
        rule = GeometricMedian(iterations=step, smoothing=0.5, tolerance=0.0)
        found, buffers = _merge(rule, VECTORS)
        np.testing.assert_allclose(found, z, rtol=0, atol=1e-14)
        assert float(buffers) == pytest.approx(z[0], abs=1e-14)  # buffers by the same shares


def test_updates_that_are_all_the_same_point_are_that_point():
    np.testing.assert_allclose(_merge(GeometricMedian(), np.repeat(VECTORS[:1], 3, 0))[0], VECTORS[0], rtol=1e-12)
    assert not np.isnan(_merge(GeometricMedian(), np.zeros((3, 10)))[0]).any()


def test_a_few_attackers_far_away_do_not_move_it_far_as_they_move_the_mean():
    draw = np.random.default_rng(7)
    honest, bad = draw.normal(1.0, 1.0, (16, 10)), draw.normal(0.0, 1.0, (4, 10)) + 700 / np.sqrt(10)
    found, _ = _merge(GeometricMedian(), np.concatenate([honest, bad]))
    assert np.linalg.norm(found - honest.mean(0)) < 2.5
    assert np.linalg.norm(np.concatenate([honest, bad]).mean(0) - honest.mean(0)) > 130


def test_a_report_without_weight_does_not_count():
    weights = np.ones(15)
    weights[:5] = 0
    np.testing.assert_allclose(
        _merge(GeometricMedian(), VECTORS, weights)[0], _merge(GeometricMedian(), VECTORS[5:])[0], rtol=1e-14
    )


@pytest.mark.parametrize("options", [{"iterations": 0}, {"smoothing": 0.0}, {"tolerance": 1.0}])
def test_impossible_values_are_refused(options):
    with pytest.raises(PolicyError, match="but got"):
        GeometricMedian(**options)
