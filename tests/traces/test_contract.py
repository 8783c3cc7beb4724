"""Bundled and generated traces under the contract that authors of readers inherit."""

from __future__ import annotations

from pathlib import Path

from evsim.testing.traces import TraceContract
from evsim.traces.availability import AvailabilityTrace
from evsim.traces.sources import load_availability
from evsim.traces.synthetic import SyntheticAvailability


class TestBundledPhones(TraceContract):
    def trace(self) -> AvailabilityTrace:
        return load_availability("phones", n_devices=10, seed=0, folder=Path())


class TestGenerated(TraceContract):
    def trace(self) -> AvailabilityTrace:
        return SyntheticAvailability(days=2).generate(50, seed=1)


class TestAlways(TraceContract):
    def trace(self) -> AvailabilityTrace:
        return AvailabilityTrace.always(3)


class TestShiftedOverTheWrap(TraceContract):
    def trace(self) -> AvailabilityTrace:
        trace = AvailabilityTrace.from_intervals([0, 0, 1], [10, 70, 0], [30, 95, 40], n_devices=3, period=[100, 50, 7])
        return trace.take([0, 1, 2, 0], [40, -13, 0, 99])
