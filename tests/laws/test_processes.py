"""Several aggregator processes on one population, and ends of tasks that move while somebody sleeps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, final

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typing_extensions import override

from evsim.aggregation.base import Aggregator, Process, Server
from evsim.aggregation.buffered import Buffered
from evsim.aggregation.synchronous import Synchronous
from evsim.base import rng
from evsim.base.errors import PolicyError
from evsim.base.vocabulary import Feedback, IntArray, Rank
from evsim.selection.power_of_choice import PowerOfChoice
from evsim.selection.uniform import Uniform
from evsim.testing.timeline import Log, TinyWorld
from evsim.timeline.fates import ARRIVES
from evsim.timeline.server import LiveServer
from evsim.timeline.world import NoLearning
from evsim.traces.availability import AvailabilityTrace
from evsim.traces.speed import DeviceSpeed
from tests.laws import examples, test_buffered, test_timeline
from tests.laws.test_events import Diary, same
from tests.laws.test_timeline import HORIZON, worlds

AGGREGATORS = test_timeline.policies() | test_buffered.policies()


@final
@dataclass(frozen=True)
class Tiers(Aggregator):
    """Each tier of clients has a server process of its own, as in FedAT; all improve one model."""

    tiers: tuple[tuple[str, Aggregator, tuple[int, ...] | None], ...]

    @property
    @override
    def minimum_clients(self) -> int:
        return min(policy.minimum_clients for _, policy, _ in self.tiers)

    @property
    @override
    def reports_per_step(self) -> int:
        return max(policy.reports_per_step for _, policy, _ in self.tiers)

    @override
    def run(self, server: Server) -> Process[None]:
        for name, policy, clients in self.tiers:
            server.start(policy.run, name=name, among=None if clients is None else np.array(clients))
        return
        yield


@settings(max_examples=examples(30), deadline=None, derandomize=True)
@given(worlds(), AGGREGATORS)
def test_a_tier_of_one_is_the_policy_itself(world: TinyWorld, policy: Aggregator) -> None:
    same(world.run(policy, until=HORIZON), world.run(Tiers((("", policy, None),)), until=HORIZON))


@settings(max_examples=examples(30), deadline=None, derandomize=True)
@given(worlds(), AGGREGATORS)
def test_a_tier_of_everybody_named_is_the_policy_itself(world: TinyWorld, policy: Aggregator) -> None:
    everybody = tuple(range(world.trace.n_devices))
    mine, alone = Tiers((("", policy, everybody),)), world.run(policy, until=HORIZON)
    if not isinstance(policy, Buffered):  # a buffer with open slots draws at every check-in; here only if one is hers
        same(alone, world.run(mine, until=HORIZON))


def some_world(n: int, seed: int) -> TinyWorld:
    """Clients that come and go; no two reports at one instant, so that nothing is drawn to order them."""
    draw = rng.stream(seed, "processes")
    edges = np.sort(draw.integers(0, 40_000, size=(n, 6)), axis=1)
    trace = AvailabilityTrace.from_intervals(
        np.repeat(np.arange(n), 3), edges[:, 0::2].ravel(), edges[:, 1::2].ravel(), n_devices=n, period=40_000
    )
    speed = DeviceSpeed(
        compute_ms_per_sample=draw.lognormal(4.0, 0.7, n),
        download_kbps=draw.uniform(10, 80, n),
        upload_kbps=draw.uniform(10, 80, n),
        compute_jitter=0.4,
    )
    return TinyWorld(trace=trace, speed=speed, seed=seed)


POLICIES = [
    Synchronous(cohort_goal=2, over_commitment=1.5, reporting_deadline=3_000, late_reports="keep"),
    Synchronous(cohort_goal=3, minimum_cohort=1, on_close="abort", reporting_deadline=2_000),
    Buffered(concurrency=3, buffer_size=2, task_timeout=5_000),
    Buffered(concurrency=2, buffer_size=2, period=4_000),
]


@pytest.mark.parametrize("by_events", [False, True])
@pytest.mark.parametrize("first", POLICIES)
@pytest.mark.parametrize("second", POLICIES)
def test_two_aggregators_on_disjoint_clients_give_the_union_of_their_logs(
    first: Aggregator, second: Aggregator, by_events: bool
) -> None:
    world = replace(some_world(12, 5), by_events=by_events)
    odd, even = tuple(range(1, 12, 2)), tuple(range(0, 12, 2))
    a, b = ("a", first, odd), ("b", second, even)
    both, alone = world.run(Tiers((a, b)), until=200_000), [_alone(tier, by_events) for tier in (a, b)]
    columns = ["client", "dispatched_at", "ended_at", "known_at", "outcome"]
    tasks = pd.concat([log.tasks for log in alone])[columns]
    pd.testing.assert_frame_equal(_sorted(both.tasks[columns]), _sorted(tasks))
    columns = ["by", "started_at", "closed_at", "reason", "invited", "reports", "dropped", "late"]
    steps = pd.concat([log.server_steps for log in alone])[columns]
    pd.testing.assert_frame_equal(_sorted(both.server_steps[columns]), _sorted(steps))
    assert set(both.server_steps["by"]) == {"a", "b"}
    assert both.server_steps["version"].max() == sum(log.server_steps["version"].max() for log in alone)
    assert both.server_steps["closed_at"].is_monotonic_increasing


@pytest.mark.parametrize("by_events", [False, True])
@pytest.mark.parametrize("most", [1, 2, None])
def test_late_reports_join_the_next_step_of_their_own_process(most: int | None, by_events: bool) -> None:
    """Staleness counts the steps of all processes, and no process takes what was reported to another."""
    policy = Synchronous(
        cohort_goal=2, over_commitment=2.0, reporting_deadline=2_500, late_reports="keep", max_staleness=most
    )
    odd, even = tuple(range(1, 12, 2)), tuple(range(0, 12, 2))
    world = replace(some_world(12, 5), by_events=by_events)
    log = world.run(Tiers((("a", policy, odd), ("b", policy, even))), until=200_000)
    rounds = log.server_steps.set_index("round")
    applied = log.server_steps[log.server_steps["applied"].astype(bool)]
    fates = set()
    for task in log.tasks.itertuples():
        mine = rounds.loc[task.round] if task.round in rounds.index else None
        lost = task.outcome in {"dropped", "aborted", "in_flight"}
        if mine is None or lost or task.known_at <= mine["closed_at"]:
            continue
        taking = applied[(applied["by"] == mine["by"]) & (applied["closed_at"] >= task.known_at)]
        taking = taking[taking["round"] != task.round]
        assert len(taking), "a late report of the very end is in flight"
        step = taking.iloc[0]
        staleness = step["version"] - 1 - task.version
        used = most is None or staleness <= most
        assert (task.outcome, task.staleness) == ("aggregated" if used else "stale", staleness)
        assert task.server_step == (step["version"] if used else -1)
        fates.add((mine["by"], task.outcome))
    assert fates == {(by, how) for by in "ab" for how in (("aggregated",) if most is None else ("aggregated", "stale"))}


@pytest.mark.parametrize("by_events", [False, True])
@pytest.mark.parametrize("other", [Synchronous(cohort_goal=1), Buffered(concurrency=1, buffer_size=1)])
def test_a_process_that_waits_in_vain_leaves_the_others_alone(other: Aggregator, by_events: bool) -> None:
    never = AvailabilityTrace.from_intervals([], [], [], n_devices=1, period=1_000)
    tiers = Tiers((("a", Synchronous(cohort_goal=1), (0,)), ("b", other, (1,))))
    here = AvailabilityTrace.concatenate([never, AvailabilityTrace.always(1)])
    world = TinyWorld(trace=here, by_events=by_events)
    log = world.run(tiers, server_steps=9)
    assert log.end_reason == "server_steps"
    assert log.server_steps["by"].tolist() == ["b"] * 9
    nobody = replace(world, trace=AvailabilityTrace.concatenate([never, never]))
    assert nobody.run(tiers, server_steps=9).end_reason == "no_clients"


@lru_cache  # each is compared with several companies
def _alone(tier: tuple[str, Aggregator, tuple[int, ...]], by_events: bool) -> Log:
    return replace(some_world(12, 5), by_events=by_events).run(Tiers((tier,)), until=200_000)


def _sorted(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.sort_values(list(frame.columns)).reset_index(drop=True)


def test_two_processes_of_one_name_are_refused() -> None:
    policy = Synchronous(cohort_goal=1)
    world = TinyWorld(trace=AvailabilityTrace.always(2))
    with pytest.raises(PolicyError, match="a process named 'a' runs already"):
        world.run(Tiers((("a", policy, (0,)), ("a", policy, (1,)))), until=100)


@final
class Stall:
    """An actor: every so often some tasks at work are delayed or hurried, by draws of their own."""

    def __init__(self, seed: int, every: int = 23) -> None:
        self._seed, self._every = seed, every
        self.moved = 0

    def __call__(self, server: LiveServer) -> Process[None]:
        while not server.finished:
            yield server.clock.at(server.now + self._every, Rank.SERVER)
            if server.now >= HORIZON:
                return
            server.settle()
            tasks = self._at_work(server)
            if len(tasks):
                later = rng.hash64(self._seed, tasks, server.now) % np.uint64(60)
                server.dispatcher.move(tasks, server.now + 1 + later.astype(np.int64))
                server.changed(tasks)
                self.moved += len(tasks)

    def _at_work(self, server: LiveServer) -> IntArray:
        tasks = server.ledger.unresolved()
        tasks = tasks[(server.ledger.column("ended_at", tasks) > server.now)]
        return tasks[rng.hash64(self._seed, server.now, tasks) % np.uint64(3) == 0]


def _with(world: TinyWorld, make: Callable[[], Any]) -> TinyWorld:
    return replace(world, actors=[make()])


@settings(max_examples=examples(40), deadline=None, derandomize=True)
@given(worlds(), AGGREGATORS, st.integers(0, 99))
def test_ends_that_move_give_the_same_log_by_events_and_in_bulk(
    world: TinyWorld, policy: Aggregator, seed: int
) -> None:
    bulk = _with(world, lambda: Stall(seed)).run(policy, until=HORIZON)
    same(bulk, _with(replace(world, by_events=True), lambda: Stall(seed)).run(policy, until=HORIZON))


@settings(max_examples=examples(40), deadline=None, derandomize=True)
@given(worlds(), test_timeline.policies(), st.integers(0, 99), st.booleans())
def test_a_round_that_says_goal_closes_at_its_goal_th_report_however_ends_move(
    world: TinyWorld, policy: Synchronous, seed: int, by_events: bool
) -> None:
    stall = Stall(seed)
    n = world.trace.n_devices
    halves = (("a", policy, tuple(range(0, n, 2))), ("b", policy, tuple(range(1, n, 2))))
    log = replace(world, actors=[stall], by_events=by_events).run(Tiers(halves), until=HORIZON)
    _closes_are_right(log)


@st.composite
def colliding(draw: st.DrawFn) -> TinyWorld:
    """Everything lasts a multiple of 10 ms: reports, check-ins, check-outs, deadlines and periods at equal instants."""
    n, period = draw(st.integers(1, 6)), 10 * draw(st.integers(5, 60))
    edges = st.tuples(st.integers(0, n - 1), st.integers(0, period // 10), st.integers(0, period // 10))
    sessions = [(who, min(a, b) * 10, max(a, b) * 10) for who, a, b in draw(st.lists(edges, max_size=12))]
    who, start, stop = zip(*sessions, strict=True) if sessions else ([], [], [])
    trace = AvailabilityTrace.from_intervals(who, start, stop, n_devices=n, period=period)
    speed = DeviceSpeed(  # tasks of 10, 20 or 30 ms
        compute_ms_per_sample=np.array([draw(st.sampled_from([8, 18, 28])) / 30 for _ in range(n)]),
        download_kbps=np.full(n, 8000.0),
        upload_kbps=np.full(n, 8000.0),
    )
    selector = draw(st.sampled_from([Uniform(), PowerOfChoice(d=2), PowerOfChoice(d=3, query_timeout=20)]))
    return TinyWorld(trace=trace, speed=speed, seed=draw(st.integers(0, 99)), selector=selector)


@settings(max_examples=examples(50), deadline=None, derandomize=True)
@given(colliding(), AGGREGATORS, AGGREGATORS, st.integers(0, 99), st.booleans())
def test_where_everything_collides_processes_wake_in_one_order(
    world: TinyWorld, first: Aggregator, second: Aggregator, seed: int, apart: bool
) -> None:
    n = world.trace.n_devices
    halves = (tuple(range(0, n, 2)), tuple(range(1, n, 2))) if apart else (None, None)
    tiers = Tiers((("a", first, halves[0]), ("b", second, halves[1])))
    bulk = _with(world, lambda: Stall(seed, every=20)).run(tiers, until=1_000)
    same(bulk, _with(replace(world, by_events=True), lambda: Stall(seed, every=20)).run(tiers, until=1_000))
    one_by_one = replace(world, listeners=[Diary(every=True), Diary()])
    same(bulk, _with(one_by_one, lambda: Stall(seed, every=20)).run(tiers, until=1_000))
    if apart:  # queries too are for a round of the process that asks
        rounds = bulk.tasks["round"].tolist()
        assert len(set(zip(rounds, bulk.tasks["client"] % 2, strict=True))) == len(set(rounds))


def test_each_process_steps_with_its_own_goal() -> None:
    @final
    class Heard:
        def __init__(self) -> None:
            self.steps: set[tuple[str, int, int]] = set()

        def __getattr__(self, name: str) -> Any:
            return getattr(NoLearning(), name)

        def apply(self, tasks: IntArray, *, by: str, goal: int) -> Feedback:
            self.steps.add((by, goal, len(tasks)))
            return NoLearning().apply(tasks)

    heard = Heard()
    world = TinyWorld(trace=AvailabilityTrace.always(9), learning=heard)
    rounds, short = Synchronous(cohort_goal=3), Synchronous(cohort_goal=4, minimum_cohort=2)
    buffers = Buffered(concurrency=4, buffer_size=2)
    world.run(Tiers((("a", rounds, (0, 1, 2)), ("b", short, (3, 4)), ("c", buffers, (5, 6, 7, 8)))), until=500)
    assert heard.steps == {("a", 3, 3), ("b", 4, 2), ("c", 2, 2)}
    heard.steps.clear()
    world.run(short, server_steps=1)
    assert heard.steps == {("", 4, 4)}


def _closes_are_right(log: Log) -> None:
    for row in log.server_steps.itertuples():
        cohort = log.tasks[log.tasks["round"] == row.round]
        arrived = cohort[~cohort["outcome"].isin(["dropped", "aborted", "in_flight"])]
        in_time = arrived[arrived["known_at"] <= row.closed_at]
        assert row.reports == len(in_time)
        if row.reason == "goal":
            assert row.closed_at == np.sort(arrived["known_at"])[row.goal - 1]
        elif row.reason == "deadline":
            assert row.closed_at == row.deadline_at
            assert len(in_time) < row.goal


def test_a_moved_task_that_meets_its_check_out_is_lost() -> None:
    trace = AvailabilityTrace.from_intervals([0], [0], [1_000], n_devices=1, period=5_000)
    world = TinyWorld(trace=trace, samples=[10])

    def hold_up(server: LiveServer) -> Process[None]:
        yield server.clock.at(5, Rank.SERVER)
        task = np.array([0])
        assert server.ledger.column("fate", task).tolist() == [ARRIVES]
        server.dispatcher.move(task, np.array([1_001]))
        server.changed(task)

    log = replace(world, actors=[hold_up]).run(Synchronous(cohort_goal=1), until=6_000)
    first = log.tasks.iloc[0]
    assert (first["outcome"], first["ended_at"], first["known_at"]) == ("dropped", 1_000, 5_000)


def test_a_process_that_asks_for_the_past_is_told() -> None:
    @final
    @dataclass(frozen=True)
    class Late(Aggregator):
        minimum_clients = reports_per_step = 1

        @override
        def run(self, server: Server) -> Process[None]:
            yield from server.wait(or_check_in=False, until=500)
            yield from server.wait(or_check_in=False, until=400)

    world = TinyWorld(trace=AvailabilityTrace.always(1))
    with pytest.raises(PolicyError, match="asked for instant 400 ms, but the clock stands at 500 ms"):
        world.run(Late(), until=1_000)
