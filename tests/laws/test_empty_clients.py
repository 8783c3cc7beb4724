"""Clients without data change nothing: a population with some of them at its end has the same log, whoever selects."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from evsim.aggregation.buffered import Buffered
from evsim.aggregation.synchronous import Synchronous
from evsim.selection.afl import ActiveFl
from evsim.selection.bounds import Fastest, LongestStay
from evsim.selection.by_samples import BySamples
from evsim.selection.daily import Daily
from evsim.selection.oort import Oort
from evsim.selection.power_of_choice import PowerOfChoice, PowerOfChoiceStale
from evsim.selection.refl_ips import ReflIps
from evsim.selection.tifl import Tifl, TiflLoss
from evsim.selection.uniform import Uniform
from evsim.testing.timeline import TinyWorld
from evsim.traces.availability import AvailabilityTrace

HORIZON = 700
AGGREGATORS = {
    "rounds": Synchronous(cohort_goal=3, over_commitment=1.4, minimum_cohort=2, reporting_deadline=60),
    "rounds that keep": Synchronous(cohort_goal=2, late_reports="keep", reporting_deadline=20),
    "open rounds": Synchronous(cohort_goal=3, minimum_cohort=1, on_close="abort"),
    "buffers": Buffered(concurrency=4, buffer_size=2, task_timeout=100),
    "buffers of one": Buffered(concurrency=3, buffer_size=1, task_timeout=None),
    "periods": Buffered(concurrency=4, buffer_size=3, period=90, max_staleness=2),
}
SELECTORS = {
    "uniform": Uniform(),
    "by samples": BySamples(),
    "oort": Oort(),
    "asking": PowerOfChoice(d=4, query_timeout=60),
    "last loss": PowerOfChoiceStale(d=4),
    "tiers": Tifl(probabilities=(0.7, 0.3)),
    "tiers by loss": TiflLoss(n_tiers=2, every=2),
    "active": ActiveFl(),
    "fastest": Fastest(),
    "forecast": ReflIps(predictor=Daily()),
    "longest stay": LongestStay(predictor=Daily()),
}


@st.composite
def traces(draw, least, most):
    """Devices that come and go, each with its sessions in a period of 300 ms."""
    n = draw(st.integers(least, most))
    device, start, stop = [], [], []
    for each in range(n):
        edges = sorted(draw(st.sets(st.integers(0, 299), min_size=2, max_size=6)))
        for begin, end in zip(edges[::2], edges[1::2], strict=False):
            device.append(each)
            start.append(begin)
            stop.append(end)
    return AvailabilityTrace.from_intervals(device, start, stop, n_devices=n, period=300)


@pytest.mark.parametrize("selector", SELECTORS)
@pytest.mark.parametrize("aggregator", AGGREGATORS)
@settings(max_examples=3, deadline=None, phases=[Phase.explicit, Phase.generate])
@given(st.data())
def test_empty_clients_behind_the_others_change_nothing(aggregator, selector, data):
    some, more = data.draw(traces(4, 9)), data.draw(traces(1, 4))
    sizes = np.array([data.draw(st.integers(1, 30)) for _ in range(some.n_devices)])
    by_events = data.draw(st.booleans())
    both = AvailabilityTrace.concatenate([some, more])
    padded = np.concatenate([sizes, np.zeros(more.n_devices, np.int64)])
    options = {"selector": SELECTORS[selector], "by_events": by_events}
    plain = TinyWorld(trace=some, samples=sizes, **options).run(AGGREGATORS[aggregator], until=HORIZON)
    other = TinyWorld(trace=both, samples=padded, **options).run(AGGREGATORS[aggregator], until=HORIZON)
    pd.testing.assert_frame_equal(other.tasks, plain.tasks)
    pd.testing.assert_frame_equal(other.server_steps, plain.server_steps)
    assert (other.timeline_hash, other.end_reason) == (plain.timeline_hash, plain.end_reason)
