"""Worlds that are acted on: outages, faults and batteries, by hand and over products."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, final

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evsim import Scenario, Simulation, load_run
from evsim.actors.base import Actor, Process, Stage
from evsim.actors.battery import Battery
from evsim.actors.fault import Fault
from evsim.actors.outage import Outage
from evsim.aggregation.base import Aggregator
from evsim.aggregation.buffered import Buffered
from evsim.aggregation.synchronous import Synchronous
from evsim.base.errors import EvsimError, PolicyError
from evsim.cost.networks.hourly import Hourly
from evsim.cost.networks.shared import SharedLink
from evsim.selection.base import Selector
from evsim.testing.actors import ActorContract, same
from evsim.testing.timeline import TinyWorld
from evsim.traces.availability import AvailabilityTrace
from evsim.traces.speed import DeviceSpeed
from evsim.verify import verify
from tests.laws.test_events import AGGREGATORS, SELECTORS, Diary
from tests.laws.test_timeline import HORIZON, worlds
from tests.verify import worlds as small

TINY = {"capacity_wh": 0.0005, "first": 0.1, "train_w": 4.0, "every": 50, "plugged_from": 0, "plugged_for": 900}
ACTS: dict[str, list[Actor]] = {
    "outage": [Outage(at=300, lasts=200, every=700)],
    "outage from the start": [Outage(at=0, lasts=150, every=400)],
    "kept": [Outage(at=300, lasts=200, every=700, keep=True)],
    "fault": [Fault(crash_every=400, crash_for=90, link_every=300, link_for=60)],
    "battery": [Battery(**TINY)],
    "all": [
        Outage(at=300, lasts=200, every=700, keep=True),
        Outage(at=450, lasts=100, every=900),
        Fault(crash_every=500, crash_for=90, link_every=400, link_for=60),
        Battery(**TINY),
    ],
}
NETWORKS = [None, SharedLink(down_kbps=900.0, up_kbps=500.0), Hourly(factors=(0.5, 2.0, 1.0), period=333)]


class TestOutage(ActorContract):
    def make(self):
        return Outage(at=10_000, lasts=5_000, every=15_000)


class TestKept(ActorContract):
    def make(self):
        return Outage(at=10_000, lasts=10_000, keep=True)


class TestFault(ActorContract):
    def make(self):
        return Fault(crash_every=20_000, crash_for=5_000, link_every=15_000, link_for=2_000)


class TestBattery(ActorContract):
    def make(self):
        return Battery(capacity_wh=0.02, first=0.0, first_most=0.5, every=1_000)


# -- laws over products ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("acts", ACTS.values(), ids=ACTS)
@settings(max_examples=4, deadline=None, derandomize=True)
@given(worlds(), AGGREGATORS, st.sampled_from(SELECTORS), st.sampled_from(NETWORKS))
def test_by_events_and_in_bulk_the_log_is_the_same(
    acts: list[Actor], world: TinyWorld, policy: Aggregator, selector: Selector[Any], network: Any
) -> None:
    world = replace(world, selector=selector, acts=acts, **({} if network is None else {"network": network}))
    bulk = world.run(policy, until=HORIZON)
    same(bulk, replace(world, by_events=True).run(policy, until=HORIZON))
    diary = Diary(every=True)
    same(bulk, replace(world, listeners=[diary, Diary()]).run(policy, until=HORIZON))
    instants = [line[1] for line in diary.lines]
    assert instants == sorted(instants)
    lost = bulk.tasks[bulk.tasks["outcome"] == "dropped"]
    told = [(at, task) for fact, at, task, *_ in diary.lines if fact == "dropped"]
    assert sorted(told) == sorted(zip(lost["ended_at"], lost["task"], strict=True))


@pytest.mark.parametrize("acts", ACTS.values(), ids=ACTS)
@settings(max_examples=4, deadline=None, derandomize=True)
@given(worlds(), AGGREGATORS, st.sampled_from(NETWORKS))
def test_in_an_outage_nothing_is_given_and_nothing_arrives(
    acts: list[Actor], world: TinyWorld, policy: Aggregator, network: Any
) -> None:
    world = replace(world, acts=acts, **({} if network is None else {"network": network}))
    log = world.run(policy, until=HORIZON)
    for down in log.changes[log.changes["what"] == "outage"].itertuples():
        assert not log.tasks["dispatched_at"].between(down.at, down.until - 1).any()
        assert not log.tasks["known_at"].between(down.at + 1, down.until - 1).any()
        assert not log.server_steps["closed_at"].between(down.at, down.until - 1).any()
    assert (log.tasks["ended_at"].where(log.tasks["ended_at"] >= 0, HORIZON) >= log.tasks["dispatched_at"]).all()


@settings(max_examples=8, deadline=None, derandomize=True)
@given(worlds(), AGGREGATORS, st.sampled_from(SELECTORS), st.sampled_from(NETWORKS))
def test_an_actor_that_does_nothing_changes_no_table(
    world: TinyWorld, policy: Aggregator, selector: Selector[Any], network: Any
) -> None:
    world = replace(world, selector=selector, **({} if network is None else {"network": network}))
    alone, acted = (replace(world, acts=acts).run(policy, until=HORIZON) for acts in ((), [Outage(at=10**9, lasts=1)]))
    some = alone.tasks["bytes_down"].notna()
    cut = alone.tasks["outcome"].isin(["dropped", "aborted", "in_flight"]) & isinstance(network, Hourly)
    pd.testing.assert_frame_equal(alone.tasks[some & ~cut], acted.tasks[some & ~cut])
    columns = [name for name in alone.tasks if not name.startswith(("bytes", "planned"))]
    pd.testing.assert_frame_equal(alone.tasks[columns], acted.tasks[columns])
    pd.testing.assert_frame_equal(alone.server_steps, acted.server_steps)


@settings(max_examples=8, deadline=None, derandomize=True)
@given(worlds(), AGGREGATORS, AGGREGATORS)
def test_the_same_faults_happen_whatever_the_server_does(world: TinyWorld, one: Aggregator, two: Aggregator) -> None:
    acted = replace(world, acts=ACTS["fault"])
    first, second = (acted.run(policy, until=HORIZON) for policy in (one, two))
    until = min(first.ended_at, second.ended_at)
    rows = [log.changes[log.changes["at"] <= until].reset_index(drop=True) for log in (first, second)]
    pd.testing.assert_frame_equal(*rows)
    assert first.ended_at < 400 or len(rows[0]) > 0


# -- by hand ---------------------------------------------------------------------------------------------------------


def _alone(acts: list[Actor], **world: Any) -> TinyWorld:
    """One client: 1,000 ms down, 30 ms of computing, 500 ms up; always online."""
    speed = DeviceSpeed(np.ones(1), np.array([8e3]), np.array([8e3]))
    given_ = {"trace": AvailabilityTrace.always(1), "speed": speed, "wire_bytes": (1_000_000, 500_000)}
    return TinyWorld(**{**given_, "acts": acts, **world})


def _first(world: TinyWorld, policy: Aggregator | None = None) -> dict[str, Any]:
    log = world.run(Synchronous(cohort_goal=1) if policy is None else policy, until=20_000)
    return log.tasks.iloc[0].to_dict() | {"changes": log.changes, "steps": log.server_steps, "second": log.tasks[1:2]}


def test_an_outage_that_keeps_work_makes_a_report_late_by_its_length():
    task = _first(_alone([Outage(at=400, lasts=5_000, keep=True)]))
    assert (task["download_ms"], task["compute_ms"], task["upload_ms"]) == (6_000, 30, 500)
    assert (task["known_at"], task["outcome"]) == (6_530, "aggregated")
    computing = _first(_alone([Outage(at=1_010, lasts=5_000, keep=True)]))  # which goes on; the upload waits
    assert (computing["download_ms"], computing["compute_ms"], computing["upload_ms"]) == (1_000, 30, 5_480)


def test_an_outage_that_loses_work_frees_the_client_when_it_is_over():
    task = _first(_alone([Outage(at=250, lasts=5_000)]))
    assert (task["ended_at"], task["known_at"], task["outcome"]) == (250, 5_250, "aborted")
    assert (task["download_ms"], task["bytes_down"], task["planned_download_ms"]) == (250, 250_000, 1_000)
    assert task["second"]["dispatched_at"].tolist() == [5_250]
    assert task["steps"]["reason"].tolist()[0] == "exhausted"


def test_a_report_that_arrives_as_the_server_goes_down_is_heard_when_it_is_up():
    task = _first(_alone([Outage(at=1_530, lasts=1_000)]))
    assert (task["known_at"], task["outcome"], task["used_at"]) == (1_530, "aggregated", 2_530)


def test_a_deadline_in_an_outage_is_seen_to_when_it_is_over():
    policy = Synchronous(cohort_goal=1, reporting_deadline=800)
    task = _first(_alone([Outage(at=400, lasts=5_000, keep=True)]), policy)
    assert task["steps"]["closed_at"].tolist()[0] == 5_400
    assert (task["outcome"], task["known_at"]) == ("late", 6_530)


@final
@dataclass(frozen=True, kw_only=True)
class Cut(Actor):
    """Cuts a device or its link once, and lets the device back if that is open."""

    what: str
    at: int
    until: int | None = None
    back_at: int | None = None

    def run(self, stage: Stage) -> Process[None]:
        yield from stage.until(self.at)
        if self.what == "device":
            stage.cut_devices(np.array([0]), self.until)
        else:
            stage.cut_links(np.array([0]), self.until or 0)
        if self.back_at is not None:
            yield from stage.until(self.back_at)
            stage.restore_devices(np.array([0]))


def test_a_cut_link_holds_the_transfer_and_not_the_computation():
    task = _first(_alone([Cut(what="link", at=700, until=1_500)]))
    assert (task["download_ms"], task["compute_ms"], task["upload_ms"]) == (1_800, 30, 500)
    late = _first(_alone([Cut(what="link", at=1_005, until=1_500)]))
    assert (late["download_ms"], late["compute_ms"], late["upload_ms"]) == (1_000, 30, 970)


@pytest.mark.parametrize("end", [{"until": 4_000}, {"back_at": 4_000}], ids=["fixed", "open"])
def test_a_device_that_is_cut_off_loses_its_task_and_is_known_to_at_its_return(end):
    task = _first(_alone([Cut(what="device", at=700, **end)]))
    assert (task["ended_at"], task["known_at"], task["outcome"]) == (700, 4_000, "dropped")
    assert (task["bytes_down"], task["planned_download_ms"]) == (700_000, 1_000)
    assert task["second"]["dispatched_at"].tolist() == [4_000]


def test_a_loss_is_known_at_the_return_after_a_cut_and_not_at_the_one_before():
    """The device leaves by itself at 500 and would be back at 2,000; it is kept away from 1,000 to 6,000."""
    trace = AvailabilityTrace.from_intervals([0, 0], [0, 2_000], [500, 9_000], n_devices=1, period=20_000)
    task = _first(_alone([Cut(what="device", at=1_000, until=6_000)], trace=trace))
    assert (task["ended_at"], task["known_at"]) == (500, 6_000)
    longer = _first(_alone([Cut(what="device", at=1_000, until=9_500)], trace=trace))  # it misses the whole session
    assert (longer["ended_at"], longer["known_at"]) == (500, 20_000)


def test_a_battery_by_hand():
    """0.01 Wh = 36 J; 18 at first. Idle 1 W, 10 W more for work; no charger; 7.2 J is the level to leave at."""
    battery = Battery(
        capacity_wh=0.01, first=0.5, first_most=0.5, idle_w=1.0, train_w=10.0, radio_w=10.0, charge_w=2.0,
        plugged_from=43_200_000, plugged_for=1, every=100,
    )  # fmt: skip
    log = _alone([battery]).run(Synchronous(cohort_goal=1), until=5_000)
    # 18 - 11 t = 7.2 at 981.8 ms: it leaves at the look of 1,000 ms, and then idles: 18 - 11 - 4 = 3 J at 5,000 ms
    assert log.changes[["at", "until", "what", "client"]].to_numpy().tolist() == [[1_000, -1, "device", 0]]
    (row,) = log.energy.to_dict("records")
    assert (row["first_j"], row["charged_j"], row["idle_j"], row["tasks_j"]) == pytest.approx((18.0, 0.0, 5.0, 10.0))
    assert row["last_j"] == pytest.approx(3.0)
    assert log.tasks["outcome"].tolist() == ["aggregated"] or log.tasks["ended_at"].tolist() == [1_000]


@pytest.mark.parametrize("replay", ["bulk", "events"])
def test_energy_drained_is_that_of_tasks_and_idle_time(tmp_path, replay):
    battery = Battery(first=0.0, first_most=0.5, plugged_from=None, every=30_000, spread=0)
    change = {"aggregation": small.aggregations()["rounds, deadline"], "engine": {"replay": replay}}
    scenario = Scenario.from_dict(small.merged(small.BASE, change))
    run = load_run(Simulation(scenario, actors=[battery]).run(tmp_path / "run"))
    energy, tasks = run.energy, run.tasks
    used = energy["first_j"] + energy["charged_j"] - energy["last_j"]
    assert np.allclose(used, energy["idle_j"] + energy["tasks_j"])
    joules = (tasks["compute_ms"] * 4.0 + (tasks["download_ms"] + tasks["upload_ms"]) * 1.5) / 1_000
    assert energy["tasks_j"].sum() == pytest.approx(joules.sum())
    assert verify(tmp_path / "run").ok


# -- runs ------------------------------------------------------------------------------------------------------------

TABLES = {
    "outage": [{"kind": "outage", "at": "1h", "lasts": "40min"}],
    "kept": [{"kind": "outage", "at": "1h", "lasts": "40min", "keep": True}],
    "fault": [{"kind": "fault", "crash_every": "1h", "link_every": "30min"}],
    "battery": [{"kind": "battery", "first": 0.0, "first_most": 0.4}],
    "all": [
        {"kind": "outage", "at": "1h", "lasts": "20min", "every": "2h", "keep": True},
        {"kind": "fault", "crash_every": "2h"},
        {"kind": "battery", "first": 0.1},
    ],
}


@pytest.mark.parametrize("how", ["rounds, keep", "buffers, timeout"])
@pytest.mark.parametrize("acts", TABLES)
def test_a_run_that_was_acted_on_is_recomputed(tmp_path, how, acts):
    network = {"kind": "shared", "down_kbps": 20_000} if acts == "all" else {"kind": "independent"}
    change = {"aggregation": small.aggregations()[how], "actor": TABLES[acts], "network": network}
    verdict = verify(small.run(tmp_path / "run", change))
    assert verdict.ok, [check.violation for check in verdict.checks if not check.ok]
    run = load_run(tmp_path / "run")
    assert len(run.changes) > 0
    online = run.availability["online"].to_numpy()
    sessions = run.sessions.fillna({"check_out_at": 2**62})
    for at, count in zip(run.availability["at"].to_numpy()[::7], online[::7], strict=True):
        assert count == ((sessions["check_in_at"] <= at) & (at < sessions["check_out_at"])).sum()


def test_a_device_that_is_cut_off_is_offline_in_every_table(tmp_path):
    change = {"aggregation": small.aggregations()["buffers, plain"], "actor": TABLES["fault"][:1]}
    run = load_run(small.run(tmp_path / "run", change))
    crashes = run.changes[run.changes["what"] == "device"]
    for crash in crashes.itertuples():
        own = run.sessions[run.sessions["client"] == crash.client]
        out = own["check_out_at"].fillna(2**62)
        assert not ((own["check_in_at"] < crash.until) & (out > crash.at)).any()
        tasks = run.tasks[run.tasks["client"] == crash.client]
        assert not tasks["dispatched_at"].between(crash.at, crash.until - 1).any()
    assert len(crashes) > 10


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"kind": "outage", "at": "1h", "lasts": 0}, "lasts must be > 0"),
        ({"kind": "outage", "at": "1h"}, "actor[0].lasts: missing"),
        (
            {"kind": "outage", "at": 0, "lasts": "2h", "every": "1h"},
            "every must be longer than lasts, or the server is n",
        ),
        ({"kind": "battery", "charge_w": 0.1}, "a battery that never charges lets every device leave for good"),
        ({"kind": "battery", "leave_below": 0.9}, "leave_below and return_above must lie in [0, 1], in this order"),
        ({"kind": "fault"}, "at least one of crash_every and link_every is needed: what fails"),
        ({"kind": "fault", "crash_every": 0}, "crash_every must be > 0"),
        ({"kind": "outrage"}, "unknown kind 'outrage'"),
    ],
    ids=str,
)
def test_an_actor_that_cannot_be_is_told_in_a_sentence(table, message):
    with pytest.raises(EvsimError) as caught:
        Scenario.from_dict({**small.BASE, "aggregation": {"kind": "buffered"}, "actor": [table]})
    assert message in str(caught.value)


@final
@dataclass(frozen=True, kw_only=True)
class Wrong(Actor):
    how: str

    def run(self, stage: Stage) -> Any:
        if self.how == "no generator":
            return None
        return self._act(stage)

    def _act(self, stage: Stage) -> Process[None]:
        yield from stage.until(10)
        if self.how == "raises":
            raise KeyError("nothing")
        if self.how == "the past":
            yield from stage.until(5)
        if self.how == "who":
            stage.cut_devices(np.array([7]), 99)
        stage.cut_links(np.array([0]), 10)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("no generator", "actor wrong: run gave None; expected a generator"),
        ("raises", r"actor wrong \(at 10 ms\): KeyError: 'nothing'"),
        ("the past", "nothing happens in the past"),
        ("who", r"clients array\(\[7\]\); expected an array of ids from 0 to 0"),
        ("until", "until 10 ms, but it is 10 ms; expected a later instant"),
    ],
)
def test_an_actor_that_does_what_cannot_be_is_told(how, message):
    with pytest.raises(PolicyError, match=message):
        _alone([Wrong(how=how)]).run(Buffered(concurrency=1, buffer_size=1), until=5_000)
