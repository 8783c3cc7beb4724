"""Uniform selection: every idle client and every pair with the same probability, in both of its ways to draw."""

from __future__ import annotations

from collections import Counter
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evsim.selection import uniform
from evsim.selection.uniform import Uniform
from evsim.testing.selectors import make_manager
from evsim.timeline.manager import ClientManager
from tests.selection.laws_of_draws import assert_follows


@pytest.mark.parametrize(
    ("n_clients", "online", "by_draws"),
    [(5, [0, 1, 2, 3, 4], True), (30, [2, 3, 11, 28, 29], False)],
)
def test_every_set_of_idle_clients_has_the_same_probability(
    n_clients: int, online: list[int], by_draws: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    used = []
    draw = uniform._first_idle
    monkeypatch.setattr(uniform, "_first_idle", lambda *args: used.append(1) or draw(*args))
    seen: Counter[tuple[int, ...]] = Counter()
    for seed in range(6000):
        manager = ClientManager(Uniform(), n_clients, seed)
        manager.register_client(np.array(online), 0)
        seen[tuple(sorted(manager.select_clients(2, 0).tolist()))] += 1
    assert_follows(seen, dict.fromkeys(combinations(online, 2), 0.1))
    assert bool(used) == by_draws


def test_two_populations_that_differ_in_one_client_share_their_draws() -> None:
    """Common random numbers: taking away a client that was not chosen changes nothing."""
    manager, other = make_manager(Uniform(), 400), make_manager(Uniform(), 400)
    chosen = manager.select_clients(5, 0)
    away = other.idle[~np.isin(other.idle, chosen)][:3]
    other.deregister_client(away, 0)
    assert other.select_clients(5, 0).tolist() == chosen.tolist()


def test_draws_go_on_until_enough_distinct_clients_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uniform, "_BLOCK", 0)
    manager = make_manager(Uniform(), 9)
    chosen = manager.select_clients(4, 0)  # 4 x 9 <= 6^2: drawn, in blocks that need repeating
    assert len(set(chosen.tolist())) == 4
    full = ClientManager(Uniform(), 50, 3)
    full.register_client(np.arange(50), 0)
    assert sorted(full.select_clients(50, 0).tolist()) == list(range(50))


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.integers(0, 2**64 - 1), st.sets(st.integers(0, 299), min_size=18), st.integers(1, 300))
def test_the_draw_of_one_client_is_the_first_of_the_draws_of_many(key: int, online: set[int], n: int) -> None:
    manager = ClientManager(Uniform(), 300, seed=0)
    manager.register_client(np.array(sorted(online)), 0)
    first = uniform._first_idle(manager, min(n, len(online)), key)[0]
    assert uniform._first_idle(manager, 1, key).tolist() == [first]
    assert uniform._first_of_few(manager, key) in {first, -1}
    chosen, _ = Uniform().select(None, manager, 1, key)
    assert chosen.tolist() == [first]
    assert chosen.dtype == np.int64


def test_single_draws_are_given_up_where_many_would_be_needed() -> None:
    manager = ClientManager(Uniform(), 10_000, seed=0)
    manager.register_client(np.arange(10_000 // uniform._LIKELY), 0)
    assert uniform._first_of_few(manager, 5) == -1  # too few are idle
    manager.register_client(np.arange(2_000), 0)
    found = [uniform._first_of_few(manager, key) for key in range(200)]
    assert sum(client >= 0 for client in found) >= 199  # 0.8^64 each
    assert max(found) < 2_000
