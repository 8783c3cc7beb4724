"""Synchronous rounds: over-commitment, a goal, a reporting deadline (Bonawitz et al., MLSys 2019, section 2.2)."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING, Any, Literal, final

import numpy as np
from typing_extensions import override

from evsim.aggregation.base import Aggregator, Process, Server
from evsim.aggregation.pacing import Pacing
from evsim.base.caveat import Caveat
from evsim.base.counts import ceil_count
from evsim.base.errors import require
from evsim.base.units import FOREVER, Duration

if TYPE_CHECKING:
    from collections.abc import Iterator

_NEARLY_ONE = 1.05  # an over-commitment below that leaves nobody to spare
_MOST_INVITED = 1_000_000  # times the goal


@final
@dataclass(frozen=True, kw_only=True)
class Synchronous(Aggregator):
    """Invite more clients than needed, take the first reports, close at the goal or at the deadline.

    Attributes:
        cohort_goal: reports wanted per round (K).
        over_commitment: clients invited per report wanted.
        reporting_deadline: latest close after dispatch, ms; None waits until every task ended or is known to be lost.
        minimum_cohort: idle clients needed to start a round; default: all of `cohort_goal`.
        minimum_reports: fewer reports at the close and the round fails; default 1.
        on_close: "run": stragglers work on to their own end and stay busy; "abort": they are stopped.
        late_reports: "discard", or "keep": a report that arrives after the close joins the next step as a stale update;
            it never counts towards goal or minimum. Choose a `weighting` (or merge) that discounts staleness.
        max_staleness: kept reports that are staler are not used.
        short_cohort: the goal of a round that finds fewer clients than it would invite: "whole": min(`cohort_goal`,
            clients), so that few clients must all report; "share": ceil(clients / `over_commitment`), so that there
            are clients to spare as in a full round, but at least `minimum_reports`.
        pacing: chooses each round's deadline instead of a fixed `reporting_deadline`; unset an inherited one.
    """

    cohort_goal: int
    over_commitment: float = 1.0
    reporting_deadline: Duration | None = None
    minimum_cohort: int | None = None
    minimum_reports: int = 1
    on_close: Literal["run", "abort"] = "run"
    late_reports: Literal["discard", "keep"] = "discard"
    max_staleness: int | None = None
    short_cohort: Literal["whole", "share"] = "whole"
    pacing: Pacing | None = None

    def __post_init__(self) -> None:
        require(self.cohort_goal >= 1, "cohort_goal must be >= 1", cohort_goal=self.cohort_goal)
        require(
            isfinite(self.over_commitment) and self.over_commitment >= 1,
            "over_commitment must be >= 1",
            over_commitment=self.over_commitment,
        )
        require(
            self.over_commitment <= _MOST_INVITED,
            f"over_commitment is a factor on cohort_goal, and must be <= {_MOST_INVITED}",
            over_commitment=self.over_commitment,
        )
        deadline = self.reporting_deadline
        require(deadline is None or deadline > 0, "reporting_deadline must be > 0", reporting_deadline=deadline)
        require(deadline is None or self.pacing is None, "give either reporting_deadline or pacing")
        require(
            1 <= self.minimum_reports <= self.minimum_clients <= self.cohort_goal,
            "1 <= minimum_reports <= minimum_cohort <= cohort_goal must hold",
            minimum_reports=self.minimum_reports,
            minimum_cohort=self.minimum_clients,
            cohort_goal=self.cohort_goal,
        )

        require(
            self.max_staleness is None or (self.max_staleness >= 1 and self.late_reports == "keep"),
            'max_staleness must be >= 1 and needs late_reports = "keep"',
            max_staleness=self.max_staleness,
            late_reports=self.late_reports,
        )

    @property
    @override
    def minimum_clients(self) -> int:
        return self.cohort_goal if self.minimum_cohort is None else self.minimum_cohort

    @property
    @override
    def reports_per_step(self) -> int:
        return self.cohort_goal

    @property
    def invited(self) -> int:
        """Clients invited when enough are idle: ceil(K x over-commitment)."""
        return ceil_count(self.over_commitment, self.cohort_goal)

    def goal(self, invited: int) -> int:
        """Reports that close a round of so many clients."""
        wanted = self.cohort_goal
        if self.short_cohort == "share":
            wanted = min(wanted, max(self.minimum_reports, ceil_count(1 / self.over_commitment, invited)))
        return min(wanted, invited)

    @override
    def caveats(self, scenario: Any) -> Iterator[Caveat]:
        limited = self.reporting_deadline is not None or self.pacing is not None
        if scenario.population.availability != "always" and not limited and self.over_commitment < _NEARLY_ONE:
            yield Caveat(
                "no_deadline",
                "a round without a deadline and without clients to spare waits until its slowest client reported, or "
                "came back after it was lost, which can take hours",
                f"over_commitment = {self.over_commitment:g}",
                "set aggregation.reporting_deadline, or over_commitment to 1.3",
            )

    @override
    def run(self, server: Server) -> Process[None]:
        deadline = self.reporting_deadline if self.pacing is None else self.pacing.first()
        while not server.finished:
            clients = yield from server.select_clients(self.invited, minimum=self.minimum_clients)
            if len(clients) == 0:  # everybody left while candidates were queried
                continue
            goal = self.goal(len(clients))
            closes_by = FOREVER if deadline is None else server.now + deadline
            cohort = server.open_round(goal, closes_by, self.cohort_goal)
            server.give(cohort, clients)
            reason = yield from server.collect(cohort)
            server.close(cohort, reason, keep_late=self.late_reports == "keep")
            if self.on_close == "abort":
                server.stop(server.stragglers(cohort))
            if self.pacing is not None and deadline is not None:
                deadline = self.pacing.next(deadline, server.durations(cohort.reports), len(clients))
            reports = cohort.reports[:goal]
            if len(reports) >= self.minimum_reports:
                late = server.take_late(self.max_staleness)
                server.apply(cohort, np.concatenate([reports, late]), reason)
            else:
                server.fail(cohort, reports, reason)
