"""Laws that hold for every trace, every speed and every round policy."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evsim.aggregation.synchronous import Synchronous
from evsim.cost.model import CostModel
from evsim.testing.timeline import Log, TinyWorld
from evsim.traces.availability import AvailabilityTrace
from evsim.traces.speed import DeviceSpeed
from tests.laws import examples

HORIZON = 3_000


@st.composite
def traces(draw: st.DrawFn) -> AvailabilityTrace:
    n = draw(st.integers(1, 8))
    period = draw(st.integers(50, 900))
    device, start, stop = [], [], []
    for client in range(n):
        for _ in range(draw(st.integers(0, 4))):
            begin = draw(st.integers(0, period - 1))
            device.append(client)
            start.append(begin)
            stop.append(draw(st.integers(begin, period)))
    return AvailabilityTrace.from_intervals(device, start, stop, n_devices=n, period=period)


@st.composite
def worlds(draw: st.DrawFn) -> TinyWorld:
    trace = draw(traces())
    n = trace.n_devices
    speed = DeviceSpeed(
        compute_ms_per_sample=np.array(draw(st.lists(st.floats(0.1, 9), min_size=n, max_size=n))),
        download_kbps=np.array(draw(st.lists(st.floats(100, 9000), min_size=n, max_size=n))),
        upload_kbps=np.full(n, 2000.0),
        compute_jitter=draw(st.sampled_from([0.0, 0.3])),
    )
    check = draw(st.sampled_from(["throughout", "at_completion"]))
    samples = draw(st.lists(st.integers(1, 20), min_size=n, max_size=n))
    return TinyWorld(trace=trace, speed=speed, samples=samples, cost=CostModel(availability_check=check))


@st.composite
def policies(draw: st.DrawFn) -> Synchronous:
    goal = draw(st.integers(1, 4))
    minimum = draw(st.integers(1, goal))
    return Synchronous(
        cohort_goal=goal,
        over_commitment=draw(st.sampled_from([1.0, 1.3, 2.0])),
        reporting_deadline=draw(st.sampled_from([None, 40, 150, 700])),
        minimum_cohort=minimum,
        minimum_reports=draw(st.integers(1, minimum)),
        on_close=draw(st.sampled_from(["run", "abort"])),
    )


def busy_until(tasks: pd.DataFrame, end: int) -> pd.Series:
    return tasks["ended_at"].where(tasks["ended_at"] >= 0, end)


@settings(max_examples=examples(120), deadline=None, derandomize=True)
@given(worlds(), policies())
def test_laws_of_the_timeline(world: TinyWorld, policy: Synchronous) -> None:
    log = world.run(policy, until=HORIZON)
    tasks, end = log.tasks, log.ended_at
    assert log.end_reason in {"virtual_time", "no_clients"}
    if tasks.empty:
        return
    ended = busy_until(tasks, end)
    # ids in order of dispatch, every task one outcome
    assert tasks["task"].tolist() == list(range(len(tasks)))
    assert tasks["outcome"].value_counts().sum() == len(tasks)
    # no client has two tasks at once
    for _, own in tasks.assign(until=ended).groupby("client"):
        assert (own["dispatched_at"].to_numpy()[1:] >= own["until"].to_numpy()[:-1]).all()
    # nothing happens to an offline client
    assert world.trace.is_online(tasks["client"].to_numpy(), tasks["dispatched_at"].to_numpy()).all()
    if world.cost.availability_check == "throughout":
        reachable = world.trace.online_until(tasks["client"].to_numpy(), tasks["dispatched_at"].to_numpy())
        assert (ended <= reachable).all()
    # the phases fill the time of a task exactly
    spent = tasks[["download_ms", "compute_ms", "upload_ms"]].sum(axis=1)
    assert (spent == ended - tasks["dispatched_at"]).all()
    # Little: the integral of the number in flight is the sum of the durations
    starts, stops = np.sort(tasks["dispatched_at"]), np.sort(ended)
    instants = np.unique(np.concatenate([starts, stops, [0, end]]))
    inside = np.searchsorted(starts, instants, "right") - np.searchsorted(stops, instants, "right")
    assert (inside[:-1] * np.diff(instants)).sum() == spent.sum()


@settings(max_examples=examples(120), deadline=None, derandomize=True)
@given(worlds(), policies())
def test_rounds_keep_their_promises(world: TinyWorld, policy: Synchronous) -> None:
    log = world.run(policy, until=HORIZON)
    used = log.tasks[log.tasks["outcome"] == "aggregated"].groupby("round").size()
    for row in log.server_steps.itertuples():
        cohort = log.tasks[log.tasks["round"] == row.round]
        goal = min(policy.cohort_goal, len(cohort))
        arrived = cohort[(cohort["outcome"] != "dropped") & (cohort["ended_at"] >= 0)]
        in_time = (arrived["ended_at"] <= row.closed_at) & (arrived["outcome"] != "aborted")
        assert row.invited == len(cohort) == row.reports + row.dropped + row.late
        assert policy.minimum_clients <= row.invited <= policy.invited
        assert row.reports == in_time.sum()
        assert row.applied == (row.reports >= policy.minimum_reports)
        assert used.get(row.round, 0) == (min(goal, row.reports) if row.applied else 0)
        if policy.reporting_deadline is not None:
            assert row.closed_at <= row.started_at + policy.reporting_deadline
        if row.reason == "goal":
            assert row.reports >= goal
        elif row.reason == "deadline":
            assert row.closed_at == row.started_at + policy.reporting_deadline


@settings(max_examples=examples(120), deadline=None, derandomize=True)
@given(worlds(), policies())
def test_bulk_replay_equals_replay_of_every_instant(world: TinyWorld, policy: Synchronous) -> None:
    bulk = world.run(policy, until=HORIZON)
    slow = _but(world, every_instant=True).run(policy, until=HORIZON)
    _same(bulk, slow)


@settings(max_examples=examples(60), deadline=None, derandomize=True)
@given(worlds(), policies(), st.integers(1, 400))
def test_waiting_shifts_the_log_and_nothing_else(world: TinyWorld, policy: Synchronous, delay: int) -> None:
    trace = world.trace
    online = trace.is_online(np.arange(trace.n_devices), 0)
    if online.any() or trace.n_intervals == 0:
        return  # who is online at time 0 would be asked before the shifted devices come
    first = int(trace.next_check_in(np.arange(trace.n_devices), 0).min())
    delay = min(delay, int(trace.period.min()) - 1)
    moved = _but(world, trace=trace.take(np.arange(trace.n_devices), delay))
    if moved.trace.is_online(np.arange(trace.n_devices), np.arange(0, first + delay)[:, None]).any():
        return  # the periodic repetition put somebody before the shifted start
    here, there = world.run(policy, until=HORIZON), moved.run(policy, until=HORIZON + delay)
    instants = ["dispatched_at", "ended_at", "known_at", "used_at"]
    shifted = here.tasks.copy()
    shifted[instants] = shifted[instants].where(shifted[instants] < 0, shifted[instants] + delay)
    pd.testing.assert_frame_equal(shifted, there.tasks)


def test_every_client_is_used_equally_often_when_all_are_equal() -> None:
    log = TinyWorld(trace=AvailabilityTrace.always(20)).run(Synchronous(cohort_goal=5), server_steps=2000)
    counts = np.bincount(log.tasks["client"], minlength=20)
    expected = 2000 * 5 / 20
    chi_square = ((counts - expected) ** 2 / expected).sum()
    # draws without replacement vary less than multinomial ones, so this bound is conservative:
    # P(chi-square with 19 degrees of freedom > 43.8) = 0.001
    assert chi_square < 43.8


def test_an_empty_population_ends_the_run_and_says_so() -> None:
    trace = AvailabilityTrace.from_intervals([], [], [], n_devices=3, period=100)
    log = TinyWorld(trace=trace).run(Synchronous(cohort_goal=1), until=1000)
    assert (log.end_reason, log.ended_at, len(log.tasks)) == ("no_clients", 0, 0)


def test_without_a_horizon_a_population_that_is_too_small_ends_the_run() -> None:
    trace = AvailabilityTrace.always(3)
    log = TinyWorld(trace=trace).run(Synchronous(cohort_goal=5))
    assert log.end_reason == "no_clients"


@pytest.mark.parametrize("on_close", ["run", "abort"])
def test_a_round_by_hand(on_close: str) -> None:
    """Five clients; tasks last 12, 22, 32, 42, 52 ms (10 samples x factor 3 x speed, 1 ms each way)."""
    speed = DeviceSpeed(
        compute_ms_per_sample=np.array([1, 2, 3, 4, 5]) / 3,
        download_kbps=np.full(5, 8000.0),
        upload_kbps=np.full(5, 8000.0),
    )
    trace = AvailabilityTrace.from_intervals(
        [0, 1, 2, 3, 4], [0, 0, 0, 0, 0], [1000, 1000, 20, 1000, 1000], n_devices=5, period=1000
    )
    policy = Synchronous(
        cohort_goal=4, over_commitment=1.25, reporting_deadline=50, minimum_reports=2, on_close=on_close
    )
    log = TinyWorld(trace=trace, speed=speed).run(policy, until=900, server_steps=1)
    outcome = {"run": "in_flight", "abort": "aborted"}[on_close]
    by_client = log.tasks.set_index("client")["outcome"].to_dict()
    assert by_client == {0: "aggregated", 1: "aggregated", 2: "dropped", 3: "aggregated", 4: outcome}
    step = log.server_steps.iloc[0]
    assert (step["closed_at"], step["reason"], step["reports"], step["dropped"], step["late"]) == (
        50,
        "deadline",
        3,
        1,
        1,
    )
    lost = log.tasks.set_index("client").loc[2]
    assert (lost["ended_at"], lost["known_at"]) == (20, 50)
    assert (lost["download_ms"], lost["compute_ms"], lost["upload_ms"]) == (1, 19, 0)


def _but(world: TinyWorld, **changes: object) -> TinyWorld:
    from dataclasses import replace

    return replace(world, **changes)


def _same(a: Log, b: Log) -> None:
    pd.testing.assert_frame_equal(a.tasks, b.tasks)
    pd.testing.assert_frame_equal(a.server_steps, b.server_steps)
    assert (a.ended_at, a.end_reason, a.timeline_hash) == (b.ended_at, b.end_reason, b.timeline_hash)
