"""Each thing an event of its own, or everything in bulk; somebody listening, or nobody: the same log."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, final

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evsim.aggregation.base import Aggregator
from evsim.aggregation.buffered import Buffered
from evsim.aggregation.synchronous import Synchronous
from evsim.base.errors import EvsimError
from evsim.selection.base import Selector
from evsim.selection.oort import Oort
from evsim.selection.power_of_choice import PowerOfChoice
from evsim.selection.uniform import Uniform
from evsim.testing.timeline import Log, TinyWorld
from evsim.traces.availability import AvailabilityTrace
from tests.laws import examples, test_buffered, test_timeline
from tests.laws.test_single_tasks import Listening
from tests.laws.test_timeline import HORIZON, worlds

SELECTORS = [Uniform(), Oort(), PowerOfChoice(d=3), PowerOfChoice(d=2, query_timeout=60)]
AGGREGATORS = test_timeline.policies() | test_buffered.policies()


@final
@dataclass
class Diary:
    """Writes down everything it is told."""

    every: bool = False
    lines: list[tuple[Any, ...]] = field(default_factory=list)

    def _write(self, fact: str, *columns: Any) -> None:
        if isinstance(columns[0], np.ndarray):
            self.lines.extend((fact, *row) for row in zip(*(column.tolist() for column in columns), strict=True))
        else:
            self.lines.append((fact, *columns))

    def checked_in(self, at: Any, clients: Any) -> None:
        self._write("checked_in", at, clients)

    def checked_out(self, at: Any, clients: Any) -> None:
        self._write("checked_out", at, clients)

    def reported(self, at: Any, tasks: Any, clients: Any) -> None:
        self._write("reported", at, tasks, clients)

    def dropped(self, at: Any, tasks: Any, clients: Any) -> None:
        self._write("dropped", at, tasks, clients)

    def stopped(self, at: Any, tasks: Any, clients: Any) -> None:
        self._write("stopped", at, tasks, clients)

    def selected(self, at: Any, clients: Any) -> None:
        self._write("selected", at, clients)

    def dispatched(self, at: Any, tasks: Any, clients: Any) -> None:
        self._write("dispatched", at, tasks, clients)

    def round_closed(self, at: int, row: dict[str, Any]) -> None:
        self.lines.append(("round_closed", at, row["round"], row["reason"], row["reports"]))


def same(one: Log, two: Log) -> None:
    pd.testing.assert_frame_equal(one.tasks, two.tasks)
    pd.testing.assert_frame_equal(one.server_steps, two.server_steps)
    assert one.timeline_hash == two.timeline_hash
    assert (one.ended_at, one.end_reason) == (two.ended_at, two.end_reason)


@settings(max_examples=examples(40), deadline=None, derandomize=True)
@given(worlds(), AGGREGATORS, st.sampled_from(SELECTORS))
def test_by_events_and_in_bulk_the_log_is_the_same(
    world: TinyWorld, policy: Aggregator, selector: Selector[Any]
) -> None:
    world = replace(world, selector=selector)
    bulk = world.run(policy, until=HORIZON)
    same(bulk, replace(world, by_events=True).run(policy, until=HORIZON))
    same(bulk, replace(world, listeners=[Diary(every=True)]).run(policy, until=HORIZON))
    same(bulk, replace(world, listeners=[Diary()]).run(policy, until=HORIZON))


@settings(max_examples=examples(20), deadline=None, derandomize=True)
@given(worlds(), AGGREGATORS)
def test_a_world_without_a_horizon_ends_at_the_same_instant(world: TinyWorld, policy: Aggregator) -> None:
    steps = int(world.run(policy, until=HORIZON).server_steps["applied"].sum())
    if steps:  # a world that makes no step would never end
        bulk = world.run(policy, server_steps=steps)
        same(bulk, replace(world, by_events=True).run(policy, server_steps=steps))


@pytest.mark.parametrize("policy", [Synchronous(cohort_goal=2), Buffered(concurrency=2, buffer_size=2)])
def test_a_world_whose_devices_are_gone_for_good_ends_at_the_same_instant(policy: Aggregator) -> None:
    trace = AvailabilityTrace.from_intervals([0, 1], [0, 0], [40, 100], n_devices=2, period=10**12)
    world = TinyWorld(trace=trace, samples=[2, 10])
    bulk, events = world.run(policy, until=10**7), replace(world, by_events=True).run(policy, until=10**7)
    same(bulk, events)


@settings(max_examples=examples(30), deadline=None, derandomize=True)
@given(worlds(), AGGREGATORS)
def test_a_selector_that_remembers_hears_the_same_by_events_and_in_bulk(world: TinyWorld, policy: Aggregator) -> None:
    bulk, events = Listening(), Listening()
    replace(world, selector=bulk).run(policy, until=HORIZON)
    replace(world, selector=events, by_events=True).run(policy, until=HORIZON)
    assert bulk.told == events.told


@settings(max_examples=examples(30), deadline=None, derandomize=True)
@given(worlds(), AGGREGATORS, st.sampled_from(SELECTORS))
def test_listeners_are_told_everything_once_and_in_order(
    world: TinyWorld, policy: Aggregator, selector: Selector[Any]
) -> None:
    one_by_one, in_bulk, beside = Diary(every=True), Diary(), Diary()
    world = replace(world, selector=selector)
    log = replace(world, listeners=[one_by_one, beside]).run(policy, until=HORIZON)
    replace(world, listeners=[in_bulk]).run(policy, until=HORIZON)
    assert in_bulk.lines == beside.lines  # what a listener hears does not depend on who else listens
    assert sorted(in_bulk.lines, key=repr) == sorted(one_by_one.lines, key=repr)
    instants = [line[1] for line in one_by_one.lines]
    assert instants == sorted(instants)
    told = {fact: [line[1:] for line in one_by_one.lines if line[0] == fact] for fact in ("reported", "dropped")}
    tasks = log.tasks[log.tasks["known_at"] >= 0]
    arrived = tasks[~tasks["outcome"].isin(["dropped", "aborted", "in_flight"])]
    assert {(at, task) for at, task, _ in told["reported"]} >= set(
        zip(arrived["known_at"], arrived["task"], strict=True)
    )
    lost = log.tasks[log.tasks["outcome"] == "dropped"]
    assert {(at, task) for at, task, _ in told["dropped"]} == set(zip(lost["ended_at"], lost["task"], strict=True))
    edges = world.trace.edges(1, log.ended_at + 1)
    heard = [line[1:] for line in one_by_one.lines if line[0].startswith("checked") and line[1] > 0]
    assert heard == list(zip(edges.at.tolist(), edges.device.tolist(), strict=True))


@settings(max_examples=examples(40), deadline=None, derandomize=True)
@given(worlds(), AGGREGATORS, st.sampled_from(SELECTORS))
def test_time_never_falls(world: TinyWorld, policy: Aggregator, selector: Selector[Any]) -> None:
    log = replace(world, selector=selector).run(policy, until=HORIZON)
    assert log.tasks["dispatched_at"].is_monotonic_increasing
    assert log.server_steps["closed_at"].is_monotonic_increasing
    used = log.tasks[log.tasks["outcome"] == "aggregated"]
    closed = log.server_steps[log.server_steps["applied"].astype(bool)].set_index("version")["closed_at"]
    assert (used["known_at"].to_numpy() <= closed.loc[used["server_step"]].to_numpy()).all() if len(used) else True


def test_a_prompt_selector_hears_of_a_report_at_its_instant() -> None:
    @final
    @dataclass(frozen=True)
    class Prompt(Selector[None]):
        told: list[tuple[int, list[int]]] = field(default_factory=list)
        prompt = True

        def init(self, n_clients: int) -> None:
            return None

        def select(self, state: None, view: Any, n: int, key: int) -> Any:
            return view.idle[:n], None

        def feedback(self, state: None, reports: Any) -> None:
            (at,) = reports.duration_ms.tolist()
            self.told.append((at, reports.clients.tolist()))

    selector = Prompt()
    world = TinyWorld(trace=AvailabilityTrace.always(3), samples=[5, 10, 15], selector=selector)
    log = world.run(Synchronous(cohort_goal=3), server_steps=2)
    took = log.tasks["known_at"] - log.tasks["dispatched_at"]
    assert [duration for duration, _ in selector.told] == took.tolist()
    assert [clients for _, clients in selector.told] == [[0], [1], [2]] * 2


def test_a_listener_that_raises_is_named() -> None:
    class Broken:
        def checked_out(self, at: Any, clients: Any) -> None:
            clients[0] = 7  # what it is given is not its own

    trace = AvailabilityTrace.from_intervals([0, 1], [0, 0], [50, 100], n_devices=2, period=100)
    world = TinyWorld(trace=trace, listeners=[Broken()])
    with pytest.raises(EvsimError, match=r"listener Broken\.checked_out \(at \d+ ms\): ValueError: .*read-only"):
        world.run(Synchronous(cohort_goal=1), until=1000)


def test_a_listener_without_a_method_is_refused() -> None:
    world = TinyWorld(trace=AvailabilityTrace.always(1), listeners=[object()])
    with pytest.raises(EvsimError, match="listener object has none of the methods started, reported"):
        world.run(Synchronous(cohort_goal=1), until=10)
