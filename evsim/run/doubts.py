"""What runs, but cannot mean what it seems to: what only open traces, data and models can tell."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from difflib import get_close_matches
from typing import TYPE_CHECKING

import numpy as np

from evsim.aggregation.buffered import Buffered
from evsim.aggregation.synchronous import Synchronous
from evsim.algorithms.base import PartialWork, total_bytes
from evsim.base import registry
from evsim.base.caveat import Caveat
from evsim.base.units import MS_PER_DAY, MS_PER_HOUR, format_bytes, format_duration
from evsim.scenario.listening import Listening
from evsim.timeline.audience import FACTS
from evsim.traces.caveats import availability_caveats, period_caveats

if TYPE_CHECKING:
    from evsim.run.assembly import Opened
    from evsim.scenario import Scenario

_FAR = 10  # times: a charged model is another one than the trained
_LOOKS = 200  # instants at which the clients online are counted
_ENOUGH_CLIENTS = 10_000  # of whom it is counted who is online; of more clients some are looked at
_EVER = 10 * 365 * MS_PER_DAY  # how far ahead is looked where a run has no horizon
_MOST = 0.5  # of the time, or of the clients
_FEW = 0.01  # of the clients
_MANY = 20_000  # evaluations of a run
_ALIKE = 0.85  # names: "dispatchd" and "dispatched", not "start" and "started"


def doubts(scenario: Scenario, opened: Opened) -> tuple[Caveat, ...]:
    """Every caveat that the opened parts of a scenario give reason for."""
    return tuple(caveat for check in _CHECKS for caveat in check(scenario, opened))


def _devices(scenario: Scenario, opened: Opened) -> Iterator[Caveat]:
    """What the traces say for themselves."""
    trace, horizon = opened.population.availability, scenario.stop.virtual_time
    yield from opened.population.notes
    yield from availability_caveats(trace, 0, _EVER if horizon is None else horizon)
    if horizon is not None:
        yield from period_caveats(trace, horizon)


def _few_online(scenario: Scenario, opened: Opened) -> Iterator[Caveat]:
    """Where everybody online is asked, a selector has no choice and over-commitment no reserve."""
    wanted, key = _wanted(scenario)
    trace = opened.population.availability
    usable = np.flatnonzero(opened.samples > 0)
    if not wanted or not len(usable) or wanted == 1:
        return
    horizon = scenario.stop.virtual_time or 7 * MS_PER_DAY
    looks = np.linspace(0, horizon, min(_LOOKS, horizon // MS_PER_HOUR + 2), endpoint=False).astype(np.int64)
    some = usable[:: -(-len(usable) // _ENOUGH_CLIENTS)]  # of a large population some say enough
    online = trace.count_online(some, looks) * (len(usable) / len(some))
    share = float((online < wanted).mean())
    if share > _MOST and online.any():
        yield Caveat(
            "few_online",
            "mostly fewer clients are online than the server wants at work: every one of them is asked, so that a "
            "selector has no choice, and a round waits for min(cohort_goal, invited) of them",
            f"{online.mean():.0f} clients online on average, {wanted} wanted, {share:.0%} of the time fewer",
            f"more clients, or a smaller {key}",
        )


def _too_long(scenario: Scenario, opened: Opened) -> Iterator[Caveat]:
    """Tasks that the server never waits for: every try of such a client is in vain."""
    aggregation, rule = scenario.aggregation, scenario.client_rule
    limit, key, most = None, "", _FEW
    if isinstance(aggregation, Buffered):
        limit, key = aggregation.task_timeout, "task_timeout"
    elif isinstance(aggregation, Synchronous):
        limit, key, most = aggregation.reporting_deadline, "reporting_deadline", _MOST
    if limit is None or (isinstance(rule, PartialWork) and rule.partial_work):
        return
    share = float((opened.task_ms > limit).mean()) if len(opened.task_ms) else 0.0
    if share > most:
        likely = int(np.quantile(opened.task_ms, 0.99))
        yield Caveat(
            "too_long",
            f"tasks last longer than aggregation.{key}: the work of such a client is always lost, and the model never "
            "learns from it",
            f"first tasks of {share:.0%} of the clients last longer than {format_duration(limit)}, the slowest 1% "
            f"at least {format_duration(likely)}",
            f"a longer aggregation.{key}, less work (client_rule.epochs, cost.sample_scale), or a smaller model",
        )


def _many_evaluations(scenario: Scenario, opened: Opened) -> Iterator[Caveat]:
    every, horizon = scenario.evaluation.every_ms, scenario.stop.virtual_time
    if opened.model is not None and every and horizon and horizon // every > _MANY:
        yield Caveat(
            "many_evaluations",
            "the model is evaluated so often that evaluations may take longer than training",
            f"up to {horizon // every:,} evaluations, one each {format_duration(every)}",
            "a larger evaluation.every, such as a hundredth of the time to the target",
        )


def _unheard(scenario: Scenario, _opened: Opened) -> Iterator[Caveat]:
    """Methods of a listener that nobody calls, and whose names look like those that are told."""
    for spec in scenario.listener:
        cls = registry.load("listener", spec.target) if isinstance(spec, Listening) else None
        if not isinstance(cls, type):
            continue
        own = [name for name in dir(cls) if not name.startswith("_") and callable(getattr(cls, name))]
        for name in sorted(set(own) - set(FACTS)):
            meant = get_close_matches(name, set(FACTS) - set(own), n=1, cutoff=_ALIKE)
            if meant:
                yield Caveat(
                    "unheard",
                    "a listener has a method that is never called, and whose name looks like one that is",
                    f"{cls.__name__}.{name}",
                    f"call it {meant[0]}; if it is meant for something else, another name",
                )


def _wanted(scenario: Scenario) -> tuple[int, str]:
    """How many clients the server wants at work at a time, and the key that says so."""
    aggregation = scenario.aggregation
    if isinstance(aggregation, Synchronous):
        return aggregation.invited, "aggregation.cohort_goal"
    return (aggregation.concurrency, "aggregation.concurrency") if isinstance(aggregation, Buffered) else (0, "")


def _shared_samples(_scenario: Scenario, opened: Opened) -> Iterator[Caveat]:
    data = opened.data
    if data is None:
        return
    sample = data.index if data.sources is None else data.sources[data.index]
    if np.bincount(sample).max(initial=0) <= 1:
        return
    owner, count = np.repeat(np.arange(data.n_clients), data.sizes), np.int64(sample.max() + 1)
    pairs = np.unique(owner * count + sample)  # a client's own repetitions count once
    distinct = len(np.unique(pairs % count))
    if len(pairs) > distinct:
        yield Caveat(
            "shared_samples",
            "the same samples are dealt to several clients: together they know less than their number suggests, and "
            "an unseen client is no new one",
            f"{distinct:,} distinct samples, each with {len(pairs) / distinct:.1f} clients on average",
            "fewer clients or samples per client, or a larger data set",
        )


def _held_out(scenario: Scenario, opened: Opened) -> Iterator[Caveat]:
    """What evaluations on clients are of: samples seen in training, or held-out ones that not everybody has."""
    data = opened.data
    if data is None or not scenario.evaluation.per_client:
        return
    if data.held is None:
        yield Caveat(
            "seen_in_training",
            "clients are evaluated on the samples that they train on",
            "evaluation.per_client without data.client_test_fraction",
            "set data.client_test_fraction",
        )
        return
    held = np.diff(data.held.offsets)
    having = (held > 0) | (data.sizes > 0)
    lacking = int((having & (held == 0)).sum()), int((having & (data.sizes == 0)).sum())
    if any(lacking):
        yield Caveat(
            "held_out",
            "not every client with data has samples to train on and others to be evaluated on",
            f"of {int(having.sum())} clients {lacking[0]} have none held out, {lacking[1]} have only such",
            "more samples per client, or another data.client_test_fraction",
        )


def _charged_size(scenario: Scenario, opened: Opened) -> Iterator[Caveat]:
    """A model that stands for a bigger one should stand for its work, too."""
    cost, true = scenario.cost, total_bytes(opened.wires)
    if opened.model is None or cost.model_bytes is None or cost.sample_scale != 1:
        return
    ratio = max(cost.model_bytes / true, true / cost.model_bytes)
    if ratio >= _FAR:
        yield Caveat(
            "charged_size",
            f"links carry a model of {format_bytes(cost.model_bytes)}, processors train one of {format_bytes(true)}: "
            "transfers and computing are those of different models",
            f"a factor of {ratio:,.0f}, with cost.sample_scale = 1",
            "set cost.sample_scale to the work of the model that is charged, or leave cost.model_bytes out",
        )


_CHECKS: tuple[Callable[[Scenario, Opened], Iterator[Caveat]], ...] = (
    _unheard,
    _devices,
    _few_online,
    _too_long,
    _many_evaluations,
    _shared_samples,
    _held_out,
    _charged_size,
)
