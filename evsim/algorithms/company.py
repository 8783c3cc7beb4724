"""What policies ask of the company they are in, so that each can say what it needs of it."""

from __future__ import annotations

from typing import Any


def may_report_twice(aggregation: Any) -> bool:
    """Whether a server step may hold several reports of one client.

    Not in rounds that discard late reports, which ask a client once, nor where a step is one report. An aggregator of a
    user's own may do it unless it has `late_reports = "discard"`.
    """
    return aggregation.reports_per_step != 1 and getattr(aggregation, "late_reports", "keep") == "keep"


def in_rounds(aggregation: Any) -> bool:
    """Whether a step is a round, so that some of its reports are fresh; a buffer may hold stale ones only."""
    return hasattr(aggregation, "late_reports")


def never_stale(aggregation: Any) -> bool:
    """Whether no report can be stale: rounds that discard late ones."""
    return getattr(aggregation, "late_reports", "keep") == "discard"


def name_of(policy: object) -> str:
    """How a message names a policy."""
    return type(policy).__name__
