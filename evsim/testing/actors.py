"""What every actor must leave whole, as tests to inherit: give `make`, get the rest.

class TestMyActor(ActorContract):
    def make(self):
        return MyActor()
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace

import numpy as np
import pandas as pd

from evsim.actors.base import Actor
from evsim.aggregation.base import Aggregator
from evsim.aggregation.buffered import Buffered
from evsim.aggregation.synchronous import Synchronous
from evsim.base.rng import stream
from evsim.testing.networks import phones
from evsim.testing.timeline import Log, TinyWorld
from evsim.traces.availability import AvailabilityTrace

HORIZON = 40_000  # ms
_CLIENTS, _PERIOD, _UP = 40, 30_000, 200_000
_POLICIES: tuple[Aggregator, ...] = (
    Synchronous(cohort_goal=8, over_commitment=1.5, reporting_deadline=6_000, minimum_reports=3),
    Buffered(concurrency=10, buffer_size=4, task_timeout=9_000),
)


class ActorContract(ABC):
    """The laws of a world that is acted on: tables that agree with each other, however they were made."""

    @abstractmethod
    def make(self) -> Actor:
        """The actor under test; it should have done something within 40 s."""

    def world(self) -> TinyWorld:
        """Phones that come and go every half minute, with tasks of about a second."""
        draw = stream(0, "actor contract")
        start = draw.integers(0, _PERIOD, _CLIENTS)
        lasts = draw.integers(_PERIOD // 3, _PERIOD, _CLIENTS)
        trace = AvailabilityTrace.from_intervals(
            np.arange(_CLIENTS), start, start + lasts, n_devices=_CLIENTS, period=_PERIOD
        )
        speed = phones()
        return TinyWorld(trace=trace, speed=speed, wire_bytes=(2 * _UP, _UP), acts=[self.make()])

    def test_it_is_a_value(self) -> None:
        assert self.make() == self.make()

    def test_by_events_and_in_bulk_the_log_is_the_same(self) -> None:
        for policy in _POLICIES:
            bulk = self.world().run(policy, until=HORIZON)
            same(bulk, replace(self.world(), by_events=True, writes_at_once=True).run(policy, until=HORIZON))

    def test_the_same_seed_gives_the_same_changes_in_two_arms(self) -> None:
        one, two = (self.world().run(policy, until=HORIZON).changes for policy in _POLICIES)
        again = self.world().run(_POLICIES[0], until=HORIZON).changes
        pd.testing.assert_frame_equal(one, again)
        assert len(one) or not len(two)

    def test_the_phases_of_tasks_fill_their_time(self) -> None:
        for policy in _POLICIES:
            log = self.world().run(policy, until=HORIZON)
            tasks = log.tasks
            ended = tasks["ended_at"].where(tasks["ended_at"] >= 0, log.ended_at)
            spent = tasks[["download_ms", "compute_ms", "upload_ms"]].sum(axis=1)
            assert (spent == ended - tasks["dispatched_at"]).all()
            assert (tasks["known_at"].where(tasks["known_at"] >= 0, log.ended_at) >= ended).all()
            used = tasks[tasks["outcome"] == "aggregated"]
            assert (used["bytes_up"] == _UP).all()
            assert ((tasks["bytes_up"] >= 0) & (tasks["bytes_up"] <= _UP)).all()

    def test_nobody_has_two_tasks_at_once(self) -> None:
        for policy in _POLICIES:
            log = self.world().run(policy, until=HORIZON)
            known = log.tasks["known_at"].where(log.tasks["known_at"] >= 0, log.ended_at)
            for _, own in log.tasks.assign(known=known).groupby("client"):
                assert (own["dispatched_at"].to_numpy()[1:] >= own["known"].to_numpy()[:-1]).all()


def same(one: Log, two: Log) -> None:
    """Assert that two logs are the same."""
    for name in ("tasks", "server_steps", "changes", "energy"):
        pd.testing.assert_frame_equal(getattr(one, name), getattr(two, name))
    assert one.timeline_hash == two.timeline_hash
    assert (one.ended_at, one.end_reason) == (two.ended_at, two.end_reason)
