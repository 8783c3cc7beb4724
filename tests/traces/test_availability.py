"""Every trace query against a loop over expanded intervals."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evsim.base.errors import TraceError
from evsim.base.units import FOREVER, MS_PER_DAY
from evsim.traces.availability import AvailabilityTrace

PROPERTY = settings(derandomize=True, max_examples=50, deadline=None)


@st.composite
def raw_traces(draw, equal_periods=None):
    n = draw(st.integers(1, 4))
    equal = draw(st.booleans()) if equal_periods is None else equal_periods
    one = draw(st.integers(1, 30))
    period = [one if equal else draw(st.integers(1, 30)) for _ in range(n)]
    rows = []
    for _ in range(draw(st.integers(0, 9))):
        device = draw(st.integers(0, n - 1))
        start = draw(st.integers(0, period[device] - 1))
        rows.append((device, start, start + draw(st.integers(0, period[device]))))
    return n, period, rows


def build(raw):
    n, period, rows = raw
    device, start, stop = (np.array([row[i] for row in rows], np.int64) for i in range(3))
    return AvailabilityTrace.from_intervals(device, start, stop, n_devices=n, period=period)


class Scan:
    """The definition: a set of online instants of one period, per device."""

    def __init__(self, raw):
        self.n, self.period, rows = raw
        self.online = [{t % self.period[d] for e, a, b in rows if e == d for t in range(a, b)} for d in range(self.n)]

    def is_online(self, d, t):
        return t % self.period[d] in self.online[d]

    def always(self, d):
        return len(self.online[d]) == self.period[d]

    def online_until(self, d, t):
        if self.always(d):
            return FOREVER
        while self.is_online(d, t):
            t += 1
        return t

    def next_check_in(self, d, t):
        if not self.online[d] or self.always(d):
            return FOREVER
        while not (self.is_online(d, t) and not self.is_online(d, t - 1)):
            t += 1
        return t

    def edges(self, a, b):
        found = [
            (t, self.is_online(d, t), d)
            for t in range(a, b)
            for d in range(self.n)
            if self.is_online(d, t) != self.is_online(d, t - 1)
        ]
        return sorted(found)


def as_tuples(edges):
    return list(zip(edges.at.tolist(), edges.check_in.tolist(), edges.device.tolist(), strict=True))


@PROPERTY
@given(raw_traces(), st.lists(st.tuples(st.integers(0, 3), st.integers(-70, 100)), min_size=1, max_size=30))
def test_queries_in_any_order_equal_a_scan(raw, questions):
    trace, scan = build(raw), Scan(raw)
    devices = np.array([d % scan.n for d, _ in questions])
    at = np.array([t for _, t in questions])
    pairs = list(zip(devices.tolist(), at.tolist(), strict=True))
    assert trace.is_online(devices, at).tolist() == [scan.is_online(d, t) for d, t in pairs]
    assert trace.online_until(devices, at).tolist() == [scan.online_until(d, t) for d, t in pairs]
    assert trace.next_check_in(devices, at).tolist() == [scan.next_check_in(d, t) for d, t in pairs]


@PROPERTY
@given(raw_traces(), raw_traces(equal_periods=True), st.lists(st.integers(0, 200), max_size=9))
def test_how_many_are_online_is_a_count_of_who_is(raw, equal, instants):
    for world in (raw, equal):
        trace = build(world)
        some = np.arange(trace.n_devices)[::2]
        expected = [int(trace.is_online(some, at).sum()) for at in instants]
        assert trace.count_online(some, np.array(instants, np.int64)).tolist() == expected


@PROPERTY
@given(raw_traces(), st.integers(-70, 100), st.integers(0, 90))
def test_edges_of_any_window_equal_a_scan(raw, begin, length):
    assert as_tuples(build(raw).edges(begin, begin + length)) == Scan(raw).edges(begin, begin + length)


@PROPERTY
@given(raw_traces(), st.integers(-70, 100), st.integers(0, 90), st.integers(0, 90))
def test_windows_of_edges_tile(raw, a, first, second):
    trace = build(raw)
    parts = as_tuples(trace.edges(a, a + first)) + as_tuples(trace.edges(a + first, a + first + second))
    assert parts == as_tuples(trace.edges(a, a + first + second))


@PROPERTY
@given(raw_traces(equal_periods=True), st.integers(-70, 100), st.integers(0, 90))
def test_sorted_cycle_and_expansion_give_the_same_edges(raw, begin, length):
    trace = build(raw)
    if trace.n_intervals:
        end = begin + length + 1
        assert as_tuples(trace._edges_of_cycles(begin, end)) == as_tuples(trace._edges_expanded(begin, end))


@PROPERTY
@given(raw_traces(), st.lists(st.tuples(st.integers(0, 3), st.integers(-99, 99)), min_size=1, max_size=6))
def test_take_moves_each_row_by_its_shift(raw, picks):
    trace = build(raw)
    devices = np.array([d % trace.n_devices for d, _ in picks])
    shift = np.array([s for _, s in picks])
    taken = trace.take(devices, shift)
    rows = np.arange(len(devices))
    for t in range(-35, 40):
        assert taken.is_online(rows, t).tolist() == trace.is_online(devices, t - shift).tolist()
    assert taken.n_intervals == sum(np.diff(trace.offsets)[devices])
    assert taken.online_share().tolist() == trace.online_share()[devices].tolist()


@PROPERTY
@given(raw_traces())
def test_share_online_and_cleaning_counts_equal_a_scan(raw):
    trace, scan = build(raw), Scan(raw)
    assert trace.online_share().tolist() == [len(scan.online[d]) / scan.period[d] for d in range(scan.n)]
    empty = sum(start == stop for _, start, stop in raw[2])
    assert trace.dropped == empty
    assert trace.merged == len(raw[2]) - empty - trace.n_intervals
    # fewest possible intervals: as many as there are check-ins in a period, one for an always-online device
    longest = int(np.lcm.reduce(scan.period)) if scan.n == 1 else None
    if longest:
        assert trace.n_intervals == (1 if scan.always(0) else sum(e[1] for e in scan.edges(0, longest)))


def test_touching_intervals_are_one_also_across_the_wrap():
    trace = AvailabilityTrace.from_intervals([0, 0, 0, 0], [90, 0, 10, 40], [100, 10, 20, 40], n_devices=1, period=100)
    assert (trace.starts.tolist(), trace.stops.tolist()) == ([90], [120])
    assert (trace.merged, trace.dropped) == (2, 1)
    assert trace.online_until([0], [95]).tolist() == [120]
    assert as_tuples(trace.edges(0, 100)) == [(20, False, 0), (90, True, 0)]


def test_intervals_that_cover_the_period_together_mean_always_online():
    trace = AvailabilityTrace.from_intervals([0, 0], [50, 20], [100, 55], n_devices=1, period=80)
    assert trace.online_until([0], [3]).tolist() == [FOREVER]
    assert len(trace.edges(0, 1000).at) == 0


def test_always_online_devices_have_no_edges():
    trace = AvailabilityTrace.always(3)
    assert trace.is_online([0, 1, 2], 12345).all()
    assert trace.online_until([2], 7).tolist() == [FOREVER]
    assert len(trace.edges(0, 10 * MS_PER_DAY).at) == 0
    assert trace.period_is_whole_days()


def test_empty_trace_answers_every_query():
    trace = AvailabilityTrace.from_intervals([], [], [], n_devices=2, period=[5, 7])
    assert not trace.is_online([0, 1], 3).any()
    assert trace.next_check_in([0, 1], 3).tolist() == [FOREVER, FOREVER]
    assert trace.online_until([0, 1], 3).tolist() == [3, 3]
    assert len(trace.edges(0, 100).at) == 0


def test_answers_keep_the_shape_of_the_question():
    trace = AvailabilityTrace.from_intervals([0, 1], [2, 3], [4, 9], n_devices=2, period=10)
    devices = np.arange(2)[:, None]
    assert trace.is_online(devices, np.arange(10)).shape == (2, 10)
    assert trace.is_online(devices, np.arange(10)).sum(axis=1).tolist() == [2, 6]


@pytest.mark.parametrize(
    ("start", "stop", "what"),
    [
        (20, 10, "reversed"),
        (-1, 10, "negative"),
        (100, 110, "beyond the period"),
        (20, 121, "longer than the period"),
    ],
)
def test_impossible_intervals_are_named(start, stop, what):
    with pytest.raises(TraceError, match=rf"device 'phone-b': interval \[{start}, {stop}\) ms is {what}"):
        AvailabilityTrace.from_intervals(
            [0, 1], [0, start], [1, stop], n_devices=2, period=100, names=["phone-a", "phone-b"]
        )


def test_unknown_device_and_fractional_and_unequal_columns_are_refused():
    with pytest.raises(TraceError, match="device 2; expected a device from 0 to 1"):
        AvailabilityTrace.from_intervals([2], [0], [1], n_devices=2, period=100)
    with pytest.raises(TraceError, match="'start' holds float64; expected whole numbers"):
        AvailabilityTrace.from_intervals([0], [float("nan")], [1], n_devices=1, period=100)
    with pytest.raises(TraceError, match="2 devices, 1 starts"):
        AvailabilityTrace.from_intervals([0, 0], [0], [1], n_devices=1, period=100)
    with pytest.raises(TraceError, match="device 1: period 0 ms"):
        AvailabilityTrace.from_intervals([0], [0], [1], n_devices=2, period=[100, 0])


@pytest.mark.parametrize(
    ("starts", "stops"),
    [([0, 5], [5, 8]), ([5, 0], [8, 3]), ([0, 5], [3, 5]), ([0, 5], [3, 10]), ([0, 5], [3, 11]), ([0, 12], [3, 13])],
)
def test_constructor_refuses_arrays_that_break_the_law(starts, stops):
    with pytest.raises(TraceError, match="device 0: interval"):
        AvailabilityTrace(np.array([0, 2]), np.array(starts), np.array(stops), np.array([10]))


def test_constructor_refuses_offsets_that_do_not_fit():
    with pytest.raises(TraceError, match="offsets do not describe"):
        AvailabilityTrace(np.array([0, 3]), np.array([1]), np.array([2]), np.array([10]))


def test_constructor_refuses_impossible_periods():
    with pytest.raises(TraceError, match="device 0: the period must be more than 0 ms"):
        AvailabilityTrace(np.array([0, 0]), np.empty(0), np.empty(0), np.array([0]))
    with pytest.raises(TraceError, match="periods of all devices add up to"):
        AvailabilityTrace(np.array([0, 0, 0]), np.empty(0), np.empty(0), np.array([2**61, 2**61]))


def test_arrays_are_read_only_and_the_callers_stay_writable():
    starts = np.array([1])
    trace = AvailabilityTrace(np.array([0, 1]), starts, np.array([2]), np.array([10]))
    with pytest.raises(ValueError, match="read-only"):
        trace.starts[0] = 5
    starts[0] = 5


def test_moved_edges_may_wrap_but_not_meet():
    trace = AvailabilityTrace.from_intervals([0, 0], [1, 50], [10, 60], n_devices=1, period=100)
    moved = trace.with_moved_edges(np.array([-5, 1]), np.array([2, 0]))
    assert (moved.starts.tolist(), moved.stops.tolist()) == ([51, 96], [60, 112])
    with pytest.raises(TraceError, match="touches the next one"):
        trace.with_moved_edges(np.array([0, -40]), np.array([0, 0]))


@PROPERTY
@given(st.lists(raw_traces(), min_size=1, max_size=3))
def test_concatenated_traces_keep_their_devices_and_counts(raws):
    traces = [build(raw) for raw in raws]
    joined, first = AvailabilityTrace.concatenate(traces), 0
    for trace in traces:
        rows = np.arange(first, first + trace.n_devices)
        assert joined.take(rows).fingerprint() == trace.fingerprint()
        first += trace.n_devices
    assert joined.n_devices == first
    assert (joined.merged, joined.dropped) == (sum(t.merged for t in traces), sum(t.dropped for t in traces))


def test_fingerprint_depends_on_every_interval_and_period():
    def of(stop, period):
        return AvailabilityTrace.from_intervals([0], [1], [stop], n_devices=1, period=period).fingerprint()

    assert of(5, 10) == of(5, 10)
    assert len({of(5, 10), of(6, 10), of(5, 11)}) == 3
