"""A scenario in words and numbers, for people."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from evsim.units import format_bytes, format_clock, format_duration

if TYPE_CHECKING:
    from evsim.scenario import Scenario
    from evsim.scenario.tables import Stop


def in_words(scenario: Scenario) -> list[tuple[str, str]]:
    """What and how, a line each."""
    slots = ("selection", "broadcast", "client_rule", "weighting", "merge", "server_optimizer", "executor")
    return [
        ("scenario", scenario.name),
        ("training", _training(scenario)),
        ("starts", f"{format_clock(0, scenario.start).split()[-1]}, seed {scenario.seed}"),
        ("stops", stops(scenario.stop)),
        ("clients", _clients(scenario)),
        *([("data", f"{policy(scenario.data.dataset)}, {policy(scenario.data.partition)}")] if scenario.data else []),
        *([("model", policy(scenario.model))] if scenario.model else []),
        ("cost", _cost(scenario)),
        ("aggregation", policy(scenario.aggregation)),
        *((slot.replace("_", " "), policy(getattr(scenario, slot))) for slot in slots),
        *([("upload", " then ".join(policy(each) for each in scenario.upload))] if scenario.upload else []),
        ("evaluation", _evaluation(scenario)),
    ]


def policy(value: object) -> str:
    """A frozen policy as its class and its fields."""
    return repr(value)


def stops(stop: Stop) -> str:
    """When a run ends."""
    parts = {
        "at accuracy {}": stop.target_accuracy,
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
    return f"{count}; availability {_source(table.availability)}, speed {_source(table.speed)}, {policy(table.join)}"


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
