"""Power-of-choice: the query is asked on a clock, by a server small enough to read."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np
import pytest

from evsim.base.errors import PolicyError
from evsim.base.vocabulary import IntArray, Outcome
from evsim.selection.base import Answers
from evsim.selection.power_of_choice import PowerOfChoice, PowerOfChoiceStale
from evsim.testing.selectors import make_reports
from evsim.timeline.manager import ClientManager
from tests.selection.laws_of_draws import assert_follows, successive


@dataclass
class FakeServer:
    """What a server does with a query: tasks that take time, may be lost, and make their clients busy."""

    manager: ClientManager
    loss: dict[int, float]
    answer_ms: dict[int, int] = field(default_factory=dict)  # default 100; -1: lost
    now: int = 0
    queried: list[int] = field(default_factory=list)

    def select(self, n: int) -> IntArray:
        query = self.manager.candidates(n, self.now)
        if query is not None:
            self.queried = query.clients.tolist()
            self.manager.assign(query.clients, counted=False)
            times = {client: self.answer_ms.get(client, 100) for client in self.queried}
            limit = query.timeout_ms or max(times.values())
            answered = [client for client, ms in times.items() if 0 <= ms <= limit]
            self.now += limit if query.timeout_ms and len(answered) < len(times) else max(times.values())
            self.manager.release(
                np.array([c for c, ms in times.items() if ms <= limit], np.int64)
            )  # lost ones are known
            losses = np.array([self.loss[client] for client in answered])
            self.manager.register_answers(Answers(np.array(answered, np.int64), losses))
        return self.manager.select_clients(n, self.now)


def server(selector: PowerOfChoice, n: int = 10, seed: int = 0, **kwargs: dict[int, int]) -> FakeServer:
    manager = ClientManager(selector, n, seed)
    manager.register_client(np.arange(n), 0, samples=np.full(n, 5))
    return FakeServer(manager, {client: float(client) for client in range(n)}, **kwargs)


def test_the_candidates_with_the_largest_losses_are_taken_largest_first() -> None:
    it = server(PowerOfChoice(d=6))
    chosen = it.select(2)
    assert len(it.queried) == 6
    assert chosen.tolist() == sorted(it.queried)[::-1][:2]


def test_the_query_takes_time_on_the_clock() -> None:
    it = server(PowerOfChoice(d=10), answer_ms={3: 700})
    it.select(2)
    assert it.now == 700


def test_candidates_are_drawn_in_proportion_to_data_size() -> None:
    seen: Counter[tuple[int, ...]] = Counter()
    for seed in range(3000):
        manager = ClientManager(PowerOfChoice(d=2), 3, seed)
        manager.register_client(np.arange(3), 0, samples=np.array([1, 2, 5]))
        query = manager.candidates(1, 0)
        assert query is not None
        seen[tuple(query.clients.tolist())] += 1
    assert_follows(seen, successive({0: 1.0, 1: 2.0, 2: 5.0}, 2))


def test_a_candidate_that_is_late_is_not_waited_for_beyond_the_timeout_and_not_chosen() -> None:
    it = server(PowerOfChoice(d=10, query_timeout=200), answer_ms={9: 5000})
    assert it.select(2).tolist() == [8, 7]
    assert it.now == 200


def test_a_candidate_that_left_is_not_chosen() -> None:
    it = server(PowerOfChoice(d=10, query_timeout=None), answer_ms={9: -1, 8: -1})
    it.manager.deregister_client(np.array([8, 9]), 0)
    it.manager.register_client(np.array([8, 9]), 0)
    chosen = it.select(3)
    assert chosen.tolist() == [7, 6, 5]


def test_the_cohort_is_filled_up_with_other_idle_clients_when_too_few_answer() -> None:
    it = server(PowerOfChoice(d=4), answer_ms=dict.fromkeys(range(10), -1))
    chosen = it.select(3)
    assert len(set(chosen.tolist())) == 3


def test_d_equal_to_the_cohort_is_a_draw_by_data_size() -> None:
    seen: Counter[tuple[int, ...]] = Counter()
    for seed in range(2000):
        seen[tuple(sorted(server(PowerOfChoice(d=2), n=5, seed=seed).select(2).tolist()))] += 1
    assert_follows(seen, dict.fromkeys(combinations(range(5), 2), 0.1))


def test_more_clients_wanted_than_candidates_raises_the_number_of_candidates() -> None:
    it = server(PowerOfChoice(d=2))
    assert len(it.select(7)) == 7
    assert len(it.queried) == 7


def test_fewer_idle_clients_than_candidates_are_all_asked() -> None:
    it = server(PowerOfChoice(d=50), n=4)
    assert it.select(2).tolist() == [3, 2]


def test_a_loss_that_is_not_finite_is_not_the_largest() -> None:
    it = server(PowerOfChoice(d=10))
    it.loss |= {2: float("nan"), 3: float("inf")}
    assert it.select(2).tolist() == [9, 8]


def test_nobody_is_asked_when_nobody_is_there() -> None:
    manager = ClientManager(PowerOfChoice(d=3), 4, 0)
    assert manager.candidates(2, 0) is None
    assert manager.select_clients(2, 0).tolist() == []


def test_a_selection_without_the_query_is_an_error_and_not_another_policy() -> None:
    manager = server(PowerOfChoice(d=3)).manager
    with pytest.raises(PolicyError, match="selection without its query"):
        manager.select_clients(2, 0)


def test_the_mini_batch_variant_says_how_many_samples_to_evaluate() -> None:
    query = server(PowerOfChoice(d=3, max_samples=32, query_timeout=9)).manager.candidates(1, 0)
    assert query is not None
    assert (query.max_samples, query.timeout_ms) == (32, 9)


def test_the_stale_variant_ranks_by_the_last_loss_and_asks_clients_never_heard_first() -> None:
    manager = ClientManager(PowerOfChoiceStale(d=10), 6, 0)
    manager.register_client(np.arange(6), 0, samples=np.full(6, 5))
    manager.register_feedback(make_reports(np.array([0, 1, 2, 3]), 0))  # losses 0.1, 1.1, 2.1, 3.1
    manager.register_feedback(make_reports(np.array([4]), 0, Outcome.DROPPED))
    assert manager.candidates(3, 0) is None
    chosen = manager.select_clients(4, 0).tolist()
    assert set(chosen[:2]) == {4, 5}
    assert chosen[2:] == [3, 2]


@pytest.mark.parametrize("fields", [{"d": 0}, {"d": 3, "max_samples": 0}, {"d": 3, "query_timeout": 0}])
def test_impossible_values_are_refused(fields: dict[str, int]) -> None:
    with pytest.raises(PolicyError, match="must be >= 1"):
        PowerOfChoice(**fields)
    with pytest.raises(PolicyError, match="must be >= 1"):
        PowerOfChoiceStale(d=0)
