"""REFL's IPS, TiFL, active FL and the bounds: contracts, and their printed rules by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from evsim.base.errors import PolicyError, ScenarioError
from evsim.base.vocabulary import Outcome
from evsim.results import load_run
from evsim.run.simulation import Simulation
from evsim.scenario import Scenario
from evsim.selection.afl import ActiveFl
from evsim.selection.base import Outcomes, Selector
from evsim.selection.bounds import Fastest, LongestStay
from evsim.selection.fedcs import FedCs, greedy
from evsim.selection.forecast import Constant, Predictor
from evsim.selection.refl_ips import ReflIps
from evsim.selection.tifl import Tifl, TiflLoss, from_tier, ranked, tiers
from evsim.testing.selectors import SelectorContract, make_manager
from evsim.timeline.manager import ClientManager
from evsim.traces.availability import AvailabilityTrace
from evsim.verify import verify


class TestReflIps(SelectorContract):
    def make(self) -> Selector[Any]:
        return ReflIps(predictor=Constant())


class TestTifl(SelectorContract):
    def make(self) -> Selector[Any]:
        return Tifl(probabilities=(0.5, 0.3, 0.2))


class TestTiflLoss(SelectorContract):
    def make(self) -> Selector[Any]:
        return TiflLoss(n_tiers=3, credits=2, every=2)


class TestActiveFl(SelectorContract):
    def make(self) -> Selector[Any]:
        return ActiveFl()


class TestFedCs(SelectorContract):
    def make(self) -> Selector[Any]:
        return FedCs(deadline=10**12, asked=100_000)


def _printed(down: Any, compute: Any, up: Any, limit: float, n: int) -> list[int]:
    """Algorithm 3 as printed: everybody is tried, the one of smallest growth first."""
    chosen: list[int] = []
    left, theta = list(range(len(down))), 0.0
    distribution = lambda ids: max((down[i] for i in ids), default=0.0)  # noqa: E731
    while left:
        growth = [
            distribution([*chosen, k]) - distribution(chosen) + up[k] + max(0.0, compute[k] - theta) for k in left
        ]
        x = left.pop(int(np.argmin(growth)))
        later = theta + up[x] + max(0.0, compute[x] - theta)
        if distribution([*chosen, x]) + later < limit and len(chosen) < n:
            chosen, theta = [*chosen, x], later
    return chosen


def test_fedcs_takes_whom_algorithm_3_takes() -> None:
    draw, sizes = np.random.default_rng(4), set()
    for _ in range(300):
        count = int(draw.integers(1, 15))
        down, compute, up = draw.lognormal(2.0, 1.0, (3, count))
        limit, n = float(draw.uniform(5, 150)), int(draw.integers(1, 15))
        expected = _printed(down, compute, up, limit, n)
        found = greedy(down, compute, up, limit, n).tolist()
        sizes.add(len(expected))
        if expected:
            assert found == expected
        else:  # not one fits: the quickest
            assert found == [int(np.argmin(down + compute + up))]
    assert sizes >= {0, 1, 2, 3}


def test_fedcs_on_the_clock_keeps_its_rounds_short_and_takes_fewer_when_no_more_fit(tmp_path: Any) -> None:
    short = ["stop.server_steps=8", "stop.target_accuracy=", "executor.kind=serial", "population.availability=always"]
    short += ["aggregation.minimum_cohort=1", "aggregation.minimum_reports=1"]
    means = []
    for name, minutes in (("strict", 4), ("lax", 40)):
        selection = f"selection={{kind='fedcs', deadline='{minutes}min', asked=60}}"
        run = load_run(Simulation(Scenario.load("quickstart", [*short, selection])).run(tmp_path / name))
        means.append(len(run.tasks) / run.tasks["round"].nunique())
        assert verify(tmp_path / name).ok
    assert means[0] < means[1] / 2


def test_fedcs_refuses_a_deadline_that_asking_uses_up() -> None:
    with pytest.raises(PolicyError, match="0 <= beside < deadline must hold"):
        FedCs(deadline=10, beside=10)


class TestFastest(SelectorContract):
    def make(self) -> Selector[Any]:
        return Fastest()


class TestLongestStay(SelectorContract):
    def make(self) -> Selector[Any]:
        return LongestStay(predictor=Constant())


def _everyone(selector: Selector[Any], n: int, declared_ms: Any = None) -> ClientManager:
    manager = ClientManager(selector, n, 0, AvailabilityTrace.always(n))
    manager.register_client(
        np.arange(n), 0, np.full(n, 10), np.arange(n) + 100.0 if declared_ms is None else declared_ms
    )
    return manager


def _report(manager: ClientManager, clients: Any, utility: Any, at: int = 1, samples: Any = 10) -> None:
    clients = np.asarray(clients)
    fill = lambda value, kind: np.broadcast_to(np.asarray(value, kind), clients.shape)  # noqa: E731
    told = (fill(at, np.int64), fill(0, np.int64), fill(Outcome.AGGREGATED, np.int8), fill(1, np.int64))
    manager.register_feedback(Outcomes(clients, *told, fill(samples, np.int64), fill(utility, np.float64)))


class LaterOracle(Predictor[Any]):
    """Client k stays with probability k / 100, and says which intervals it was asked for."""

    reads_trace = True
    asked: list[tuple[int, int]] = []  # noqa: RUF012

    def init(self, n_clients: int, trace: Any) -> None:
        return None

    def stays_online(self, state: Any, view: Any, clients: Any, start: int, stop: int) -> Any:
        self.asked.append((start, stop))
        return clients / 100


# -- REFL --------------------------------------------------------------------------------------------------------------


def test_the_least_available_are_taken_for_the_slot_of_one_to_two_round_lengths():
    LaterOracle.asked.clear()
    manager = _everyone(ReflIps(predictor=LaterOracle(), first_round=1000, rest=0), 20)
    assert sorted(manager.select_clients(3, now=50).tolist()) == [0, 1, 2]
    manager.select_clients(3, now=450)  # the first round lasted 400: .75 x 400 + .25 x 1000 = 550
    manager.select_clients(3, now=1450)  # .75 x 1000 + .25 x 550 = 887.5
    assert LaterOracle.asked == [(1050, 2050), (450 + 550, 450 + 1100), (1450 + 888, 1450 + 1776)]


def test_who_took_part_rests_for_so_many_rounds_unless_nobody_else_is_there():
    manager = _everyone(ReflIps(predictor=LaterOracle(), rest=2), 10)
    rounds = [sorted(manager.select_clients(3, now=round_ * 100).tolist()) for round_ in range(5)]
    assert rounds[:3] == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    assert rounds[3] == [0, 1, 2]  # three rounds ago: rested
    few = _everyone(ReflIps(predictor=LaterOracle(), rest=5), 4)
    assert sorted(few.select_clients(3, now=0).tolist()) == [0, 1, 2]
    assert sorted(few.select_clients(3, now=9).tolist()) == [0, 1, 3]


@pytest.mark.parametrize("kind", ["refl_ips", "longest_stay"])
def test_a_selector_that_asks_for_forecasts_needs_a_predictor(kind, tmp_path):
    text = """
training = "none"
aggregation = { kind = "synchronous", cohort_goal = 2 }
stop = { server_steps = 1 }
cost = { model_bytes = 1000 }
population = { clients = 5, availability = "always" }
"""
    (tmp_path / "x.toml").write_text(f'{text}\nselection = {{ kind = "{kind}" }}')
    with pytest.raises(ScenarioError, match="without a predictor"):
        Scenario.load(tmp_path / "x.toml")
    assert Scenario.load(tmp_path / "x.toml", ["selection.predictor=daily"])


# -- TiFL --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "n_tiers"), [(10, 5), (11, 5), (3, 5), (1, 1), (0, 2), (1000, 7)])
def test_tiers_are_sorted_by_latency_and_of_equal_size(n, n_tiers):
    latency = np.random.default_rng(n).permutation(n) * 10.0
    latency[latency < 10.0] = np.nan
    found = tiers(latency, n_tiers, key=3)
    expected = np.empty(n, np.int64)
    expected[np.lexsort((np.arange(n), np.nan_to_num(latency, nan=1e12)))] = np.arange(n) * n_tiers // max(n, 1)
    np.testing.assert_array_equal(found, expected)


def test_a_round_asks_one_tier_as_often_as_it_is_likely():
    manager = _everyone(Tifl(probabilities=(0.7, 0.2, 0.1)), 30)
    rounds = [manager.select_clients(4, now=t) // 10 for t in range(2000)]
    assert all(len(set(each.tolist())) == 1 for each in rounds)
    shares = np.bincount([int(each[0]) for each in rounds], minlength=3) / 2000
    np.testing.assert_allclose(shares, [0.7, 0.2, 0.1], atol=0.05)  # beyond five standard deviations


def test_a_tier_that_is_too_small_is_filled_up_by_its_slower_neighbour_then_the_faster():
    idle, tier_of = np.arange(7), np.array([0, 0, 0, 1, 1, 2, 2])
    assert sorted(from_tier(idle, tier_of, 1, 5, 3).tolist())[-4:] == [3, 4, 5, 6]
    assert sorted(from_tier(idle, tier_of, 0, 5, 3).tolist()) == [0, 1, 2, 3, 4]
    assert sorted(from_tier(idle, tier_of, 2, 99, 3).tolist()) == list(range(7))


def test_ranks_get_the_printed_probabilities():
    np.testing.assert_allclose(ranked(np.array([5.0, 4.0, 3.0, 2.0, 1.0])), [1 / 3, 4 / 15, 0.2, 2 / 15, 1 / 15])
    assert ranked(np.array([1.0, np.inf, 2.0])).tolist() == [1 / 6, 1 / 2, 1 / 3]


def test_a_tier_without_credits_waits_until_all_have_used_theirs():
    manager = _everyone(TiflLoss(n_tiers=3, credits=4, every=1000), 30)
    asked = [int(manager.select_clients(5, now=t)[0]) // 10 for t in range(24)]
    assert np.bincount(asked[:12], minlength=3).tolist() == [4, 4, 4]
    assert np.bincount(asked[12:], minlength=3).tolist() == [4, 4, 4]


def test_tiers_of_higher_loss_are_asked_more_often():
    manager = _everyone(TiflLoss(n_tiers=3, credits=10**6, every=5), 30)
    _report(manager, np.arange(30), np.repeat([0.1, 5.0, 1.0], 10))
    asked = [int(manager.select_clients(5, now=t)[0]) // 10 for t in range(2005)][5:]
    np.testing.assert_allclose(np.bincount(asked, minlength=3) / 2000, [1 / 6, 1 / 2, 1 / 3], atol=0.06)


# -- active FL ---------------------------------------------------------------------------------------------------------


def test_valuations_decide_as_algorithm_one_says():
    """Loss x sqrt(samples); the lowest three quarters cannot be drawn by them, one in ten is drawn from the others."""
    selector = ActiveFl(temperature=1.0)
    manager = _everyone(selector, 40)
    samples, loss = np.arange(40) % 4 + 1, np.arange(40) / 10.0
    _report(manager, np.arange(40), loss, samples=samples)
    values = np.sqrt(samples) * loss
    top = set(np.argsort(values)[30:].tolist())
    first = [manager.select_clients(10, now=t).tolist() for t in range(300)]
    assert all(len(set(each) & top) >= 9 for each in first)
    one = np.array([manager.select_clients(1, now=t)[0] for t in range(1)])
    assert len(one) == 1
    single = _everyone(ActiveFl(temperature=1.0, uniform_share=0.0), 40)
    _report(single, np.arange(40), loss, samples=samples)
    drawn = np.bincount([int(single.select_clients(1, now=t)[0]) for t in range(4000)], minlength=40)
    kept = np.array(sorted(top))
    weights = np.exp(values[kept])
    assert drawn[kept].sum() == 4000
    np.testing.assert_allclose(drawn[kept] / 4000, weights / weights.sum(), atol=0.045)


def test_huge_valuations_do_not_overflow_and_unknown_clients_are_worth_the_most():
    manager = _everyone(ActiveFl(temperature=1.0, dropped=0.5, uniform_share=0.0), 10)
    _report(manager, np.arange(8), np.arange(8) * 1e6)
    chosen = {int(manager.select_clients(1, now=t)[0]) for t in range(60)}
    assert chosen == {7, 8, 9}


# -- bounds ------------------------------------------------------------------------------------------------------------


def test_the_fastest_are_those_that_promise_the_shortest_task():
    declared = np.array([50.0, np.nan, 10.0, 30.0, np.nan, 20.0])
    manager = _everyone(Fastest(), 6, declared)
    assert manager.select_clients(3, now=0).tolist() == [2, 5, 3]
    assert manager.select_clients(4, now=0).tolist()[-1] == 0


def test_an_oracle_knows_who_stays_longest():
    class Leaves:
        """Client k leaves at k minutes."""

        def is_online(self, devices: Any, at: int) -> Any:
            return devices * 60_000 > at

        def online_until(self, devices: Any, at: int) -> Any:
            return devices * 60_000

    from evsim.selection.forecast import Oracle

    manager = ClientManager(LongestStay(predictor=Oracle()), 10, 0, Leaves())
    manager.register_client(np.arange(1, 10), now=0)
    assert set(manager.select_clients(2, now=0).tolist()) == {8, 9}  # eight minutes and more
    assert set(manager.select_clients(6, now=0).tolist()) == set(range(4, 10))


@pytest.mark.parametrize(
    ("policy", "options"),
    [
        (ReflIps, {"smoothing": 1.0}),
        (ReflIps, {"first_round": 0}),
        (Tifl, {"probabilities": ()}),
        (Tifl, {"probabilities": (0.0, 0.0)}),
        (TiflLoss, {"credits": 0}),
        (ActiveFl, {"dropped": 1.0}),
        (ActiveFl, {"temperature": float("nan")}),
        (LongestStay, {"doublings": 0}),
    ],
)
def test_impossible_values_are_refused(policy, options):
    with pytest.raises(PolicyError, match="but got"):
        policy(**options)


def test_everything_works_when_some_are_away():
    for selector in (Tifl(), TiflLoss(), ActiveFl(), Fastest()):
        assert len(make_manager(selector).select_clients(7, now=5)) == 7
