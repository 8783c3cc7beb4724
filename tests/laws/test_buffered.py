"""Laws of asynchronous aggregation over random traces, and a schedule worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evsim.aggregation.buffered import Buffered
from evsim.cost.network import IndependentLinks
from evsim.testing.timeline import TinyWorld
from evsim.traces.availability import AvailabilityTrace
from evsim.traces.speed import DeviceSpeed
from tests.laws import examples
from tests.laws.test_timeline import HORIZON, busy_until, worlds


@st.composite
def policies(draw: st.DrawFn) -> Buffered:
    return Buffered(
        concurrency=draw(st.integers(1, 6)),
        buffer_size=draw(st.integers(1, 4)),
        max_staleness=draw(st.sampled_from([None, 0, 1, 3])),
        task_timeout=draw(st.sampled_from([None, 30, 200])),
        period=draw(st.sampled_from([None, 100])),
    )


@settings(max_examples=examples(150), deadline=None, derandomize=True)
@given(worlds(), policies())
def test_laws_of_buffered_aggregation(world: TinyWorld, policy: Buffered) -> None:
    log = world.run(policy, until=HORIZON)
    tasks, end = log.tasks, log.ended_at
    if tasks.empty:
        return
    ended = busy_until(tasks, end)
    for _, own in tasks.assign(until=ended).groupby("client"):  # never two tasks of one client
        assert (own["dispatched_at"].to_numpy()[1:] >= own["until"].to_numpy()[:-1]).all()
    assert world.trace.is_online(tasks["client"].to_numpy(), tasks["dispatched_at"].to_numpy()).all()
    # a slot is taken until the server knows the end: never more than `concurrency`
    starts = np.sort(tasks["dispatched_at"])
    stops = np.sort(tasks["known_at"].where(tasks["known_at"] >= 0, end + 1))
    instants = np.unique(np.concatenate([starts, stops]))
    inside = np.searchsorted(starts, instants, "right") - np.searchsorted(stops, instants, "right")
    assert inside.max() <= policy.concurrency
    used = tasks[tasks["outcome"] == "aggregated"]
    if policy.max_staleness is not None:
        assert (used["staleness"] <= policy.max_staleness).all()
        assert (tasks.loc[tasks["outcome"] == "stale", "staleness"] > policy.max_staleness).all()
    if policy.task_timeout is not None:
        assert (ended - tasks["dispatched_at"] <= policy.task_timeout).all()
    sizes = used.groupby("server_step").size()
    assert (sizes <= policy.buffer_size).all()
    assert len(sizes) == log.server_steps["version"].max() if len(log.server_steps) else len(used) == 0
    if policy.period is None:
        assert (sizes == policy.buffer_size).all()
    merged = log.server_steps["reports"] - log.server_steps["late"]  # what came too stale is in both
    assert merged.tolist() == sizes.reindex(log.server_steps["version"]).tolist()
    # staleness is the number of steps between the version a task received and the step that used it
    assert (used["staleness"] == used["server_step"] - 1 - used["version"]).all()
    spent = tasks[["download_ms", "compute_ms", "upload_ms"]].sum(axis=1)
    assert (spent == ended - tasks["dispatched_at"]).all()


@settings(max_examples=examples(80), deadline=None, derandomize=True)
@given(worlds(), policies())
def test_bulk_replay_equals_replay_of_every_instant(world: TinyWorld, policy: Buffered) -> None:
    bulk, slow = world.run(policy, until=HORIZON), replace(world, every_instant=True).run(policy, until=HORIZON)
    pd.testing.assert_frame_equal(bulk.tasks, slow.tasks)
    pd.testing.assert_frame_equal(bulk.server_steps, slow.server_steps)


@settings(max_examples=examples(80), deadline=None, derandomize=True)
@given(worlds(), st.integers(1, 4))
def test_slots_are_full_whenever_somebody_is_idle(world: TinyWorld, concurrency: int) -> None:
    log = world.run(Buffered(concurrency=concurrency, buffer_size=2), until=HORIZON)
    tasks = log.tasks
    known = tasks["known_at"].where(tasks["known_at"] >= 0, HORIZON + 1)
    everyone = np.arange(world.trace.n_devices)
    for now in range(0, HORIZON, 97):
        if log.ended_at <= now:
            break
        open_tasks = tasks[(tasks["dispatched_at"] <= now) & (known > now)]
        idle = world.trace.is_online(everyone, now) & ~np.isin(everyone, open_tasks["client"])
        assert len(open_tasks) == concurrency or not idle.any()


@settings(max_examples=examples(80), deadline=None, derandomize=True)
@given(worlds(), policies())
def test_tasks_entered_one_by_one_are_those_entered_in_bulk(world: TinyWorld, policy: Buffered) -> None:
    fast = world.run(policy, until=HORIZON)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(IndependentLinks, "is_constant", False)
        plain = world.run(policy, until=HORIZON)
    pd.testing.assert_frame_equal(fast.tasks, plain.tasks)
    assert fast.timeline_hash == plain.timeline_hash


def test_everybody_leaving_for_hours_is_a_wait_and_not_a_spin() -> None:
    trace = AvailabilityTrace.from_intervals([0, 1], [0, 0], [100, 100], n_devices=2, period=10_000_000)
    log = TinyWorld(trace=trace).run(Buffered(concurrency=2, buffer_size=1), until=25_000_000)
    cycles = log.tasks["dispatched_at"] // 10_000_000
    assert sorted(cycles.unique()) == [0, 1, 2]
    assert log.ended_at == 25_000_000


def test_a_schedule_by_hand() -> None:
    """Twelve clients, three at work, buffers of two; task of client c lasts 12 + 10 c ms (c = 0..11).

    Selection is uniform, so who is asked is random; given the order, every instant, version and staleness follows.
    """
    speed = DeviceSpeed(
        compute_ms_per_sample=(1 + np.arange(12)) / 3,
        download_kbps=np.full(12, 8000.0),
        upload_kbps=np.full(12, 8000.0),
    )
    log = TinyWorld(trace=AvailabilityTrace.always(12), speed=speed).run(
        Buffered(concurrency=3, buffer_size=2, max_staleness=1), server_steps=6
    )
    order = log.tasks["client"].tolist()
    lasts = {client: 12 + 10 * client for client in range(12)}
    running = [(lasts[order[task]], task, 0) for task in range(3)]  # (end, task, version)
    version, held, expected = 0, [], {}
    dispatched = 3
    while version < 6:
        running.sort()
        now, task, base = running.pop(0)
        assert not running or running[0][0] > now, "choose another seed: two reports of one instant"
        staleness = version - base
        expected[task] = (now, base, staleness, "aggregated" if staleness <= 1 else "stale")
        if staleness <= 1:
            held.append(task)
        if len(held) == 2:
            version, held = version + 1, []
        if version < 6:
            running.append((now + lasts[order[dispatched]], dispatched, version))
            dispatched += 1
    rows = log.tasks.set_index("task")
    assert dispatched == len(rows)
    for task, (now, base, staleness, outcome) in expected.items():
        row = rows.loc[task]
        assert (row["ended_at"], row["version"], row["staleness"], row["outcome"]) == (now, base, staleness, outcome)
    assert "stale" in set(rows["outcome"])


def test_reports_of_one_instant_fill_one_buffer_after_the_other() -> None:
    world = TinyWorld(trace=AvailabilityTrace.always(5))
    steps = world.run(Buffered(concurrency=5, buffer_size=2), server_steps=7).server_steps
    assert steps["reports"].tolist() == [2] * 7
    assert steps["closed_at"].nunique() == 3  # of 5 reports an instant, with what the instant before left over
    last = world.run(Buffered(concurrency=5, buffer_size=2), server_steps=1).server_steps
    assert last["version"].tolist() == [1]  # the second full buffer of the instant comes too late


@pytest.mark.parametrize("size", [1, 4])
def test_with_equal_clients_a_buffer_of_everybody_is_a_synchronous_round(size: int) -> None:
    log = TinyWorld(trace=AvailabilityTrace.always(size)).run(
        Buffered(concurrency=size, buffer_size=size), server_steps=5
    )
    used = log.tasks[log.tasks["outcome"] == "aggregated"]
    assert (used["staleness"] == 0).all()
    assert (used.groupby("server_step")["client"].nunique() == size).all()
