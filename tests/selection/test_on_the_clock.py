"""Selectors in a tiny world: the real server, its clock, devices that leave, losses made up by client."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest

from evsim.aggregation.buffered import Buffered
from evsim.aggregation.synchronous import Synchronous
from evsim.base.vocabulary import Feedback, FloatArray, IntArray
from evsim.selection.base import Selector
from evsim.selection.by_samples import BySamples
from evsim.selection.oort import Oort
from evsim.selection.power_of_choice import PowerOfChoice, PowerOfChoiceStale
from evsim.testing.timeline import TinyWorld
from evsim.traces.availability import AvailabilityTrace
from evsim.traces.speed import DeviceSpeed

N = 24
ALWAYS = AvailabilityTrace.always(N)


class Losses:
    """A learning side that only knows losses: that of client c is c."""

    def __init__(self) -> None:
        self.clients: dict[int, int] = {}

    def dispatched(self, tasks: IntArray, clients: IntArray, nth: IntArray, max_steps: IntArray) -> None:
        self.clients |= dict(zip(tasks.tolist(), clients.tolist(), strict=True))

    def discard(self, tasks: Iterable[int]) -> None:
        pass

    def train(self, tasks: IntArray) -> Feedback:
        return self.apply(tasks)

    def apply(self, tasks: IntArray, **_step: object) -> Feedback:
        loss = np.array([self.clients[task] for task in tasks.tolist()], np.float64)
        return Feedback(tasks, loss, np.ones(len(tasks), np.bool_))

    def losses(self, clients: IntArray, max_samples: int | None) -> FloatArray:
        return clients.astype(np.float64)


def speed(compute_ms_per_sample: Any = 1.0) -> DeviceSpeed:
    return DeviceSpeed(
        compute_ms_per_sample=np.broadcast_to(np.asarray(compute_ms_per_sample, np.float64), (N,)).copy(),
        download_kbps=np.full(N, 80.0),  # 1000 bytes in 100 ms
        upload_kbps=np.full(N, 8000.0),
    )


def world(selector: Selector[Any], **changes: Any) -> TinyWorld:
    return TinyWorld(**{"trace": ALWAYS, "speed": speed(), "selector": selector, "learning": Losses()} | changes)


def leaving() -> AvailabilityTrace:
    """Each device is there for 180 ms out of 400, shifted by client."""
    start = np.arange(N) * 37 % 400
    return AvailabilityTrace.from_intervals(np.arange(N), start, start + 180, n_devices=N, period=400)


def test_a_query_costs_a_download_a_forward_pass_and_time() -> None:
    log = world(PowerOfChoice(d=6, max_samples=4)).run(Synchronous(cohort_goal=2), server_steps=3)
    queries = log.tasks[log.tasks["kind"] == "query"]
    assert len(queries) == 18
    assert set(queries["outcome"]) == {"answered"}
    assert (queries["download_ms"] == 100).all()
    assert (queries["compute_ms"] == 4).all()  # four samples, forward only; training takes 3 x 10
    training = log.tasks[log.tasks["kind"] == "train"]
    first_query, first_training = queries["dispatched_at"].min(), training["dispatched_at"].min()
    assert (first_query, first_training) == (0, 104)


def test_those_trained_are_the_candidates_with_the_largest_losses() -> None:
    log = world(PowerOfChoice(d=6)).run(Synchronous(cohort_goal=2), server_steps=5)
    for number, tasks in log.tasks.groupby("round"):
        asked = tasks.loc[tasks["kind"] == "query", "client"]
        trained = tasks.loc[tasks["kind"] == "train", "client"]
        assert sorted(trained) == sorted(asked)[-2:], number


def test_a_candidate_that_leaves_costs_the_timeout_and_no_more() -> None:
    policy = PowerOfChoice(d=N, query_timeout=120)
    log = world(policy, trace=leaving()).run(Synchronous(cohort_goal=1, reporting_deadline=300), until=3_000)
    queries = log.tasks[log.tasks["kind"] == "query"]
    assert {"answered", "dropped"} <= set(queries["outcome"])
    waited = queries["known_at"] - queries["dispatched_at"]
    assert (waited[queries["known_at"] >= 0] <= 120).all()


SELECTORS = [
    Oort(pacer_delta=60, pacer_window=2),
    Oort(preset="fedscale", pacer_window=2, pacer_every=2),
    PowerOfChoice(d=8, query_timeout=150),
    PowerOfChoiceStale(d=8),
    BySamples(),
]


@pytest.mark.parametrize("selector", SELECTORS, ids=lambda s: f"{type(s).__name__}-{getattr(s, 'preset', '')}")
@pytest.mark.parametrize("on_close", ["run", "abort"])
def test_nobody_has_two_tasks_and_nobody_offline_is_asked(selector: Selector[Any], on_close: Any) -> None:
    trace = leaving()
    policy = Synchronous(
        cohort_goal=3, over_commitment=1.5, reporting_deadline=200, minimum_cohort=2, on_close=on_close
    )
    log = world(selector, trace=trace).run(policy, until=4_000)
    tasks = log.tasks
    assert len(tasks) > 30
    assert {"aggregated", "dropped"} <= set(tasks["outcome"])
    assert trace.is_online(tasks["client"].to_numpy(), tasks["dispatched_at"].to_numpy()).all()
    ended = tasks["ended_at"].where(tasks["ended_at"] >= 0, log.ended_at)
    for _, own in tasks.assign(until=ended).groupby("client"):
        assert (own["dispatched_at"].to_numpy()[1:] >= own["until"].to_numpy()[:-1]).all()


@pytest.mark.parametrize("selector", SELECTORS, ids=lambda s: f"{type(s).__name__}-{getattr(s, 'preset', '')}")
def test_settling_in_bulk_or_at_every_instant_is_the_same(selector: Selector[Any]) -> None:
    logs = [
        world(selector, trace=leaving(), every_instant=every).run(
            Synchronous(cohort_goal=3, over_commitment=1.5, reporting_deadline=200, minimum_cohort=2), until=2_500
        )
        for every in (False, True)
    ]
    assert logs[0].timeline_hash == logs[1].timeline_hash


def test_oort_learns_whose_losses_are_large_and_whose_devices_are_fast() -> None:
    """Even clients are ten times slower; after the first rounds the fast ones with large losses do most of the work."""
    slow = np.where(np.arange(N) % 2 == 0, 50.0, 5.0)
    policy = Oort(pacer_delta=400, participation_cap=10_000)
    log = world(policy, speed=speed(slow)).run(Synchronous(cohort_goal=4), server_steps=120)
    late = log.tasks[log.tasks["round"] >= 60]
    share = late.groupby("client").size().reindex(range(N), fill_value=0) / len(late)
    fast_and_lossy = share[[client for client in range(N) if client % 2 == 1 and client > 12]].sum()
    assert fast_and_lossy > 0.6  # six of 24 clients: a quarter under uniform selection


@pytest.mark.parametrize("selector", SELECTORS, ids=lambda s: f"{type(s).__name__}-{getattr(s, 'preset', '')}")
def test_a_buffered_server_refills_from_any_selector(selector: Selector[Any]) -> None:
    log = world(selector, trace=leaving()).run(Buffered(buffer_size=3, concurrency=6, task_timeout=200), until=12_000)
    assert log.server_steps["applied"].sum() > 5
    trained = log.tasks[log.tasks["kind"] == "train"]
    assert (trained["outcome"] == "aggregated").sum() >= 3 * log.server_steps["applied"].sum()
