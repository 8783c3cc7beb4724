"""What runs, but not as one may think, or without what theory promises: said by `evsim check` and before a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from evsim.aggregation.buffered import Buffered
from evsim.aggregation.synchronous import Synchronous
from evsim.algorithms.asynchronous import BufferMean, Mixing
from evsim.algorithms.dp import DpMean
from evsim.algorithms.privacy import Sampling
from evsim.algorithms.refl import Refl
from evsim.algorithms.scaffold import ScaffoldSgd
from evsim.algorithms.staleness import ExponentialStaleness, HingeStaleness, PolynomialStaleness
from evsim.selection.uniform import Uniform

if TYPE_CHECKING:
    from evsim.scenario import Scenario


def caveats(scenario: Scenario) -> list[str]:
    """Every caveat of a scenario, a sentence each; what cannot work at all is a problem and no caveat."""
    return [caveat for check in _CHECKS for caveat in check(scenario)]


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


def _scaffold(scenario: Scenario) -> Iterator[str]:
    if isinstance(scenario.client_rule, ScaffoldSgd) and not isinstance(scenario.aggregation, Synchronous):
        yield (
            "SCAFFOLD's analysis assumes that the clients of a step start from the same model; under this aggregation "
            "they do not, so its guarantee does not carry over"
        )


def _privacy(scenario: Scenario) -> Iterator[str]:
    if not isinstance(scenario.merge, DpMean):
        return
    reasons = sampling(scenario, scenario.population.clients or 0).reasons_against_amplification
    if reasons:
        yield f"privacy is not amplified by sampling, every server step counts in full (q = 1): {', '.join(reasons)}"


def _buffer_mean(scenario: Scenario) -> Iterator[str]:
    aggregation = scenario.aggregation
    if not isinstance(scenario.merge, BufferMean):
        return
    if isinstance(aggregation, Synchronous):
        yield (
            f"merge buffer_mean divides by cohort_goal = {aggregation.cohort_goal}, however few reports came; "
            'it is FedBuff\'s, made for aggregation kind = "buffered"'
        )
    if isinstance(aggregation, Buffered) and aggregation.period is not None:
        size, most = aggregation.buffer_size, aggregation.concurrency
        if size > most:
            yield (
                f"merge buffer_mean divides by buffer_size = {size}, however few reports a period brought, and with "
                f"concurrency = {most} they may be far fewer: steps come out too small; merge mean divides by the "
                "weights of those that came"
            )


def _mixing(scenario: Scenario) -> Iterator[str]:
    aggregation = scenario.aggregation
    if not isinstance(scenario.merge, Mixing):
        return
    if isinstance(aggregation, Synchronous):
        yield 'merge mixing is FedAsync\'s, made for aggregation kind = "buffered" with buffer_size = 1, not for rounds'
    elif aggregation.reports_per_step > 1:
        yield (
            f"FedAsync steps with every single report, buffer_size = 1; in buffers of {aggregation.reports_per_step} "
            "merge mixing takes them in one after the other, and their staleness does not count each other"
        )


def _nothing_stale(scenario: Scenario) -> Iterator[str]:
    """Methods for stale reports in rounds that have none."""
    aggregation = scenario.aggregation
    if not isinstance(aggregation, Synchronous) or aggregation.late_reports == "keep":
        return
    without = 'without aggregation.late_reports = "keep" no report of a round is stale'
    if isinstance(scenario.merge, Refl):
        yield f"{without}: merge refl is then the plain mean of the reports, without weights"
    if isinstance(scenario.weighting, _DISCOUNTS) and not isinstance(scenario.merge, Refl):
        yield f"{without}: the weighting has nothing to discount"


_DISCOUNTS = (PolynomialStaleness, HingeStaleness, ExponentialStaleness)
_CHECKS: tuple[Callable[[Scenario], Iterator[str]], ...] = (
    _scaffold,
    _privacy,
    _buffer_mean,
    _mixing,
    _nothing_stale,
)
