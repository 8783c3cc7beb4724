"""From layers of tables to the values of a scenario, with every problem at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from functools import partial
from pathlib import Path
from typing import Any

from evsim.algorithms.compositions import COMPOSITIONS
from evsim.base import registry
from evsim.base.errors import ScenarioError, report, suggest
from evsim.scenario import sources, together
from evsim.scenario.checking import Checker
from evsim.scenario.hints import fields_of
from evsim.scenario.layers import FILE_KEYS, Layer, Tables, fail, merge, origin_of, origins, take_out
from evsim.scenario.tables import PopulationTable

#: What a scenario means when it says nothing.
DEFAULTS: Tables = {
    "selection": {"kind": "uniform"},
    "broadcast": {"kind": "full"},
    "weighting": {"kind": "samples"},
    "merge": {"kind": "mean"},
    "server_optimizer": {"kind": "sgd"},
    "executor": {"kind": "auto"},
}
#: A dry run needs a client rule only to price its work.
DRY_DEFAULTS: Tables = {"client_rule": {"kind": "sgd", "learning_rate": 0.1, "batch_size": 20}}


def assemble(cls: type, layers: Sequence[Layer], *, name: str, folder: Path) -> Tables:
    """The values of a scenario's fields.

    Args:
        cls: the class of scenarios.
        layers: tables, the first at the bottom.
        name: of the scenario if it has none.
        folder: where files named by a kind are looked for.

    Raises:
        ScenarioError: with every problem found.
    """
    stated = {"name": name, **_stack(layers, folder)}
    defaults = merge(DEFAULTS, DRY_DEFAULTS) if stated.get("training") == "none" else DEFAULTS
    said = origins(layers)
    checker = Checker(partial(origin_of, said), folder, top={*fields_of(cls), *FILE_KEYS})
    values = checker.values(cls, merge(defaults, stated), "")
    everything = _with_defaults(cls, values)
    found = together.problems(everything)
    if isinstance(everything["population"], PopulationTable):
        found += sources.problems(everything["population"], folder)
    for problem in found:
        checker.add(problem.where, problem.given, problem.expected, problem.hint)
    if checker.problems:
        raise ScenarioError(report(checker.problems))
    return values


def _with_defaults(cls: type, values: Mapping[str, Any]) -> Tables:
    """What the scenario would hold, as far as it is known."""
    plain = {each.name: each.default for each in fields(cls) if each.default is not MISSING}
    made = {each.name: each.default_factory() for each in fields(cls) if each.default_factory is not MISSING}
    return {**plain, **made, **values}


def _stack(layers: Sequence[Layer], folder: Path) -> Tables:
    """All layers merged; the algorithm that is named last lies directly under the layer that names it."""
    naming = _naming(layers)
    merged: Tables = {}
    for layer in layers:
        merged = take_out(merged, layer)
        if layer is naming:
            merged = _lay(merged, _composition(layer), folder)
        merged = merge(merged, layer.tables)
    return merged


def _naming(layers: Sequence[Layer]) -> Layer | None:
    """The layer whose algorithm counts: the last one that names one, if none above unsets it."""
    found = None
    for layer in layers:
        if "algorithm" in layer.tables:
            found = layer if isinstance(layer.tables["algorithm"], str) else None
        elif "algorithm" in layer.unset:
            found = None
    return found


def _composition(layer: Layer) -> Mapping[str, Any]:
    name = layer.tables["algorithm"]
    if name not in COMPOSITIONS:
        overridden = layer.origin.startswith("-o ")
        where = f"{layer.origin}: algorithm" if layer.origin and not overridden else layer.origin or "algorithm"
        raise fail(where, f"unknown algorithm {name!r}", "", suggest(name, COMPOSITIONS))
    return COMPOSITIONS[name].tables


def _lay(below: Tables, tables: Mapping[str, Any], folder: Path) -> Tables:
    """Lay a composition over tables; the local work they state (learning rate, batch size, epochs) stays."""
    merged = merge(below, tables)
    old, new = below.get("client_rule"), merged.get("client_rule")
    if isinstance(old, Mapping) and isinstance(new, Mapping) and new.get("kind") != old.get("kind"):
        rule = registry.load("client_rule", new["kind"], folder)
        known = {each.name for each in fields(rule)}
        merged["client_rule"] = {key: value for key, value in old.items() if key in known} | dict(new)
    return merged
