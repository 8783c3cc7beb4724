"""An adaptive deadline: by formula, and in a world whose devices get slower."""

from __future__ import annotations

import numpy as np
import pytest

from evsim import Scenario
from evsim.aggregation.pacing import QuantileDeadline
from evsim.aggregation.synchronous import Synchronous
from evsim.base.errors import PolicyError
from evsim.testing.timeline import TinyWorld
from evsim.traces.availability import AvailabilityTrace
from evsim.traces.speed import DeviceSpeed


def test_the_rule_by_hand() -> None:
    pacing = QuantileDeadline(share=0.75, slack=1.2, growth=2.0, memory=0.25, start=1000, shortest=1, longest=5000)
    assert pacing.first() == 1000
    # three of four reported, after 300, 500 and 700 ms: a quarter of 1000 and three quarters of 1.2 x 700
    assert pacing.next(1000, np.array([500, 300, 700]), 4) == 880
    assert pacing.next(1000, np.array([500, 300]), 4) == 2000  # too few: the time is unknown
    assert pacing.next(4000, np.array([], np.int64), 4) == 5000  # never longer than `longest`


def test_deadlines_settle_where_the_share_reports() -> None:
    """Ten clients of 12, 22, ... 102 ms: eight of ten need 82 ms."""
    speed = DeviceSpeed(
        compute_ms_per_sample=(1 + np.arange(10)) / 3,
        download_kbps=np.full(10, 8000.0),
        upload_kbps=np.full(10, 8000.0),
    )
    pacing = QuantileDeadline(share=0.8, slack=1.0, growth=1.5, memory=0.5, start=10, shortest=1)
    world = TinyWorld(trace=AvailabilityTrace.always(10), speed=speed)
    log = world.run(Synchronous(cohort_goal=10, minimum_cohort=10, pacing=pacing), until=60_000)
    rounds = log.server_steps
    assert rounds["reports"].iloc[0] == 0  # 10 ms are too short for anybody
    late = rounds.iloc[len(rounds) // 2 :]
    assert (late["reports"] >= 8).mean() > 0.4
    assert late.loc[late["reason"] == "deadline", "closed_at"].sub(late["started_at"]).median() == pytest.approx(
        82, abs=15
    )


def test_a_scenario_names_it() -> None:
    scenario = Scenario.load(
        "quickstart",
        overrides=["aggregation.reporting_deadline=", 'aggregation.pacing={ kind="quantile", start="4min" }'],
    )
    assert scenario.aggregation.pacing == QuantileDeadline(start=240_000)


def test_a_fixed_deadline_and_pacing_exclude_each_other() -> None:
    with pytest.raises(PolicyError, match="either reporting_deadline or pacing"):
        Synchronous(cohort_goal=2, reporting_deadline=10, pacing=QuantileDeadline())
