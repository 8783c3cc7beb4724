"""Synthetic(alpha, beta) against the formula, written as loops."""

from __future__ import annotations

from math import exp
from pathlib import Path

import numpy as np
import pytest

from evsim.base import rng
from evsim.base.errors import DataError, PolicyError
from evsim.training.data.synthetic import Synthetic


def load(n, seed=0, **options):
    return Synthetic(**options).load(n_clients=n, seed=seed, folder=Path())


def softmax(logits):
    powers = [exp(logit - max(logits)) for logit in logits]
    return [power / sum(powers) for power in powers]


def by_hand(n, *, seed, alpha, beta, samples, dimension=5, classes=3):
    """Section 5.1 of the paper, number by number, from the client's own stream."""
    x, y = [], []
    for client in range(n):
        draw = rng.stream(seed, "data", "synthetic", client)
        u, b_k = draw.normal(0, alpha), draw.normal(0, beta)
        v = [draw.normal(b_k, 1) for _ in range(dimension)]
        w = [[draw.normal(u, 1) for _ in range(classes)] for _ in range(dimension)]
        b = [draw.normal(u, 1) for _ in range(classes)]
        for _ in range(samples):
            row = [v[j] + ((j + 1) ** -1.2) ** 0.5 * draw.standard_normal() for j in range(dimension)]
            logits = [sum(row[j] * w[j][c] for j in range(dimension)) + b[c] for c in range(classes)]
            x.append(row)
            y.append(int(np.argmax(softmax(logits))))
    return np.array(x), np.array(y)


@pytest.mark.parametrize(("alpha", "beta"), [(0.0, 0.0), (0.5, 2.0)])
def test_samples_follow_the_formula(alpha, beta):
    samples = load(4, seed=7, alpha=alpha, beta=beta, dimension=5, classes=3, samples_per_client=20)
    x, y = by_hand(4, seed=7, alpha=alpha, beta=beta, samples=20)
    np.testing.assert_allclose(samples.x, x, rtol=1e-6, atol=1e-7)
    np.testing.assert_array_equal(samples.y, y)
    np.testing.assert_array_equal(samples.groups, np.repeat(np.arange(4), 20))


def test_alpha_and_beta_are_the_standard_deviations_of_the_clients_centers():
    samples = load(2000, beta=3.0, dimension=50, classes=2, samples_per_client=1)
    means = samples.x.mean(axis=1, dtype=np.float64)
    inside = (1 + np.mean(np.arange(1, 51) ** -1.2)) / 50
    assert means.std() == pytest.approx((9 + inside) ** 0.5, abs=0.24)  # 5 sigma


def test_inputs_vary_around_their_client_as_a_power_of_the_dimension():
    samples = load(1, samples_per_client=20_000)
    expected = np.arange(1, 61) ** -1.2
    np.testing.assert_allclose(samples.x.var(axis=0, dtype=np.float64), expected, rtol=0.05)  # 5 sigma


def test_iid_clients_share_one_model_and_one_center():
    samples = load(2, iid=True, dimension=4, samples_per_client=20_000)
    mean = samples.x.reshape(2, -1, 4).mean(axis=1, dtype=np.float64)
    assert np.abs(mean).max() < 0.036  # beta = 0: 5 sigma around 0
    shares = [np.bincount(own, minlength=10) / 20_000 for own in samples.y.reshape(2, -1)]
    assert np.abs(shares[0] - shares[1]).max() < 0.025


def test_sizes_are_log_normal_plus_50_and_bounded_where_asked():
    sizes = Synthetic().sizes(20_000, 0)
    assert sizes.min() == 50
    assert np.median(sizes) == pytest.approx(50 + exp(4), abs=5)  # 5 sigma = 4.9
    assert Synthetic(most_samples=100).sizes(20_000, 0).max() == 100
    np.testing.assert_array_equal(np.minimum(sizes, 100), Synthetic(most_samples=100).sizes(20_000, 0))


def test_a_larger_population_begins_with_the_same_clients():
    small, large = load(3, most_samples=60), load(5, most_samples=60)
    np.testing.assert_array_equal(small.x, large.x[: len(small.x)])
    np.testing.assert_array_equal(small.y, large.y[: len(small.y)])


def test_the_seed_changes_the_data():
    assert not np.array_equal(load(2, samples_per_client=3).x, load(2, seed=1, samples_per_client=3).x)


def test_the_number_of_clients_must_be_said():
    with pytest.raises(DataError, match=r"population\.clients: missing"):
        load(None)


@pytest.mark.parametrize(
    "options",
    [
        {"alpha": -1.0},
        {"beta": float("nan")},
        {"dimension": 0},
        {"classes": 1},
        {"samples_per_client": 0},
        {"most_samples": 0},
    ],
)
def test_impossible_values_are_refused(options):
    with pytest.raises(PolicyError, match="but got"):
        Synthetic(**options)
