"""Synchronous rounds: over-commitment, a goal, a reporting deadline (Bonawitz et al., MLSys 2019, section 2.2)."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, isfinite
from typing import Literal, final

import numpy as np
from typing_extensions import override

from evsim.aggregation.base import Aggregator, Process, Server
from evsim.aggregation.pacing import Pacing
from evsim.base.errors import require
from evsim.base.units import FOREVER, Duration

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
        return ceil(round(self.cohort_goal * self.over_commitment, 9))  # 10 x 1.1 invites 11, not 12

    @override
    def run(self, server: Server) -> Process[None]:
        deadline = self.reporting_deadline if self.pacing is None else self.pacing.first()
        while not server.finished:
            clients = yield from server.select_clients(self.invited, minimum=self.minimum_clients)
            if len(clients) == 0:  # everybody left while candidates were queried
                continue
            goal = min(self.cohort_goal, len(clients))
            cohort = server.open_round(goal, FOREVER if deadline is None else server.now + deadline)
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
