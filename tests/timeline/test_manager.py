"""The client manager against a model made of dicts and sets, and what it shows to selectors."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from evsim.base.errors import PolicyError
from evsim.base.vocabulary import IntArray, Outcome
from evsim.selection.base import Answers, Outcomes
from evsim.selection.oort import Oort
from evsim.selection.uniform import Uniform
from evsim.testing.selectors import make_reports
from evsim.timeline import books as books_module
from evsim.timeline.manager import ClientManager

N = 200  # with arrays, batches of up to 12 clients are counted by their changes, larger ones by looking at everybody
CLIENT = st.integers(0, 15) | st.just(N - 1)  # few, so that they meet again
IDS = st.lists(CLIENT, max_size=20)


def ids(clients: list[int]) -> IntArray:
    return np.array(clients, np.int64)


class ManagerAgainstModel(RuleBasedStateMachine):
    """Every call on the manager and on plain sets; what the view says must agree."""

    def __init__(self) -> None:
        super().__init__()
        self.manager = ClientManager(Uniform(), N, seed=1)
        self.online: set[int] = set()
        self.busy: set[int] = set()
        self.samples: dict[int, int] = {}
        self.selected: dict[int, int] = {}
        self.successes: dict[int, int] = {}
        self.failures: dict[int, int] = {}
        self.duration: dict[int, float] = {}

    @rule(clients=IDS, size=st.integers(1, 9))
    def check_in(self, clients: list[int], size: int) -> None:
        self.manager.register_client(ids(clients), 0, samples=ids(clients) + size)
        self.online |= set(clients)
        self.samples |= {client: client + size for client in clients}

    @rule(clients=IDS)
    def check_out(self, clients: list[int]) -> None:
        self.manager.deregister_client(ids(clients), 0)
        self.online -= set(clients)

    @rule(edges=st.lists(st.tuples(CLIENT, st.booleans()), max_size=12))
    def replay_a_window(self, edges: list[tuple[int, bool]]) -> None:
        self.manager.observe(ids([c for c, _ in edges]), np.array([e for _, e in edges], np.bool_), 0)
        for client, check_in in edges:
            (self.online.add if check_in else self.online.discard)(client)

    @rule(n=st.integers(0, 12))
    def select_and_assign(self, n: int) -> None:
        idle = self.online - self.busy
        chosen = self.manager.select_clients(n, 0)
        assert len(chosen) == len(set(chosen.tolist())) == min(n, len(idle))
        assert set(chosen.tolist()) <= idle
        self.manager.assign(chosen)
        self.busy |= set(chosen.tolist())
        for client in chosen.tolist():
            self.selected[client] = self.selected.get(client, 0) + 1

    @rule(client=CLIENT)
    def assign_one(self, client: int) -> None:
        if client in self.online - self.busy:
            self.manager.assign(ids([client]))
            self.busy.add(client)
            self.selected[client] = self.selected.get(client, 0) + 1

    @rule(data=st.data())
    def release_one(self, data: st.DataObject) -> None:
        if self.busy:
            client = data.draw(st.sampled_from(sorted(self.busy)))
            self.manager.release(ids([client]))
            self.busy.discard(client)

    @rule(data=st.data(), outcome=st.sampled_from([Outcome.AGGREGATED, Outcome.LATE, Outcome.DROPPED]))
    def tasks_end(self, data: st.DataObject, outcome: Outcome) -> None:
        if not self.busy:
            return
        clients = data.draw(st.lists(st.sampled_from(sorted(self.busy)), max_size=6, unique=True))
        self.manager.release(ids(clients))
        self.busy -= set(clients)
        reports = make_reports(ids(clients), 0, outcome)
        self.manager.register_feedback(reports)
        counts = self.successes if outcome == Outcome.AGGREGATED else self.failures
        for client, duration in zip(clients, reports.duration_ms.tolist(), strict=True):
            counts[client] = counts.get(client, 0) + 1
            if outcome != Outcome.DROPPED:
                self.duration[client] = duration

    @invariant()
    def the_view_agrees_with_the_model(self) -> None:
        idle = sorted(self.online - self.busy)
        assert self.manager.n_idle == len(idle)
        assert self.manager.idle.tolist() == idle
        assert np.flatnonzero(self.manager.is_idle(np.arange(N))).tolist() == idle
        assert [client for client in range(N) if self.manager.is_idle_one(client)] == idle
        assert self.manager.samples.tolist() == [self.samples.get(c, -1) for c in range(N)]
        assert self.manager.selected.tolist() == [self.selected.get(c, 0) for c in range(N)]
        assert self.manager.successes.tolist() == [self.successes.get(c, 0) for c in range(N)]
        assert self.manager.failures.tolist() == [self.failures.get(c, 0) for c in range(N)]
        durations = [self.duration.get(c, np.nan) for c in range(N)]
        assert np.array_equal(self.manager.last_duration_ms, durations, equal_nan=True)


class ManagerOfArraysAgainstModel(ManagerAgainstModel):
    """As above, with every batch counted as an array, however small."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(books_module, "_FEW", -1)

    def teardown(self) -> None:
        self.patch.undo()


SETTINGS = settings(derandomize=True, max_examples=40, stateful_step_count=25, deadline=None)
TestManagerAgainstModel = ManagerAgainstModel.TestCase
TestManagerAgainstModel.settings = SETTINGS
TestManagerOfArraysAgainstModel = ManagerOfArraysAgainstModel.TestCase
TestManagerOfArraysAgainstModel.settings = SETTINGS


def test_a_busy_client_that_checks_out_stays_busy_and_is_not_idle_after_its_loss() -> None:
    manager = ClientManager(Uniform(), 1, 0)
    one = ids([0])
    manager.register_client(one, 0)
    manager.assign(manager.select_clients(1, 0))
    manager.deregister_client(one, 5)
    manager.release(one)
    assert manager.n_idle == 0
    manager.register_client(one, 9)
    assert manager.idle.tolist() == [0]


def test_a_query_makes_a_client_busy_but_counts_neither_as_selected_nor_as_success() -> None:
    manager = ClientManager(Uniform(), 3, 0)
    manager.register_client(np.arange(3), 0)
    manager.assign(ids([1]), counted=False)
    assert manager.idle.tolist() == [0, 2]
    manager.release(ids([1]))
    assert manager.selected.sum() + manager.successes.sum() + manager.failures.sum() == 0


def test_answers_serve_one_selection_only() -> None:
    manager = ClientManager(Uniform(), 3, 0)
    manager.register_client(np.arange(3), 0)
    manager.register_answers(Answers(ids([2]), np.array([1.0])))
    assert manager.answers is not None
    assert manager.answers.clients.tolist() == [2]
    manager.select_clients(1, 0)
    assert manager.answers is None


def test_history_keeps_the_last_duration_of_arrived_reports_and_the_last_known_utility() -> None:
    manager = ClientManager(Uniform(), 2, 0)
    for outcome, duration, utility in [
        (Outcome.AGGREGATED, 10, 2.0),
        (Outcome.LATE, 20, np.nan),
        (Outcome.DROPPED, 99, np.nan),
        (Outcome.INVALID, 30, np.inf),
    ]:
        row = (np.full(1, x, np.int64) for x in (0, 0, 0))
        clients, at, number = row
        manager.register_feedback(
            Outcomes(clients, at, number, np.full(1, outcome, np.int8), ids([duration]), ids([1]), np.array([utility]))
        )
    assert manager.last_duration_ms[0] == 30
    assert manager.last_utility[0] == 2.0
    assert (manager.successes[0], manager.failures[0]) == (1, 3)
    assert np.isnan(manager.last_utility[1])


@pytest.mark.parametrize("client", [-1, 4])
def test_ids_outside_the_population_are_refused_with_the_id_named(client: int) -> None:
    manager = ClientManager(Uniform(), 4, 0)
    with pytest.raises(PolicyError, match=f"register_client: client {client}; expected ids from 0 to 3"):
        manager.register_client(ids([0, client]), 0)
    with pytest.raises(PolicyError, match="register_feedback"):
        manager.register_feedback(make_reports(ids([client]), 0))


def test_manager_and_oort_together_take_less_than_a_hundred_bytes_per_client() -> None:
    n = 10_000
    manager = ClientManager(Oort(), n, 0)
    assert (manager.n_bytes + Oort().init(n).n_bytes) / n < 100


def test_selections_for_the_same_round_draw_anew_and_the_view_says_the_round() -> None:
    manager = ClientManager(Uniform(), 50, 0)
    manager.register_client(np.arange(50), 0)
    first, second = manager.select_clients(5, 0, 3), manager.select_clients(5, 0, 3)
    assert manager.round == 3
    assert first.tolist() != second.tolist()
