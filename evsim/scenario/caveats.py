"""What runs, but not as one may think, or without what theory promises: what a scenario alone can tell.

What can be told once its traces, data and model are open is in `evsim.run.doubts`; what a policy knows of itself it
says itself (`Policy.caveats`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from evsim.aggregation.synchronous import Synchronous
from evsim.algorithms.dp import DpMean
from evsim.algorithms.privacy import Sampling
from evsim.base.caveat import Caveat
from evsim.base.policy import policies
from evsim.selection.forecast import NoForecast
from evsim.selection.uniform import Uniform

if TYPE_CHECKING:
    from evsim.scenario import Scenario


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


def _unasked(scenario: Scenario) -> Iterator[Caveat]:
    """A predictor beside a selector of evsim's that never asks it."""
    selector = scenario.selection
    own = type(selector).__module__.startswith("evsim.") and not selector.forecasts
    if own and selector.predictor is not None and not isinstance(selector.predictor, NoForecast):
        yield Caveat(
            "predictor_unused",
            "the selector asks for no forecasts, so the predictor changes nothing",
            f"selection {type(selector).__name__}, predictor {type(selector.predictor).__name__}",
            "use selection.kind = refl_ips or longest_stay, or one of your own",
        )


def _kept(scenario: Scenario) -> Iterator[Caveat]:
    if scenario.keep and not scenario.evaluation.per_client:
        yield Caveat(
            "kept_unseen",
            "leaves stay on the clients, and only the global model is evaluated, in which they are as they were built",
            f"keep = {list(scenario.keep)}",
            "set evaluation.per_client = true, and look at the metrics that begin with personal_",
        )


_CHECKS: tuple[Callable[[Scenario], Iterator[Caveat]], ...] = (_privacy, _kept, _unasked)
