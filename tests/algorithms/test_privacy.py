"""Epsilon against closed forms; amplification only where it holds."""

from __future__ import annotations

import sys
from dataclasses import replace
from math import inf, sqrt

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm

from evsim.algorithms.dp import DpMean
from evsim.algorithms.privacy import Sampling, account, epsilon_of_release
from evsim.base.errors import MissingExtraError, PolicyError

DELTA = 1e-5
MERGE = DpMean(max_norm=1.0, noise_multiplier=1.2)
IDEAL = {"n_clients": 1000, "cohort": 50, "always_available": True, "uniform": True, "synchronous": True}


def _delta(epsilon, mu):
    """The hockey-stick divergence of N(mu, 1) and N(0, 1), by integration."""
    cut = epsilon / mu + mu / 2  # where the loss exceeds epsilon
    integral, _ = quad(lambda x: norm.pdf(x, mu) - np.exp(epsilon) * norm.pdf(x), cut, cut + 40, epsabs=1e-15)
    return integral


@pytest.mark.parametrize("z", [0.7, 2.0, 10.0, 40.0])
def test_epsilon_of_one_release_is_exact(z):
    assert _delta(epsilon_of_release(z, DELTA), 2 / z) == pytest.approx(DELTA, rel=1e-6)


def test_much_noise_needs_no_epsilon_at_all():
    assert epsilon_of_release(1e7, DELTA) == 0.0


@pytest.mark.parametrize("steps", [1, 10])
def test_without_amplification_steps_compose_as_one_gaussian(steps):
    sampling = Sampling(**{**IDEAL, "always_available": False})
    found = account(MERGE, sampling, steps)
    exact = epsilon_of_release(2 * 1.2 / sqrt(steps), DELTA)  # mu = sqrt(T) / z: one client added, sensitivity S
    assert found.epsilon == pytest.approx(exact, rel=1e-4)
    assert found.sampling_rate == 1.0
    assert found.epsilon_if_poisson is None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"always_available": False}, "clients are not always available"),
        ({"uniform": False}, "the selection is not uniform"),
        ({"synchronous": False}, "not in synchronous rounds"),
        ({"over_commitment": 1.3}, "over-commitment favors fast clients"),
        ({"deadline": True}, "deadline leaves out slow clients"),
    ],
)
def test_where_amplification_does_not_hold_q_is_one_and_the_reason_is_given(changes, reason):
    found = account(MERGE, Sampling(**{**IDEAL, **changes}), 10)
    assert found.sampling_rate == 1.0
    assert len(found.warnings) == 1
    assert reason in found.warnings[0]


def test_where_it_holds_sampling_counts_and_a_fixed_cohort_costs_more_than_a_poisson_one():
    ideal = account(MERGE, Sampling(**IDEAL), 20)
    everyone = account(MERGE, Sampling(**{**IDEAL, "uniform": False}), 20)
    assert ideal.warnings == ()
    assert ideal.sampling_rate == 0.05
    assert ideal.epsilon_if_poisson < ideal.epsilon < everyone.epsilon


def test_no_noise_gives_no_privacy_and_no_step_loses_none():
    silent = DpMean(max_norm=1.0, noise_multiplier=0.0)
    assert account(silent, Sampling(**IDEAL), 1).epsilon == inf
    assert account(MERGE, Sampling(**IDEAL), 0).epsilon == 0.0


def test_a_missing_library_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "dp_accounting", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'evsim\[privacy\]'"):
        account(MERGE, Sampling(**IDEAL), 1)


def test_impossible_values_are_refused():
    for call in (lambda: epsilon_of_release(0.0, DELTA), lambda: epsilon_of_release(1.0, 1.0)):
        with pytest.raises(PolicyError, match="but got"):
            call()


@pytest.mark.parametrize("z", [1e-6, 1e-3, 0.05, 0.19, 1e6])
@pytest.mark.parametrize("steps", [1, 10_000])
@pytest.mark.parametrize("reachable", [True, False])
def test_any_noise_has_a_finite_account_in_no_time(z, steps, reachable):
    """An account is made after the run: one that fails or fills the memory would lose it."""
    found = account(replace(MERGE, noise_multiplier=z), Sampling(**IDEAL | {"always_available": reachable}), steps)
    assert 0 <= found.epsilon < inf


@pytest.mark.parametrize("z", [1e-7, 1e7, 1e300, -1.0])
def test_noise_beyond_any_account_is_refused(z):
    with pytest.raises(PolicyError, match="noise_multiplier must be"):
        DpMean(max_norm=1.0, noise_multiplier=z)
