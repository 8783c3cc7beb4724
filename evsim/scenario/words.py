"""A scenario in words and numbers, for people."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from evsim.base.units import format_bytes, format_clock, format_duration
from evsim.scenario.dumping import policy_table
from evsim.traces.describe import describe_population

if TYPE_CHECKING:
    from collections.abc import Iterator

    from evsim.scenario import Scenario
    from evsim.scenario.tables import DataTable, Stop
    from evsim.traces.population import Population


_SLOTS = ("aggregation", "selection", "broadcast", "client_rule", "weighting", "merge", "server_optimizer", "executor")


def in_words(scenario: Scenario) -> list[tuple[str, str]]:
    """What and how, a line each."""
    data, model = scenario.data, scenario.model
    return [
        ("scenario", scenario.name),
        ("training", _training(scenario)),
        ("starts", f"at {format_clock(0, scenario.start).split()[-1]}, seed {scenario.seed}"),
        ("stops", stops(scenario.stop)),
        ("clients", _clients(scenario)),
        *(_data(data) if data else []),
        *([("model", policy("model", model)), ("learns", objective(scenario))] if model else []),
        ("cost", _cost(scenario)),
        ("network", policy("network", scenario.network)),
        *((slot.replace("_", " "), policy(slot, getattr(scenario, slot))) for slot in _SLOTS),
        *([("work", policy("work", scenario.work))] if scenario.work else []),
        *(("upload", policy("upload", each)) for each in scenario.upload),
        *([("stays on clients", ", ".join(scenario.keep))] if scenario.keep else []),
        ("evaluation", _evaluation(scenario)),
        *(("actor", policy("actor", each)) for each in scenario.actor),
        *(("listener", policy("listener", each)) for each in scenario.listener),
    ]


def devices_in_words(scenario: Scenario, population: Population) -> list[tuple[str, str]]:
    """The clients' devices: how many are distinct, when they are online, how fast they are."""
    everyone = np.arange(population.availability.n_devices)
    by_the_clock = population.availability.take(everyone, scenario.start)  # its hours are then hours of the day
    return list(describe_population(replace(population, availability=by_the_clock)).items())


def policy(slot: str, value: object) -> str:
    """A policy as its kind and its options, as a scenario file writes them."""
    table = policy_table(slot, value)
    options = ", ".join(f"{key} {each}" for key, each in table.items() if key != "kind")
    return f"{table['kind']}: {options}" if options else str(table["kind"])


def objective(scenario: Scenario) -> str:
    """What is learnt, and which numbers judge it."""
    found, told = scenario.objective, policy_table("objective", scenario.objective)
    options = [f"{key} {each}" for key, each in told.items() if key not in ("kind", "metrics")]
    return f"{': '.join([told['kind'], *[', '.join(options)] * bool(options)])}; judged by {', '.join(found.names)}"


def stops(stop: Stop) -> str:
    """When a run ends."""
    parts = {
        "at {}": stop.goal,
        "after {} server steps": stop.server_steps,
        "after {} rounds": stop.rounds,
        "after {} of virtual time": None if stop.virtual_time is None else format_duration(stop.virtual_time),
        "after {} failed rounds in a row": stop.failed_rounds,
    }
    return ", ".join(text.format(value) for text, value in parts.items() if value is not None)


def _training(scenario: Scenario) -> str:
    return "none: a dry run" if scenario.training == "none" else f"real, {scenario.precision}"


def _clients(scenario: Scenario) -> str:
    table = scenario.population
    count = "as many as the data has" if table.clients is None else f"{table.clients:,}"
    sources = f"availability {_source(table.availability)}, speed {_source(table.speed)}"
    join = "paired or sample" if table.join is None else policy("join", table.join)
    return f"{count}; {sources}, join {join}"


def _data(data: DataTable) -> Iterator[tuple[str, str]]:
    """What clients learn from, how it is dealt, what of it is tested on, and what becomes of it on the way."""
    yield "data", f"{policy('dataset', data.dataset)}; {policy('partition', data.partition)}"
    tested = f"a share of {data.test_fraction:g}, unless the data has a test set of its own"
    if data.client_test_fraction is not None:
        tested += f"; {data.client_test_fraction:g} of each client's own held out"
    yield "tested on", tested
    if data.skew is not None:
        yield "inputs differ", policy("skew", data.skew)
    for each in data.transform:
        when = "in training" if each.draws else "in training and evaluation"
        yield "inputs become", f"{policy('transform', each)}; {when}"
    if data.label_flip is not None:
        yield "attack", f"a share of {data.label_flip.share:g} of the clients trains on flipped labels"


def _source(source: str | dict[str, Any]) -> str:
    return source if isinstance(source, str) else str(source)


def _cost(scenario: Scenario) -> str:
    cost = scenario.cost
    size = "the real model" if cost.model_bytes is None else format_bytes(cost.model_bytes)
    return f"{size}, {cost.sample_scale:g} x the samples, training costs {cost.training_factor:g} forward passes"


def _evaluation(scenario: Scenario) -> str:
    if scenario.training == "none":
        return "none"
    every = scenario.evaluation.every
    return f"every {every.steps} server steps" if every.ms is None else f"every {format_duration(every.ms)}"
