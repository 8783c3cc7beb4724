"""The contract of aggregators: give a policy, inherit the tests."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import pandas as pd

from evsim.aggregation.base import Aggregator
from evsim.base.rng import stream
from evsim.testing.timeline import Log, TinyWorld
from evsim.traces.availability import AvailabilityTrace
from evsim.traces.speed import DeviceSpeed

_HORIZON = 20_000


class AggregatorContract(ABC):
    """Conservation laws in random worlds; subclass and give `aggregator`.

    >>> from evsim.aggregation.synchronous import Synchronous
    >>> class TestMine(AggregatorContract):
    ...     def aggregator(self) -> Aggregator:
    ...         return Synchronous(cohort_goal=2, reporting_deadline=300)
    >>> TestMine().test_no_client_has_two_tasks_at_once()
    """

    @abstractmethod
    def aggregator(self) -> Aggregator:
        """The policy under test; at most 8 clients must suffice for a step."""

    def test_no_client_has_two_tasks_at_once(self) -> None:
        for seed in range(5):
            log = self._log(seed)
            ended = log.tasks["ended_at"].where(log.tasks["ended_at"] >= 0, log.ended_at)
            for _, own in log.tasks.assign(until=ended).groupby("client"):
                assert (own["dispatched_at"].to_numpy()[1:] >= own["until"].to_numpy()[:-1]).all()

    def test_only_online_clients_are_asked(self) -> None:
        for seed in range(5):
            tasks, trace = self._log(seed).tasks, _world(seed).trace
            assert trace.is_online(tasks["client"].to_numpy(), tasks["dispatched_at"].to_numpy()).all()

    def test_every_task_has_one_outcome_and_the_run_ends(self) -> None:
        log = self._log(0)
        assert log.end_reason == "virtual_time"
        assert log.ended_at == _HORIZON
        assert log.tasks["task"].tolist() == list(range(len(log.tasks)))
        assert len(log.tasks) > 0

    def test_durations_add_up_to_the_integral_of_tasks_in_flight(self) -> None:
        log = self._log(1)
        begin = np.sort(log.tasks["dispatched_at"])
        end = np.sort(log.tasks["ended_at"].where(log.tasks["ended_at"] >= 0, log.ended_at))
        instants = np.unique(np.concatenate([begin, end, [0, log.ended_at]]))
        inside = np.searchsorted(begin, instants, "right") - np.searchsorted(end, instants, "right")
        spent = log.tasks[["download_ms", "compute_ms", "upload_ms"]].to_numpy().sum()
        assert (inside[:-1] * np.diff(instants)).sum() == spent

    def test_the_same_world_gives_the_same_log(self) -> None:
        one, two = self._log(2), self._log(2)
        pd.testing.assert_frame_equal(one.tasks, two.tasks)
        assert one.timeline_hash == two.timeline_hash

    def test_applied_steps_raise_the_version_by_one(self) -> None:
        steps = self._log(3).server_steps
        applied = steps.loc[steps["applied"].astype(bool), "version"].tolist()
        assert applied == list(range(1, len(applied) + 1))

    def _log(self, seed: int) -> Log:
        return _world(seed).run(self.aggregator(), until=_HORIZON)


def _world(seed: int) -> TinyWorld:
    """Eight clients with three sessions each in a period of two seconds, and a ninth that is always online."""
    draw = stream(seed, "contract")
    edges = np.sort(draw.integers(0, 2000, size=(8, 6)), axis=1)
    device = np.append(np.repeat(np.arange(8), 3), 8)
    start, stop = np.append(edges[:, 0::2], 0), np.append(edges[:, 1::2], 2000)
    trace = AvailabilityTrace.from_intervals(device, start, stop, n_devices=9, period=2000)
    speed = DeviceSpeed(
        compute_ms_per_sample=draw.lognormal(1.0, 1.0, 9),
        download_kbps=draw.uniform(100, 8000, 9),
        upload_kbps=draw.uniform(100, 8000, 9),
    )
    return TinyWorld(trace=trace, speed=speed, seed=seed)
