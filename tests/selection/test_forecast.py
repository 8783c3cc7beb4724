"""Forecasts: habits by hand, an oracle that reads the trace and says so, and predictors that may not be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest

from evsim.base.errors import PolicyError, ScenarioError
from evsim.base.units import MS_PER_DAY, MS_PER_HOUR
from evsim.results import load_run
from evsim.run.simulation import Simulation
from evsim.scenario import Scenario
from evsim.scenario.caveats import caveats
from evsim.selection.daily import Daily
from evsim.selection.forecast import Constant, NoForecast, Oracle, Predictor
from evsim.selection.uniform import Uniform
from evsim.testing.predictors import PredictorContract
from evsim.timeline.manager import ClientManager
from evsim.timeline.visits import VisitLog
from evsim.traces.availability import AvailabilityTrace

TRACE = AvailabilityTrace.from_intervals([0, 1, 1], [0, 50, 70], [100, 60, 200], n_devices=3, period=1000)
HOUR = MS_PER_HOUR


class TestOracle(PredictorContract):
    def make(self) -> Predictor[Any]:
        return Oracle()


class TestDaily(PredictorContract):
    def make(self) -> Predictor[Any]:
        return Daily()


class TestDailyInQuarters(PredictorContract):
    def make(self) -> Predictor[Any]:
        return Daily(slots=96, prior=0.1, prior_days=0.25)


class TestConstant(PredictorContract):
    def make(self) -> Predictor[Any]:
        return Constant(probability=0.3)


class TestNone(PredictorContract):
    def make(self) -> Predictor[Any]:
        return NoForecast()


def manager(predictor: Predictor[Any], n: int = 3, trace: Any = None) -> ClientManager:
    return ClientManager(Uniform(predictor=predictor), n, 0, trace)


def asked(keeper: ClientManager, start: int, stop: int) -> list[float]:
    assert keeper.predictor is not None
    return [float(each) for each in keeper.predictor.stays_online(np.arange(keeper.n_clients), start, stop)]


def test_the_oracle_knows_who_stays() -> None:
    keeper = manager(Oracle(), trace=TRACE)
    assert asked(keeper, 0, 100) == [1.0, 0.0, 0.0]
    assert asked(keeper, 50, 61) == [1.0, 0.0, 0.0]
    assert asked(keeper, 70, 200) == [0.0, 1.0, 0.0]
    assert asked(keeper, 300, 301) == [0.0, 0.0, 0.0]


def test_habits_are_shares_of_the_days_that_were_seen() -> None:
    """Client 0 comes at 8 for half an hour, daily; client 1 is there all the time; of client 2 nothing is seen."""
    keeper = manager(Daily(prior=0.5, prior_days=1.0))
    keeper.register_client(np.array([1]), 0)
    for day in range(4):
        at = day * MS_PER_DAY + 8 * HOUR
        keeper.register_client(np.array([0]), at)
        if day < 3:
            keeper.deregister_client(np.array([0]), at + HOUR // 2)
    keeper.select_clients(0, 3 * MS_PER_DAY + 8 * HOUR + HOUR // 2)  # it is there, for half an hour so far
    now = 3 * MS_PER_DAY + 9 * HOUR
    assert asked(keeper, now, now + 1)[2] == 0.5
    eight, nine = now + 23 * HOUR, now + 24 * HOUR
    assert asked(keeper, eight, eight + 1) == pytest.approx(
        [(0.5 + 3 * 0.5 + 0.5) / (1 + 3 + 0.5), (0.5 + 3.5) / 4.5, 0.5]
    )
    assert asked(keeper, nine, nine + 1) == pytest.approx([0.5 / 4, (0.5 + 3) / 4, 0.5])
    assert asked(keeper, eight, nine + 1) == [min(a, b) for a, b in
        zip(asked(keeper, eight, eight + 1), asked(keeper, nine, nine + 1), strict=True)]  # fmt: skip


def test_a_busy_client_that_left_is_not_seen_to_have_left() -> None:
    """What is told at the next check-in is all that a forecast learns, whatever the client did meanwhile."""
    answers = []
    for busy in (False, True):
        keeper = manager(Daily())
        keeper.register_client(np.arange(3), 0)
        if busy:
            keeper.assign(np.array([0]))
        keeper.deregister_client(np.array([0]), HOUR)
        keeper.release(np.array([0]))
        keeper.register_client(np.array([0]), 5 * HOUR)
        keeper.select_clients(0, 6 * HOUR)
        answers.append(asked(keeper, 30 * HOUR, 31 * HOUR))
    assert answers[0] == answers[1]


def test_visits_are_told_when_the_device_is_back_and_once() -> None:
    log = VisitLog(2)
    first = log.hear(np.array([0]), np.array([True]), np.array([5]))
    assert (first.at.tolist(), first.came_at.tolist(), first.left_at.tolist()) == ([5], [-1], [-1])
    edges = [(0, 1, 5), (0, 0, 7), (1, 1, 8), (0, 1, 9), (1, 0, 9), (0, 0, 12), (0, 1, 20), (1, 1, 21)]
    clients, inwards, at = (np.array(column) for column in zip(*edges, strict=True))
    found = log.hear(clients, inwards.astype(bool), at)
    told = zip(*(getattr(found, name).tolist() for name in ("clients", "at", "came_at", "left_at")), strict=True)
    assert list(told) == [(1, 8, -1, -1), (0, 9, 5, 7), (0, 20, 9, 12), (1, 21, 8, 9)]


def test_a_scenario_without_a_predictor_offers_none() -> None:
    assert ClientManager(Uniform(), 3, 0).predictor is None
    assert manager(NoForecast()).predictor is None


def test_an_oracle_is_said_in_manifest_and_scenario(tmp_path) -> None:
    scenario = Scenario.load("replay", ["selection.predictor=oracle", "stop.virtual_time=1h", "population.clients=80"])
    with pytest.warns(match="the selector knows the future"):
        run = load_run(Simulation(scenario).run(tmp_path / "r"))
    assert [caveat.key for caveat in run.caveats if caveat.key == "oracle"]
    assert scenario.to_toml().count('kind = "oracle"') == 1
    assert Scenario.load(tmp_path / "r").selection == scenario.selection


def test_a_predictor_that_nobody_asks_is_a_caveat() -> None:
    for predictor, said in (("daily", True), ("none", False)):
        scenario = Scenario.load("replay", [f"selection.predictor={predictor}"])
        assert ("predictor_unused" in [each.key for each in caveats(scenario)]) == said
    asked = Scenario.load("replay", ["selection.kind=refl_ips", "selection.predictor=daily"])
    assert "predictor_unused" not in [each.key for each in caveats(asked)]


# -- what a predictor may not be ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Says(Predictor[None]):
    """Answers what it is told to, once it was told of a check-in."""

    answer: Any

    def init(self, n_clients: int, trace: Any) -> None:
        return None

    def stays_online(self, state: None, view: Any, clients: Any, start: int, stop: int) -> Any:
        return self.answer(clients) if view.n_idle else np.full(len(clients), 0.5)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda clients: clients / 0, "predictor Says.*FloatingPointError|predictor Says|returned"),
        (lambda clients: 0.5, "returned float"),
        (lambda clients: clients, "returned ndarray int64"),
        (lambda clients: clients[:-1] + 0.5, r"returned an array of shape \(2,\)"),
        (lambda clients: clients + 0.5, "returned 1.5"),
        (lambda clients: np.full(len(clients), np.nan), "returned nan"),
        (lambda clients: clients.nothing, "predictor Says .step stays_online.: AttributeError"),
    ],
)
@pytest.mark.filterwarnings("ignore:divide by zero", "ignore:invalid value")
def test_an_answer_that_is_no_probability_is_refused(answer: Any, words: str) -> None:
    keeper = manager(Says(answer))
    keeper.register_client(np.arange(3), 0)
    with pytest.raises(PolicyError, match=words):
        asked(keeper, 0, 1)


def test_an_empty_interval_is_refused() -> None:
    with pytest.raises(PolicyError, match="start < stop"):
        asked(manager(Constant()), 5, 5)


def test_who_reads_the_trace_must_be_called_an_oracle() -> None:
    with pytest.raises(PolicyError, match=r"Fortune reads the trace, the future included.*call it FortuneOracle"):

        class Fortune(Says):
            reads_trace: ClassVar[bool] = True

    class GoodOracle(Says):
        reads_trace: ClassVar[bool] = True

    assert GoodOracle.reads_trace


@dataclass(frozen=True)
class Cheat(Predictor[None]):
    """Reads a trace that it brought along."""

    def init(self, n_clients: int, trace: Any) -> None:
        assert trace is None

    def stays_online(self, state: None, view: Any, clients: Any, start: int, stop: int) -> Any:
        return (clients % 3 == 0).astype(float)


def test_who_looks_ahead_by_other_ways_is_found_out() -> None:
    with pytest.raises(PolicyError, match="predictor Cheat: tells clients apart of which it was told nothing yet"):
        manager(Cheat())


@pytest.mark.parametrize(("key", "value"), [("slots", 0), ("prior", 2), ("prior_days", 0)])
def test_impossible_habits_are_refused(key: str, value: int) -> None:
    with pytest.raises(ScenarioError, match=rf"selection.predictor.{key}: {key} must"):
        Scenario.load("replay", ["selection.predictor.kind=daily", f"selection.predictor.{key}={value}"])
    with pytest.raises(ScenarioError, match=r"selection.predictor.kind: unknown kind 'dayly'; did you mean 'daily'"):
        Scenario.load("replay", ["selection.predictor=dayly"])
