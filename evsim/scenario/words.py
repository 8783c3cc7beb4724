"""A scenario in words and numbers, for people."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from evsim.base.units import format_bytes, format_clock, format_duration
from evsim.scenario.dumping import policy_table
from evsim.traces.describe import describe_population

if TYPE_CHECKING:
    from evsim.scenario import Scenario
    from evsim.scenario.tables import Stop
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
        *([("data", f"{policy('dataset', data.dataset)}; {policy('partition', data.partition)}")] if data else []),
        *([("model", policy("model", model)), ("learns", objective(scenario))] if model else []),
        ("cost", _cost(scenario)),
        *((slot.replace("_", " "), policy(slot, getattr(scenario, slot))) for slot in _SLOTS),
        *(("upload", policy("upload", each)) for each in scenario.upload),
        ("evaluation", _evaluation(scenario)),
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
