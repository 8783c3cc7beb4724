"""A server link that is shared: schedules by hand, another simulation in fractions, and laws over products."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evsim.aggregation.base import Aggregator
from evsim.aggregation.synchronous import Synchronous
from evsim.base.errors import EvsimError
from evsim.cost.network import IndependentLinks
from evsim.cost.networks.shared import SharedLink, max_min
from evsim.selection.base import Selector
from evsim.testing.networks import NetworkContract
from evsim.testing.timeline import TinyWorld
from evsim.timeline.flows import Flows
from evsim.traces.availability import AvailabilityTrace
from evsim.traces.speed import DeviceSpeed
from evsim.verify import verify
from tests.laws import examples
from tests.laws.test_events import AGGREGATORS, SELECTORS, Diary, same
from tests.laws.test_timeline import HORIZON, worlds
from tests.verify import worlds as small

WIDE, NARROW = SharedLink(down_kbps=1e15), SharedLink(down_kbps=900.0, up_kbps=500.0)


class TestSharedLink(NetworkContract):
    def make(self):
        return SharedLink(down_kbps=30_000.0, up_kbps=10_000.0, latency=20)


# -- the rule --------------------------------------------------------------------------------------------------------


@settings(max_examples=examples(200), deadline=None, derandomize=True)
@given(st.lists(st.floats(0.01, 1e6), min_size=1, max_size=30), st.floats(0.01, 1e7))
def test_max_min_rates_are_fair_and_waste_nothing(most, capacity):
    most = np.array(most)
    rates = max_min(most, capacity)
    assert (rates <= most).all()
    assert rates.sum() == pytest.approx(min(capacity, most.sum()))
    waits = rates < most
    if waits.any():  # nobody who waits has less than anybody else
        assert (rates[waits] >= rates.max() * (1 - 1e-12)).all()


# -- by hand ---------------------------------------------------------------------------------------------------------


def _four(**network: float) -> pd.DataFrame:
    """Four clients; 1 MB down, 0.5 MB up; 30 ms of computing."""
    speed = DeviceSpeed(np.ones(4), np.array([1e3, 2e3, 8e3, 8e3]), np.array([1e3, 4e3, 4e3, 4e3]))
    world = TinyWorld(trace=AvailabilityTrace.always(4), speed=speed, wire_bytes=(1_000_000, 500_000))
    log = replace(world, network=SharedLink(**network)).run(Synchronous(cohort_goal=4), server_steps=1)
    return log.tasks.sort_values("client")


def test_a_schedule_of_four_downloads_by_hand():
    """8,000 kbit/s: 1,000 and 2,000 are served in full, the others get 2,500 each until they end."""
    assert _four(down_kbps=8e3)["download_ms"].tolist() == [8_000, 4_000, 3_200, 3_200]
    """4,000 kbit/s: 1,000 each. At 8,000 ms all end."""
    assert _four(down_kbps=4e3)["download_ms"].tolist() == [8_000] * 4
    """6,000: 1,000, then 5,000 / 3 each; at 4,800 ms the three end, and the first one has its own rate all the time."""
    assert _four(down_kbps=6e3)["download_ms"].tolist() == [8_000, 4_800, 4_800, 4_800]


def test_a_schedule_of_four_uploads_by_hand():
    """Uploads of 4 Mbit begin at 1,030 (two), 4,030 and 8,030 ms; the link takes 4,000 kbit/s.

    The first two have 2,000 each until 3,030 ms; the third is alone with its 4,000 until 5,030; the last has its 1,000.
    """
    tasks = _four(up_kbps=4e3)
    assert tasks["download_ms"].tolist() == [8_000, 4_000, 1_000, 1_000]
    assert tasks["upload_ms"].tolist() == [4_000, 1_000, 2_000, 2_000]
    """At 1,000 kbit/s: two at 500 until the third comes at 4,030, with 2.5 Mbit left; then 1,000 / 3 each until
    the last comes at 8,030, when the first two have 2.5 - 4/3 = 7/6 left: 250 each, 4,666.7 ms more.
    """
    tasks = _four(up_kbps=1e3)
    # at 12,696.7 the third has 4 - 4/3 - 7/6 = 1.5 left, the last 4 - 7/6 = 17/6; 500 each: the third ends at 15,696.7
    # the last has 17/6 - 1.5 = 4/3 left then, alone with its 1,000: it ends at 17,030
    assert tasks["upload_ms"].tolist() == [17_030 - 8_030, 15_697 - 4_030, 12_697 - 1_030, 12_697 - 1_030]


def test_a_link_that_a_lost_device_leaves_is_free_for_the_others():
    """Two downloads of 8 Mbit at 4,000 each; one device leaves at 1,000 ms with half of it, the other ends at 1,500."""
    speed = DeviceSpeed(np.ones(2), np.full(2, 8e3), np.full(2, 8e3))
    trace = AvailabilityTrace.from_intervals([0, 1], [0, 0], [1_000, 9_000], n_devices=2, period=10_000)
    world = TinyWorld(trace=trace, speed=speed, wire_bytes=(1_000_000, 1_000), network=SharedLink(down_kbps=8e3))
    tasks = world.run(Synchronous(cohort_goal=2), server_steps=1).tasks.set_index("client")
    assert tasks["outcome"].tolist() == ["dropped", "aggregated"]
    assert tasks["bytes_down"].tolist() == [500_000, 1_000_000]
    assert tasks["download_ms"].tolist() == [1_000, 1_500]
    assert tasks["planned_download_ms"].tolist() == [2_000, 1_500]  # had nothing changed


# -- against another simulation --------------------------------------------------------------------------------------


def _oracle(flows: list[tuple[int, Fraction, Fraction]], capacity: Fraction) -> list[Fraction]:
    """Ends of (begin, size, own rate), from one change of the rates to the next, in exact fractions."""
    left, ends = {i: size for i, (_, size, _) in enumerate(flows)}, [Fraction(0)] * len(flows)
    now = Fraction(0)
    while left:
        live = [i for i in left if flows[i][0] <= now]
        ahead = [Fraction(flows[i][0]) for i in left if flows[i][0] > now]
        rates, room, waiting = {}, capacity, sorted(live, key=lambda i: flows[i][2])
        while waiting:
            i = waiting.pop(0)
            rates[i] = min(flows[i][2], room / (len(waiting) + 1))
            room -= rates[i]
        then = min([now + left[i] / rates[i] for i in live] + ahead)
        for i in live:
            left[i] -= rates[i] * (then - now)
            if left[i] == 0:
                ends[i] = then
                del left[i]
        now = then
    return ends


@settings(max_examples=examples(60), deadline=None, derandomize=True)
@given(
    st.lists(st.tuples(st.integers(0, 400), st.integers(1, 3_000), st.integers(1, 40)), min_size=1, max_size=12),
    st.integers(1, 120),
)
def test_ends_are_those_of_a_simulation_in_fractions(given_, capacity):
    flows = Flows("download", SharedLink(down_kbps=float(capacity)), 0)
    ends = _run(flows, given_)
    exact = _oracle([(begin, Fraction(size), Fraction(own)) for begin, size, own in given_], Fraction(capacity))
    for (begin, _, _), end, true in zip(given_, ends, exact, strict=True):
        assert abs(end - begin - (true - begin)) <= Fraction(1, 2) + Fraction(1, 10**6)


def _run(flows: Flows, given_: list[tuple[int, int, int]]) -> list[int]:
    """Drives flows as `Transfers` does; also checks that no instant moves more than there is, or wastes any."""
    waiting = sorted(range(len(given_)), key=lambda i: given_[i][0])
    ends, now = [0] * len(given_), 0
    while waiting or len(flows):
        following = [given_[waiting[0]][0]] if waiting else []
        now = int(min([flows.next(now), *following]))
        for ended in flows.forward(now):
            ends[ended.task] = ended.at
        while waiting and given_[waiting[0]][0] == now:
            task = waiting.pop(0)
            _, size, own = given_[task]
            rows = np.array([task]), np.array([task]), *(np.array([x]) for x in (float(own), size / own, 0.0))
            flows.begin(now, rows, np.zeros(1, bool))
        flows.next(now)
        _nothing_is_wasted(flows)
    return ends


def _nothing_is_wasted(flows: Flows) -> None:
    live = flows._live
    own, share = live[3], live[8]
    capacity = flows._network.down_kbps
    used = (own * share).sum()
    assert used <= capacity * (1 + 1e-9)
    if (share < 1).any():  # somebody waits
        assert used == pytest.approx(capacity)


# -- laws over products ----------------------------------------------------------------------------------------------


@settings(max_examples=examples(40), deadline=None, derandomize=True)
@given(worlds(), AGGREGATORS, st.sampled_from(SELECTORS), st.sampled_from([0.0, 0.4]), st.sampled_from([0.0, 7.3]))
def test_a_link_wide_enough_is_independent_links_bit_for_bit(
    world: TinyWorld, policy: Aggregator, selector: Selector[Any], jitter: float, latency: float
) -> None:
    speed = replace(world.speed, network_jitter=jitter, latency_ms=np.full(world.trace.n_devices, latency))
    world = replace(world, selector=selector, speed=speed)
    alone = replace(world, network=IndependentLinks()).run(policy, until=HORIZON)
    shared = replace(world, network=WIDE).run(policy, until=HORIZON)
    pd.testing.assert_frame_equal(alone.tasks, shared.tasks)
    pd.testing.assert_frame_equal(alone.server_steps, shared.server_steps)
    assert (alone.ended_at, alone.end_reason) == (shared.ended_at, shared.end_reason)


@settings(max_examples=examples(25), deadline=None, derandomize=True)
@given(worlds(), AGGREGATORS, st.sampled_from(SELECTORS))
def test_over_a_shared_link_by_events_and_in_bulk_the_log_is_the_same(
    world: TinyWorld, policy: Aggregator, selector: Selector[Any]
) -> None:
    world = replace(world, selector=selector, network=NARROW)
    bulk = world.run(policy, until=HORIZON)
    same(bulk, replace(world, by_events=True).run(policy, until=HORIZON))
    same(bulk, replace(world, every_instant=True).run(policy, until=HORIZON))
    same(bulk, replace(world, listeners=[Diary(every=True), Diary()]).run(policy, until=HORIZON))
    same(bulk, replace(world, writes_at_once=True).run(policy, until=HORIZON))


@settings(max_examples=12, deadline=None, derandomize=True)
@given(worlds(), AGGREGATORS)
def test_what_is_moved_in_an_interval_fits_through_the_link(world: TinyWorld, policy: Aggregator) -> None:
    world = replace(world, network=NARROW)
    log = world.run(policy, until=HORIZON)
    tasks = log.tasks
    ended = tasks["ended_at"].where(tasks["ended_at"] >= 0, log.ended_at)
    spent = tasks[["download_ms", "compute_ms", "upload_ms"]].sum(axis=1)
    assert (spent == ended - tasks["dispatched_at"]).all()
    up = tasks["dispatched_at"] + tasks["download_ms"] + tasks["compute_ms"]
    for begin, lasts, size, capacity in (
        (tasks["dispatched_at"], tasks["download_ms"], tasks["bytes_down"], NARROW.down_kbps),
        (up, tasks["upload_ms"], tasks["bytes_up"], NARROW.up_kbps),
    ):
        begins, ends = begin.unique()[:40], (begin + lasts).unique()[:40]
        for first in begins:
            for last in ends[ends >= first]:
                inside = (begin >= first) & (begin + lasts <= last)
                rounded = inside.sum() / 2  # each end to a whole ms
                assert 8 * size[inside].sum() <= capacity * (last - first + rounded) * (1 + 1e-12)


# -- runs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["rounds, deadline", "rounds, abort", "rounds, keep", "buffers, timeout"])
@pytest.mark.parametrize("whom", ["uniform", "asking"])
def test_a_run_over_a_shared_link_is_recomputed(tmp_path, how, whom):
    network = {"kind": "shared", "down_kbps": 9_000, "up_kbps": 4_000, "latency": "15ms"}
    change = {"aggregation": small.aggregations()[how], "selection": small.SELECTORS[whom], "network": network}
    verdict = verify(small.run(tmp_path / "run", change))
    assert verdict.ok, [check.violation for check in verdict.checks if not check.ok]
    checked = {check.name: check.rows for check in verdict.checks if not check.skipped}
    assert checked["downloads fit through the server's link"] > 0
    assert checked["ends of tasks"] > 0


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"down_kbps": 0}, "down_kbps must be finite and > 0: over a link without capacity nothing would ever arrive"),
        ({"up_kbps": -5}, "up_kbps must be finite and > 0"),
        ({}, "at least one of down_kbps and up_kbps is needed"),
    ],
    ids=str,
)
def test_a_link_that_carries_nothing_is_told(table, message):
    network = {"kind": "shared", **table}
    with pytest.raises(EvsimError, match=message):
        small.Scenario.from_dict({**small.BASE, "aggregation": {"kind": "buffered"}, "network": network})
