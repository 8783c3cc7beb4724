"""What runs, but not as one may think, or without what theory promises: what a scenario alone can tell.

What can be told once its traces, data and model are open is in `evsim.run.doubts`; what a policy knows of itself it
says itself (`Policy.caveats`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from evsim.aggregation.buffered import Buffered
from evsim.aggregation.synchronous import Synchronous
from evsim.algorithms.dp import DpMean
from evsim.algorithms.privacy import Sampling
from evsim.base.caveat import Caveat
from evsim.base.policy import policies
from evsim.selection.uniform import Uniform

if TYPE_CHECKING:
    from evsim.scenario import Scenario

_NEARLY_ONE = 1.05  # an over-commitment below that leaves nobody to spare


def caveats(scenario: Scenario) -> list[Caveat]:
    """Every caveat of a scenario; what cannot work at all is a problem and no caveat."""
    own = [caveat for check in _CHECKS for caveat in check(scenario)]
    said = [caveat for policy in policies(scenario) for caveat in policy.caveats(scenario)]
    return list(dict.fromkeys((*scenario.notes, *own, *said)))


def sampling(scenario: Scenario, n_clients: int) -> Sampling:
    """How cohorts come about, as the accountant of privacy wants to know it."""
    aggregation = scenario.aggregation
    rounds = aggregation if isinstance(aggregation, Synchronous) else None
    return Sampling(
        n_clients=n_clients,
        cohort=aggregation.reports_per_step,
        always_available=scenario.population.availability == "always",
        uniform=isinstance(scenario.selection, Uniform),
        synchronous=rounds is not None,
        over_commitment=1.0 if rounds is None else rounds.over_commitment,
        deadline=rounds is not None and (rounds.reporting_deadline is not None or rounds.pacing is not None),
    )


# -- lost devices ------------------------------------------------------------------------------------------------------


def _no_task_timeout(scenario: Scenario) -> Iterator[Caveat]:
    """A buffer has no default timeout: which one is fair depends on the tasks, and any would change what a run is."""
    aggregation = scenario.aggregation
    if isinstance(aggregation, Buffered) and aggregation.task_timeout is None and _devices_leave(scenario):
        yield Caveat(
            "no_task_timeout",
            "a device that leaves holds its slot until it comes back, often for hours: fewer clients are at work than "
            "concurrency says, which slows this arm against rounds with a deadline",
            f"concurrency = {aggregation.concurrency}, no task_timeout",
            "set aggregation.task_timeout to a few times the duration of a slow task, such as the deadline of the "
            "rounds it is compared with",
        )


def _no_deadline(scenario: Scenario) -> Iterator[Caveat]:
    aggregation = scenario.aggregation
    if not isinstance(aggregation, Synchronous) or not _devices_leave(scenario):
        return
    limited = aggregation.reporting_deadline is not None or aggregation.pacing is not None
    if not limited and aggregation.over_commitment < _NEARLY_ONE:
        yield Caveat(
            "no_deadline",
            "a round without a deadline and without clients to spare waits until its slowest client reported, or came "
            "back after it was lost, which can take hours",
            f"over_commitment = {aggregation.over_commitment:g}",
            "set aggregation.reporting_deadline, or over_commitment to 1.3",
        )


def _devices_leave(scenario: Scenario) -> bool:
    return scenario.population.availability != "always"


def _privacy(scenario: Scenario) -> Iterator[Caveat]:
    if not isinstance(scenario.merge, DpMean):
        return
    reasons = sampling(scenario, scenario.population.clients or 0).reasons_against_amplification
    if reasons:
        yield Caveat(
            "no_amplification",
            "privacy is not amplified by sampling, every server step counts in full",
            f"q = 1: {', '.join(reasons)}",
            "report the epsilon without amplification, as the manifest does",
        )


_CHECKS: tuple[Callable[[Scenario], Iterator[Caveat]], ...] = (_no_task_timeout, _no_deadline, _privacy)
