"""Every aggregator under the contract that plug-in authors inherit."""

from __future__ import annotations

from evsim.aggregation.base import Aggregator
from evsim.aggregation.buffered import Buffered
from evsim.aggregation.synchronous import Synchronous
from evsim.testing.aggregators import AggregatorContract


class TestSynchronous(AggregatorContract):
    def aggregator(self) -> Aggregator:
        return Synchronous(cohort_goal=3, over_commitment=1.4, reporting_deadline=200, minimum_cohort=2)


class TestSynchronousThatKeepsLateReports(AggregatorContract):
    def aggregator(self) -> Aggregator:
        return Synchronous(
            cohort_goal=2,
            over_commitment=2.0,
            reporting_deadline=100,
            minimum_cohort=1,
            late_reports="keep",
            max_staleness=3,
        )


class TestBuffered(AggregatorContract):
    def aggregator(self) -> Aggregator:
        return Buffered(concurrency=4, buffer_size=2, max_staleness=3, task_timeout=500)
