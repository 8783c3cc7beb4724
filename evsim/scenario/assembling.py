"""From layers of tables to the values of a scenario, with every problem at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import partial
from pathlib import Path
from typing import Any

from evsim.algorithms.compositions import COMPOSITIONS
from evsim.base import registry
from evsim.base.caveat import Caveat
from evsim.base.errors import ScenarioError, report, suggest
from evsim.scenario import sources, together
from evsim.scenario.checking import Checker
from evsim.scenario.dumping import write_value
from evsim.scenario.hints import fields_of, hints_of
from evsim.scenario.layers import FILE_KEYS, Drop, Layer, Tables, drops, fail, merge, origin_of, origins, take_out
from evsim.scenario.tables import PopulationTable

#: What a scenario means when it says nothing.
DEFAULTS: Tables = {
    "network": {"kind": "independent"},
    "selection": {"kind": "uniform"},
    "broadcast": {"kind": "full"},
    "weighting": {"kind": "samples"},
    "merge": {"kind": "mean"},
    "server_optimizer": {"kind": "sgd"},
    "executor": {"kind": "auto"},
    "objective": {"kind": "classification"},
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
    stacked, dropped = _stack(layers, folder)
    stated = {"name": name, **stacked}
    defaults = merge(DEFAULTS, DRY_DEFAULTS) if stated.get("training") == "none" else DEFAULTS
    said = origins(layers)
    hints = {each.at: str(each) for each in dropped}
    checker = Checker(partial(origin_of, said), folder, top={*fields_of(cls), *FILE_KEYS}, dropped=hints)
    values = checker.values(cls, merge(defaults, stated), "")
    everything = _with_defaults(cls, values)
    found = together.problems(everything)
    if isinstance(everything["population"], PopulationTable):
        places = partial(_places, said, folder)
        found += sources.problems(everything["population"], places)
    for problem in found:
        checker.add(problem.where, problem.given, problem.expected, problem.hint)
    if checker.problems:
        raise ScenarioError(report(checker.problems))
    return {**values, "notes": tuple(_notes(dropped, everything))}


def _with_defaults(cls: type, values: Mapping[str, Any]) -> Tables:
    """What the scenario would hold, as far as it is known."""
    plain = {each.name: each.default for each in fields(cls) if each.default is not MISSING}
    made = {each.name: each.default_factory() for each in fields(cls) if each.default_factory is not MISSING}
    return {**plain, **made, **values}


def _stack(layers: Sequence[Layer], folder: Path) -> tuple[Tables, list[Drop]]:
    """All layers merged; the algorithm that is named last lies directly under the layer that names it.

    Also what went with kinds that were replaced.
    """
    naming = _naming(layers)
    merged: Tables = {}
    dropped: list[Drop] = []
    for layer in layers:
        merged = take_out(merged, layer)
        if layer is naming:
            merged = _lay(merged, _composition(layer), folder)
        dropped += drops(merged, layer.tables)
        merged = merge(merged, layer.tables)
    return merged, dropped


def _notes(dropped: Sequence[Drop], values: Mapping[str, Any]) -> Iterator[Caveat]:
    """Options that the new kind has too, and that silently became its defaults."""
    for drop in {each.at: each for each in dropped}.values():
        policy = _at(values, drop.at)
        if not is_dataclass(policy):
            continue
        hints = hints_of(type(policy))
        for key, field in fields_of(type(policy)).items():
            if key not in drop.options:
                continue
            now = write_value(hints[field.name], getattr(policy, field.name), key)
            same_passes = key == "epochs" and drop.options[key] == 1  # what no epochs means, too
            if now != drop.options[key] and getattr(policy, field.name) == _default(field) and not same_passes:
                yield Caveat(
                    "dropped_option",
                    f"the options of kind {drop.old!r} were dropped with it: {drop.at}.{key} is back to its default",
                    f"{drop.options[key]!r} was inherited, kind {drop.new!r} runs with {now!r}",
                    f"say {drop.at}.{key} beside the kind",
                )


def _places(said: Mapping[str, str], folder: Path, key: str) -> list[Path]:
    """The folders in which a key's relative path is looked for: an override's begins in the working directory."""
    return [Path.cwd(), folder] if origin_of(said, key).startswith("-o ") else [folder]


def _at(values: Mapping[str, Any], at: str) -> Any:
    """The value at a dotted key; its first part is a field of a scenario."""
    first, *rest = at.split(".")
    found = values.get(first)
    for name in rest:
        found = getattr(found, name, None)
    return found


def _default(field: Field[Any]) -> object:
    return field.default if field.default_factory is MISSING else field.default_factory()


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
