"""The contract of availability traces: give a trace, as a reader of a format makes it, and inherit the tests."""

from __future__ import annotations

from abc import ABC, abstractmethod
from itertools import pairwise

import numpy as np

from evsim.base.rng import stream
from evsim.base.units import FOREVER
from evsim.traces.availability import AvailabilityTrace

_DEVICES, _QUESTIONS = 20, 40


class TraceContract(ABC):
    """The laws of a trace, and its queries against a scan of its own intervals, for some of its devices.

    >>> class TestMine(TraceContract):
    ...     def trace(self) -> AvailabilityTrace:
    ...         return AvailabilityTrace.from_intervals([0, 0], [5, 90], [20, 100], n_devices=2, period=100)
    >>> TestMine().test_queries_equal_a_scan_of_the_intervals()
    """

    @abstractmethod
    def trace(self) -> AvailabilityTrace:
        """The trace under test."""

    def test_intervals_are_sorted_disjoint_and_within_their_period(self) -> None:
        trace = self.trace()
        for device in range(trace.n_devices):
            own = slice(trace.offsets[device], trace.offsets[device + 1])
            starts, stops, period = trace.starts[own], trace.stops[own], int(trace.period[device])
            assert (starts < stops).all()
            assert (starts[1:] > stops[:-1]).all()
            if len(starts):
                assert starts[0] >= 0
                assert starts[-1] < period
                assert stops[-1] <= starts[0] + period

    def test_queries_equal_a_scan_of_the_intervals(self) -> None:
        trace = self.trace()
        draw = stream(0, "trace contract")
        for device in draw.choice(trace.n_devices, min(_DEVICES, trace.n_devices), replace=False).tolist():
            for at in draw.integers(0, 3 * int(trace.period[device]), _QUESTIONS).tolist():
                online, until, back = _scan(trace, device, at)
                one = np.array([device])
                assert trace.is_online(one, at).tolist() == [online]
                assert trace.online_until(one, at).tolist() == [until]
                assert trace.next_check_in(one, at).tolist() == [back]

    def test_edges_of_consecutive_windows_are_those_of_the_whole(self) -> None:
        trace = self.trace()
        end = int(trace.period.max()) if trace.n_devices else 1
        cuts = [0, end // 3, end // 3 + 1, end]
        parts = [trace.edges(a, b) for a, b in pairwise(cuts)]
        whole = trace.edges(0, end)
        for name in ("at", "device", "check_in"):
            pieces = np.concatenate([getattr(part, name) for part in parts])
            np.testing.assert_array_equal(pieces, getattr(whole, name))
        assert (np.diff(whole.at) >= 0).all()


def _scan(trace: AvailabilityTrace, device: int, at: int) -> tuple[bool, int, int]:
    """Whether online, until when, and the next check-in, by looking at every interval of four periods."""
    period = int(trace.period[device])
    own = range(int(trace.offsets[device]), int(trace.offsets[device + 1]))
    spans = [(int(trace.starts[i]), int(trace.stops[i])) for i in own]
    if any(stop - start >= period for start, stop in spans):
        return True, FOREVER, FOREVER
    everywhere = [(start + k * period, stop + k * period) for k in range(-1, 6) for start, stop in spans]
    stops = [stop for start, stop in everywhere if start <= at < stop]
    check_ins = [start for start, _ in everywhere if start >= at]
    return bool(stops), stops[0] if stops else at, min(check_ins, default=FOREVER)
