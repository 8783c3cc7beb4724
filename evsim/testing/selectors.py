"""What every selector must do, as tests to inherit: give `make`, get the rest.

class TestMySelector(SelectorContract):
    def make(self):
        return MySelector()
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import pytest

from evsim.base import rng
from evsim.base.vocabulary import IntArray, Outcome
from evsim.selection.base import Answers, Outcomes, Selector
from evsim.timeline.manager import ClientManager

N_CLIENTS = 60
_OUTCOMES = np.array([outcome for outcome in Outcome if outcome != Outcome.IN_FLIGHT], np.int8)


def make_manager(selector: Selector[Any], n_clients: int = N_CLIENTS, seed: int = 0) -> ClientManager:
    """A manager with two thirds of its clients online: sizes and declared durations differ, some are not declared."""
    manager = ClientManager(selector, n_clients, seed)
    everyone = np.arange(n_clients)
    declared = (1000 + 137 * (everyone * 7 % 31)).astype(np.float64)
    declared[everyone % 5 == 0] = np.nan
    manager.register_client(
        everyone,
        now=0,
        samples=1 + everyone * 13 % 40,
        declared_ms=declared,
        transfers_ms=np.stack([declared / 8, declared / 4], axis=1),
    )
    manager.deregister_client(everyone[everyone % 3 == 0], now=1)
    return manager


def make_reports(clients: IntArray, number: int, outcome: object = Outcome.AGGREGATED) -> Outcomes:
    """Outcomes of a round: each client with a loss and a duration of its own."""
    outcomes = np.broadcast_to(np.asarray(outcome, np.int8), clients.shape)
    used = np.isin(outcomes, (Outcome.AGGREGATED, Outcome.ANSWERED))
    return Outcomes(
        clients=clients,
        at=np.full(len(clients), 10_000 * (number + 1), np.int64),
        round=np.full(len(clients), number, np.int64),
        outcome=outcomes,
        duration_ms=500 + clients * 11 % 97,
        samples=1 + clients * 13 % 40,
        utility=np.where(used, 0.1 + clients % 7, np.nan),
    )


def run_rounds(manager: ClientManager, rounds: int, n: int, outcome: object = Outcome.AGGREGATED) -> list[IntArray]:
    """Rounds in which every task ends before the next selection; queries are answered at once."""
    chosen = []
    for now in range(rounds):
        _answer_query(manager, n, now)
        number = manager.round
        clients = manager.select_clients(n, now)
        manager.assign(clients)
        manager.release(clients)
        manager.register_feedback(make_reports(clients, number, outcome))
        chosen.append(clients)
    return chosen


def _answer_query(manager: ClientManager, n: int, now: int, *, equally: bool = False) -> None:
    query = manager.candidates(n, now)
    if query is not None:
        loss = np.ones(len(query.clients)) if equally else (1 + query.clients % 11).astype(np.float64)
        manager.register_answers(Answers(query.clients, loss))


class SelectorContract(ABC):
    """Distinct idle clients, exactly min(n, idle) of them, whatever happened before; the same for the same seed."""

    @abstractmethod
    def make(self) -> Selector[Any]:
        """A selector to test."""

    @pytest.mark.parametrize("n", [0, 1, 7, 40, 1000])
    def test_returns_exactly_as_many_distinct_idle_clients_as_there_are_and_are_wanted(self, n: int) -> None:
        manager = make_manager(self.make())
        for clients in run_rounds(manager, 8, n):
            assert clients.dtype == np.int64
            assert len(clients) == len(set(clients.tolist())) == min(n, manager.n_idle)
            assert manager.is_idle(clients).all()

    def test_nobody_is_chosen_when_nobody_is_idle(self) -> None:
        manager = ClientManager(self.make(), N_CLIENTS, 0)
        assert run_rounds(manager, 2, 5)[-1].tolist() == []

    def test_busy_clients_are_never_chosen(self) -> None:
        manager = make_manager(self.make())
        busy: set[int] = set()
        for now in range(4):
            _answer_query(manager, 9, now)
            clients = manager.select_clients(9, now)
            assert not busy & set(clients.tolist())
            manager.assign(clients)
            busy |= set(clients.tolist())

    @pytest.mark.parametrize("outcome", _OUTCOMES.tolist())
    def test_any_outcome_of_every_task_leaves_the_cohort_full(self, outcome: int) -> None:
        manager = make_manager(self.make())
        assert [len(clients) for clients in run_rounds(manager, 12, 10, outcome)] == [10] * 12

    def test_the_same_seed_gives_the_same_choices_and_another_seed_other_ones(self) -> None:
        runs = [run_rounds(make_manager(self.make(), seed=seed), 6, 10) for seed in (3, 3, 4)]
        first, again, other = (np.stack(run) for run in runs)
        assert np.array_equal(first, again)
        assert not np.array_equal(first, other)

    def test_a_policy_keeps_nothing_between_two_runs(self) -> None:
        selector = self.make()
        first = np.stack(run_rounds(make_manager(selector), 6, 10))
        assert np.array_equal(first, np.stack(run_rounds(make_manager(selector), 6, 10)))

    def test_the_order_of_check_ins_does_not_matter(self) -> None:
        there = np.flatnonzero(np.arange(N_CLIENTS) % 3 > 0)
        managers = [ClientManager(self.make(), N_CLIENTS, 0) for _ in range(2)]
        for manager, clients in zip(managers, (there, there[::-1]), strict=True):
            for part in np.array_split(clients, 5):
                manager.register_client(part, 0, samples=1 + part % 9, declared_ms=(1000 + part).astype(np.float64))
        first, second = (np.stack(run_rounds(manager, 6, 10)) for manager in managers)
        assert np.array_equal(first, second)

    def test_feedback_in_one_batch_or_in_many_is_the_same(self) -> None:
        managers = [make_manager(self.make()) for _ in range(2)]
        clients = np.arange(1, N_CLIENTS, 3)
        reports = make_reports(clients, 0, np.where(np.arange(len(clients)) < 12, Outcome.AGGREGATED, Outcome.LATE))
        managers[0].register_feedback(reports)
        for part in np.array_split(np.arange(len(clients)), 7):
            managers[1].register_feedback(_part(reports, part))
        first, second = (np.stack(run_rounds(manager, 6, 10)) for manager in managers)
        assert np.array_equal(first, second)

    def test_feedback_for_strangers_offline_clients_and_duplicates_does_no_harm(self) -> None:
        manager = ClientManager(self.make(), N_CLIENTS, 0)
        manager.register_feedback(make_reports(np.array([5, 5, 59, 5]), 0))  # never registered
        manager.register_client(np.arange(20), 0, samples=np.full(20, 3))
        manager.register_feedback(make_reports(np.array([50, 3, 3]), 0, Outcome.DROPPED))
        for clients in run_rounds(manager, 5, 10):
            assert len(clients) == 10
            assert clients.max() < 20

    def test_the_arrays_of_the_view_are_read_only(self) -> None:
        manager = make_manager(self.make())
        for name in ("samples", "declared_ms", "selected", "successes", "failures", "last_duration_ms", "last_utility"):
            assert not getattr(manager, name).flags.writeable, name

    def test_clients_that_leave_and_come_back_keep_their_history(self) -> None:
        managers = [make_manager(self.make()) for _ in range(2)]
        for manager in managers:
            run_rounds(manager, 5, 10)
        away = managers[0].idle
        managers[0].deregister_client(away, 10)
        managers[0].register_client(away, 11)
        first, second = (np.stack(run_rounds(manager, 5, 10)) for manager in managers)
        assert np.array_equal(first, second)

    def test_no_client_is_favoured_for_its_id(self) -> None:
        """Equal clients, one selection each of 2,000 seeds: chi-square, false alarm rate 1e-6."""
        from scipy.stats import chi2

        n_clients, n, draws = 12, 3, 2000
        counts = np.zeros(n_clients)
        for seed in range(draws):
            manager = ClientManager(self.make(), n_clients, rng.mix(seed) >> 1)
            manager.register_client(np.arange(n_clients), 0, np.full(n_clients, 5), np.full(n_clients, 100.0))
            _answer_query(manager, n, 0, equally=True)
            counts[manager.select_clients(n, 0)] += 1
        share = n / n_clients
        # a fixed cohort size makes the counts negatively correlated: the statistic shrinks to chi2(n_clients - 1)
        spread = draws * share * (1 - share) * n_clients / (n_clients - 1)
        statistic = ((counts - draws * share) ** 2).sum() / spread
        assert statistic < chi2.isf(1e-6, n_clients - 1)


def _part(reports: Outcomes, rows: IntArray) -> Outcomes:
    names = ("clients", "at", "round", "outcome", "duration_ms", "samples", "utility")
    return Outcomes(**{name: getattr(reports, name)[rows] for name in names})
