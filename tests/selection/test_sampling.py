"""Draws by key follow their laws, enumerated; chi-square tests with a stated false alarm rate."""

from __future__ import annotations

from collections import Counter
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evsim.base import rng
from evsim.selection.sampling import kth_smallest, largest, round_randomly, smallest_keys, weighted_draw
from tests.selection.laws_of_draws import assert_follows, successive

DRAWS = 6000


def test_a_weighted_draw_is_one_client_after_the_other_in_proportion_to_weight() -> None:
    weights = {3: 1.0, 5: 2.0, 8: 4.0, 9: 0.5}
    clients, values = np.array(list(weights)), np.array(list(weights.values()))
    seen = Counter(tuple(weighted_draw(clients, values, 2, rng.key(k, "draw")).tolist()) for k in range(DRAWS))
    assert_follows(seen, successive(weights, 2))


def test_a_uniform_draw_gives_every_order_the_same_chance() -> None:
    clients = np.array([3, 5, 8, 9])
    seen = Counter(tuple(smallest_keys(clients, 2, rng.key(k, "draw")).tolist()) for k in range(DRAWS))
    assert_follows(seen, dict.fromkeys(permutations([3, 5, 8, 9], 2), 1 / 12))


def test_clients_of_weight_zero_come_last_and_uniformly() -> None:
    clients, weights = np.array([1, 2, 3, 4]), np.array([0.0, 5.0, 0.0, 0.0])
    seen = Counter(tuple(weighted_draw(clients, weights, 2, rng.key(k, "draw")).tolist()) for k in range(3000))
    assert_follows(seen, {(2, 1): 1 / 3, (2, 3): 1 / 3, (2, 4): 1 / 3})


def test_weights_of_any_scale_are_told_apart() -> None:
    clients = np.array([1, 2, 3])
    for scale in (1e-300, 1.0, 1e300):
        drawn = [weighted_draw(clients, scale * np.array([1e-7, 1.0, 1e-7]), 1, rng.key(k, "x"))[0] for k in range(50)]
        assert drawn == [2] * 50


@given(st.lists(st.integers(0, 99), unique=True, min_size=1, max_size=12), st.integers(0, 12), st.randoms())
@settings(derandomize=True, max_examples=50, deadline=None)
def test_the_order_of_the_arrays_does_not_change_a_draw(clients: list[int], n: int, shuffled: st.randoms) -> None:
    n = min(n, len(clients))
    other = clients.copy()
    shuffled.shuffle(other)
    for draw in (
        lambda c: smallest_keys(c, n, 7),
        lambda c: weighted_draw(c, (c % 4).astype(np.float64), n, 7),
        lambda c: largest(c, (c % 4).astype(np.float64), n, 7),
    ):
        assert draw(np.array(clients)).tolist() == draw(np.array(other)).tolist()


def test_largest_takes_the_largest_and_breaks_ties_at_random() -> None:
    clients, values = np.arange(6), np.array([5.0, 1.0, 1.0, 7.0, 1.0, 0.0])
    seen = Counter(tuple(largest(clients, values, 3, rng.key(k, "t")).tolist()) for k in range(3000))
    assert_follows(seen, {(3, 0, 1): 1 / 3, (3, 0, 2): 1 / 3, (3, 0, 4): 1 / 3})


@pytest.mark.parametrize("n", [0, 6, 9])
def test_largest_of_none_or_all(n: int) -> None:
    clients, values = np.arange(6), np.arange(6.0)
    assert largest(clients, values, n, 0).tolist() == [5, 4, 3, 2, 1, 0][:n]


def test_random_rounding_is_right_on_average() -> None:
    rounded = np.array([round_randomly(2.3, rng.mix(k)) for k in range(4000)])
    assert set(rounded.tolist()) == {2, 3}
    assert abs(rounded.mean() - 2.3) < 5 * np.sqrt(0.3 * 0.7 / 4000)  # five standard errors: 6e-7


def test_the_kth_smallest_beyond_the_end_is_the_largest() -> None:
    values = np.array([3.0, 1.0, 2.0])
    assert [kth_smallest(values, k) for k in (0, 1, 2, 9)] == [1.0, 2.0, 3.0, 3.0]
