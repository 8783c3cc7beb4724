"""Named laws of speeds and delays: what is drawn, against closed forms; what is refused, in words."""

from __future__ import annotations

from itertools import combinations
from math import exp, pi, sqrt
from pathlib import Path

import numpy as np
import pytest

from evsim.base.errors import TraceError
from evsim.traces.laws import LAWS
from evsim.traces.rates import _DRAWN
from evsim.traces.sources import load_speed

N = 20_000
BOUND = 5.0  # standard errors: a false alarm in 6e-7 of the figures, were seeds not fixed
RANKS = np.arange(1.0, 51)
WEIGHTS = RANKS**-1.7


def factorial(power):
    return float(np.prod(np.arange(1, power + 1)))


#: A table of each law, and its raw moments E[X^m] in closed form.
CLOSED = {
    "half_normal": (
        {"scale": 30.0},
        lambda m: {1: 30 * sqrt(2 / pi), 2: 30.0**2, 4: 3 * 30.0**4}[m],
    ),
    "exponential": ({"mean": 7.0}, lambda m: factorial(m) * 7.0**m),
    "log_normal": ({"median": 20.0, "sigma": 0.3}, lambda m: 20.0**m * exp((m * 0.3) ** 2 / 2)),
    "zipf": (
        {"unit": 4.0, "exponent": 1.7, "ranks": 50},
        lambda m: 4.0**m * float((RANKS**m * WEIGHTS).sum() / WEIGHTS.sum()),
    ),
    "tiers": (
        {"values": [1.0, 5.0, 9.0], "shares": [2, 0, 3]},
        lambda m: (2 * 1.0**m + 3 * 9.0**m) / 5,
    ),
}


def drawn(table, *, n=N, seed=3, own=()):
    """Devices of which every quantity has this law."""
    spec = {**dict.fromkeys(_DRAWN, table), **dict(own)}
    return load_speed(spec, n_devices=n, seed=seed, folder=Path())


def test_every_law_has_closed_forms():
    assert set(CLOSED) == set(LAWS)


@pytest.mark.parametrize("quantity", _DRAWN)
@pytest.mark.parametrize("kind", CLOSED)
def test_first_and_second_moments_are_those_of_the_law(kind, quantity):
    table, moment = CLOSED[kind]
    values = getattr(drawn({"kind": kind, **table}), quantity)
    for m in (1, 2):
        error = sqrt((moment(2 * m) - moment(m) ** 2) / N)
        assert abs((values**m).mean() - moment(m)) < BOUND * error


@pytest.mark.parametrize("kind", CLOSED)
def test_quantities_are_independent_but_for_tiers(kind):
    found = drawn({"kind": kind, **CLOSED[kind][0]})
    for one, other in combinations(_DRAWN, 2):
        correlation = np.corrcoef(getattr(found, one), getattr(found, other))[0, 1]
        if kind == "tiers":
            assert getattr(found, one).tolist() == getattr(found, other).tolist()
        else:
            assert abs(correlation) < BOUND / sqrt(N)


@pytest.mark.parametrize("kind", CLOSED)
def test_a_large_population_begins_with_the_small_one_and_seeds_differ(kind):
    table = {"kind": kind, **CLOSED[kind][0]}
    small, large = drawn(table, n=50), drawn(table, own={"devices": 200})
    assert large.n_devices == 200
    assert large.take(np.arange(50)).fingerprint() == small.fingerprint()
    assert drawn(table, n=50, seed=4).fingerprint() != small.fingerprint()
    assert drawn(table, n=50, seed=3).fingerprint() == drawn(table, n=50, seed=4, own={"seed": 3}).fingerprint()


def test_another_law_ranks_the_same_devices_alike():
    one, other = (drawn({"kind": kind, **CLOSED[kind][0]}, n=500) for kind in ("half_normal", "log_normal"))
    for name in _DRAWN:
        assert getattr(one, name).argsort().tolist() == getattr(other, name).argsort().tolist()


def test_draws_are_forced_between_the_bounds_and_numbers_stay():
    table = {"kind": "exponential", "mean": 100, "at_least": 50, "at_most": 150}
    found = drawn(table, own={"latency_ms": 3, "network_jitter": 0.2})
    values = found.download_kbps
    assert (values.min(), values.max()) == (50.0, 150.0)
    assert abs((values == 50).mean() - (1 - np.exp(-0.5))) < BOUND * 0.5 / sqrt(N)
    assert (set(found.latency_ms.tolist()), found.network_jitter) == ({3.0}, 0.2)


def test_rates_that_come_close_to_0_have_a_caveat_and_costs_have_none():
    law = {"kind": "half_normal", "scale": 5000}
    found = drawn(law, own={"upload_kbps": {**law, "at_least": 100}}).caveats
    assert [(each.key, "download_kbps" in each.text) for each in found] == [("rates_reach_zero", True)]
    assert not drawn({"kind": "log_normal", "median": 5, "sigma": 1}).caveats


def test_every_mistake_is_listed_where_it_is():
    with pytest.raises(TraceError) as caught:
        load_speed(
            {
                "compute_ms_per_sample": {"kind": "halfnormal", "scale": 3},
                "download_kbps": {"kind": "zipf", "unit": "1", "ranks": 2.5, "exponents": 2},
                "latency_ms": {"kind": "tiers", "values": [1, True]},
                "compute_jitter": {"kind": "exponential", "mean": 1},
                "devices": 0,
                "seed": "x",
            },
            n_devices=5,
            seed=0,
            folder=Path(),
        )
    for line in (
        "speed.upload_kbps: missing; expected a number, or a table such as { kind = ",
        "speed.compute_ms_per_sample.kind: 'halfnormal'; expected the name of a law; did you mean 'half_normal'?",
        "speed.download_kbps.unit: '1'; expected a number",
        "speed.download_kbps.ranks: 2.5; expected a whole number",
        "speed.download_kbps.exponents: unknown key; did you mean 'exponent'?",
        "speed.download_kbps.exponent: missing; expected a number",
        "speed.latency_ms.values: [1, True]; expected a list of numbers",
        "speed.compute_jitter: {'kind': 'exponential', 'mean': 1}; expected a number",
        "speed.devices: 0; expected a whole number >= 1",
        "speed.seed: 'x'; expected a whole number",
    ):
        assert line in str(caught.value)
    assert str(caught.value).startswith("10 problems")


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({}, r"kind: missing; expected the name of a law; \(known: exponential, half_normal"),
        ({"kind": 3}, "kind: 3; expected the name of a law"),
        ({"kind": "half_normal", "scale": 0}, "scale must be finite and > 0, but got scale=0"),
        ({"kind": "half_normal", "scale": 10**400}, "scale must be finite and > 0, but got scale=inf"),
        ({"kind": "exponential", "mean": -1}, "mean must be finite and > 0"),
        ({"kind": "log_normal", "median": 1, "sigma": -1}, "sigma must be >= 0"),
        ({"kind": "log_normal", "median": 1, "sigma": float("nan")}, "sigma must be >= 0"),
        ({"kind": "zipf", "unit": 1, "exponent": 0}, "exponent must be finite and > 0"),
        ({"kind": "zipf", "unit": 1, "exponent": 1, "ranks": 0}, "1 <= ranks"),
        ({"kind": "zipf", "unit": 1, "exponent": 1, "ranks": 10**30}, "1 <= ranks"),
        ({"kind": "tiers", "values": []}, "at least one value is needed"),
        ({"kind": "tiers", "values": [1, 0]}, "values must be finite and > 0"),
        ({"kind": "tiers", "values": [1, 2], "shares": [1]}, "shares must be as many as values"),
        ({"kind": "tiers", "values": [1, 2], "shares": [0, 0]}, "one of them > 0"),
        ({"kind": "exponential", "mean": 1, "at_least": 3, "at_most": 2}, "expected 0 <= at_least <= at_most"),
        ({"kind": "exponential", "mean": 1, "at_least": float("nan")}, "expected 0 <= at_least <= at_most"),
        ({"kind": "log_normal", "median": 1, "sigma": 1e300}, "device 0: compute_ms_per_sample is "),
    ],
)
def test_what_no_device_can_have_is_refused(table, message):
    with pytest.raises(TraceError, match=message):
        drawn(table, n=10)
