"""Intervals that stay where their quantity can be, and cover what they say; false alarms one in a million."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evsim.base.metrics import METRICS
from evsim.results.intervals import log_interval, mean_interval, t_interval

DRAWS = 10_000
#: of a binomial with p = 0.95: a correct interval lies outside once in a million
ALARM = 4.9 * math.sqrt(0.95 * 0.05 / DRAWS)


@pytest.mark.parametrize("n", [2, 3, 5, 10])
def test_log_interval_covers_the_median_of_log_normal_times(n):
    draws = np.random.default_rng(n)
    times = draws.lognormal(mean=2.0, sigma=0.7, size=(DRAWS, n))
    hits = sum(low <= math.exp(2.0) <= high for _, low, high in map(log_interval, times))
    assert abs(hits / DRAWS - 0.95) <= ALARM


@pytest.mark.parametrize("n", [2, 3, 5, 10])
@pytest.mark.parametrize(("a", "b"), [(8, 2), (50, 4), (2, 2)])
def test_interval_of_a_bounded_mean_covers_it_within_a_percent(n, a, b):
    values = np.random.default_rng(n).beta(a, b, (n, DRAWS))
    _, low, high = mean_interval(values, METRICS["accuracy"])
    hits = ((low <= a / (a + b)) & (a / (a + b) <= high)).mean()
    assert abs(hits - 0.95) <= 0.01 + ALARM  # the delta method is not exact


@given(
    times=st.lists(st.floats(1e-3, 1e6), min_size=2, max_size=6),
    unit=st.floats(1e-6, 1e6),
)
@settings(derandomize=True, max_examples=60)
def test_log_interval_is_the_same_in_every_unit(times, unit):
    values = np.array(times)
    np.testing.assert_allclose(log_interval(values * unit), np.array(log_interval(values)) * unit, rtol=1e-6)
    mean, low, high = log_interval(values)
    assert 0 <= low <= mean * (1 + 1e-12)
    assert mean <= high * (1 + 1e-12)


@given(
    name=st.sampled_from(sorted(METRICS)),
    shares=st.lists(st.one_of(st.just(0.0), st.just(1.0), st.floats(0, 1)), min_size=1, max_size=6),
)
@settings(derandomize=True, max_examples=150)
def test_no_interval_leaves_the_bounds_of_its_metric(name, shares):
    metric = METRICS[name]
    low, high = max(metric.low, -5.0), min(metric.high, 20.0)
    values = low + np.array(shares)[:, None] * (high - low)
    mean, lower, upper = (float(each[0]) for each in mean_interval(values, metric))
    assert metric.low <= lower <= mean + 1e-12
    assert mean - 1e-12 <= upper <= metric.high
    assert mean == pytest.approx(values.mean(), rel=1e-12)


def test_far_from_bounds_and_with_many_runs_the_scale_does_not_matter():
    values = 0.5 + 0.001 * np.random.default_rng(0).standard_normal((50, 1))
    _, low, high = mean_interval(values, METRICS["accuracy"])
    np.testing.assert_allclose((low[0], high[0]), t_interval(values[:, 0])[1:], atol=1e-8)


def test_values_outside_of_the_bounds_are_another_metric():
    values = np.array([[-1.0], [1.0]])
    _, low, high = mean_interval(values, METRICS["loss"])
    np.testing.assert_allclose((low[0], high[0]), t_interval(values[:, 0])[1:], rtol=1e-12)
