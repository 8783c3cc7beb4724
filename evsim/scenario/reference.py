"""Writes ``docs/scenario_reference.md`` from the classes that scenario files are checked against.

``python -m evsim.scenario.reference``, or ``make docs``, rewrites the page.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

from evsim.algorithms.compositions import COMPOSITIONS
from evsim.base import registry
from evsim.scenario import Scenario
from evsim.scenario.assembling import DEFAULTS
from evsim.scenario.checking import slots_of
from evsim.scenario.docstrings import meanings, summary
from evsim.scenario.dumping import write_value
from evsim.scenario.hints import (
    describe,
    fields_of,
    hints_of,
    is_policy,
    is_table,
    item_of,
    members,
    plain_class,
    says_none,
)
from evsim.traces.laws import LAWS
from evsim.traces.synthetic import SyntheticAvailability, SyntheticSpeed

_HEAD = """# Scenario reference

Every table and key of a scenario file, with type, default and meaning. This page is generated from the code by
`make docs`.

A scenario is a TOML file. `extends = "other.toml"` (a path relative to the file, or the name of a bundled scenario)
takes over the tables of another one, all but its name; tables are merged deeply, and a policy whose `kind` changes is
replaced. Beside it, `unset = ["aggregation.reporting_deadline"]` first returns keys or whole tables that were taken
over to their defaults; a key that the other files do not set is an error. Both stand above the first `[table]`.
Relative paths are looked up beside the file that is run. On the command line `-o section.key=value` sets a key (the
value is TOML, a bare word is text; a path begins in the working directory) and `-o section.key=` returns it to its
default. A policy without options may be written as its kind alone: `join = "sample"`. Instead of a listed kind,
`"module:Class"` or `"file.py:Class"` plugs in your own: such a scenario is a program, and `evsim check --no-plugins`
refuses it. Durations are a number of seconds or text such as "90s", "10min", "2h", "7d".
"""

_GENERATED = """## Generated devices

`[population] availability = { ... }` and `speed = { ... }` describe devices to generate. `devices` says how many
(default: one for each client), `seed` with which draws (default: the scenario's), and for availability `preset` where
to start from: "phones" or "charging_only".
"""

_LAWS = """### Speed by quantity

Instead of the generator, `speed` may say each quantity: `compute_ms_per_sample`, `download_kbps`, `upload_kbps`, and if
wanted `latency_ms`, as a number for all devices or as a table of a law, from which each device draws its own:
`{ kind = "log_normal", median = 20, sigma = 0.5 }`. Every law takes `at_least` and `at_most`, between which its draws
are forced. `compute_jitter` and `network_jitter` are numbers (default: 0), `devices` and `seed` as above.
"""

_PAGE = "docs/scenario_reference.md"
_NO_OPTIONS = "No options."
_MANY = 8  # values of a list that are shown


def reference() -> str:
    """The whole page."""
    parts = [_HEAD, *_scenario(), *_generated(), *_slots(), *_algorithms()]
    return "\n".join(parts).rstrip() + "\n"


# -- sections --------------------------------------------------------------------------------------------------------


def _scenario() -> Iterator[str]:
    yield "## Top level\n"
    yield _options(Scenario)
    hints = hints_of(Scenario)
    for key, field in fields_of(Scenario).items():
        for member in members(hints[field.name]):
            cls = plain_class(member)
            if cls is not None and is_table(member):
                yield f"## [{key}]\n\n{summary(cls)}\n\n{_options(cls)}"


def _generated() -> Iterator[str]:
    yield _GENERATED
    for axis, cls in (("availability", SyntheticAvailability), ("speed", SyntheticSpeed)):
        yield f"### Generator of `{axis}`\n\n{summary(cls)}\n\n{_options(cls)}"
    yield _LAWS
    for kind, law in LAWS.items():
        yield f"### Law `{kind}`\n\n{summary(law)}\n\n{_options(law)}"


def _slots() -> Iterator[str]:
    for slot in registry.slots():
        if slot.endswith("_format"):
            continue
        yield f"## Slot `{slot}`\n"
        kinds = {kind: registry.load(slot, kind) for kind in registry.built_in(slot)}
        shared = _shared(list(kinds.values()))
        if shared is not None:
            yield f"Every kind takes these keys. {summary(shared)}\n\n{_options(shared)}"
        for kind, cls in kinds.items():
            yield f"### `{slot}` kind `{kind}`\n\n{summary(cls)}\n\n{_options(cls, shared)}"


def _shared(kinds: list[type]) -> type | None:
    """The abstract class with keys that all kinds of a slot have in common, if there is one."""
    bases = [base for base in kinds[0].__mro__ if inspect.isabstract(base) and is_dataclass(base) and fields(base)]
    return next((base for base in bases if all(issubclass(kind, base) for kind in kinds)), None)


def _algorithms() -> Iterator[str]:
    yield "## Named algorithms\n"
    yield '`algorithm = "..."` is short for the kinds below; the file\'s own tables lie on top.\n'
    yield "| algorithm | what it is | tables |\n|---|---|---|"
    for name, composition in COMPOSITIONS.items():
        tables = "; ".join(f"{slot}: {_inline(table)}" for slot, table in composition.tables.items())
        yield f"| `{name}` | {composition.summary} | {tables} |"


def _inline(table: Any) -> str:
    if isinstance(table, list):
        return ", ".join(_inline(each) for each in table)
    if not isinstance(table, dict):
        return "`" + repr(table) + "`"
    return "`" + ", ".join(f"{key} = {_toml(value)}" for key, value in table.items()) + "`"


# -- one class -------------------------------------------------------------------------------------------------------


def _options(cls: type, shared: type | None = None) -> str:
    above = set() if shared is None else set(_rows(shared, ""))
    rows = [row for row in (_rows(cls, "") if is_dataclass(cls) else _arguments(cls)) if row not in above]
    return (
        "\n".join(["| key | type | default | meaning |", "|---|---|---|---|", *rows, ""])
        if rows
        else _NO_OPTIONS + "\n"
    )


def _rows(cls: type, prefix: str) -> Iterator[str]:
    """A row per key, and below the key of a table in a policy the keys of that table."""
    hints, meanings = hints_of(cls), _attributes(cls)
    for key, field in fields_of(cls).items():
        hint = hints[field.name]
        meaning = meanings.get(field.name, "")
        kind = _type(cls, key, hint) + (' or "none"' if says_none(field, hint) else "")
        yield f"| `{prefix}{key}` | {kind} | {_default(key, field, hint)} | {meaning} |"
        for member in members(hint) if cls is not Scenario else ():
            if is_table(member):
                yield from _rows(plain_class(member) or object, f"{prefix}{key}.")


def _arguments(cls: type) -> Iterator[str]:
    """A row per argument of a plain class."""
    hints, meanings = get_type_hints(cls.__init__), _attributes(cls)  # type: ignore[misc]  # of the class itself
    for name, parameter in inspect.signature(cls).parameters.items():
        default = parameter.default
        shown = "required" if default is parameter.empty else f"`{_toml(default)}`"
        kind = "list of texts" if not isinstance(default, str | int | float) else _escaped(describe(hints[name]))
        yield f"| `{name}` | {kind} | {shown} | {meanings.get(name, '')} |"


def _type(cls: type, key: str, hint: Any) -> str:
    if any(is_table(member) for member in members(hint)):
        return f"table [[{key}]](#{key})" if cls is Scenario else "a table"
    slots = slots_of(key, hint)
    plain = [describe(each) for each in members(hint) if not is_policy(item_of(each) or each)]
    words = " or ".join([*dict.fromkeys(plain), *(f"slot `{slot}`" for slot in slots)])
    return words if slots else _escaped(describe(hint).split(": ")[0])  # the page's head says the rest


def _default(key: str, field: Field[Any], hint: Any) -> str:
    if key == "name":
        return "the file's name"
    if field.default is None:
        return "none"
    if field.default is not MISSING:
        return f"`{_toml(write_value(hint, field.default, key))}`"
    if key in DEFAULTS:
        return f"`{DEFAULTS[key]['kind']}`"
    if field.default_factory is MISSING:
        return "required"
    return "its defaults" if is_table(hint) else f"`{_toml(write_value(hint, field.default_factory(), key))}`"


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, list | tuple) and len(value) > _MANY:
        return f"[{len(value)} values]"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml(each) for each in value) + "]"
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_toml(each)}" for key, each in value.items()) + " }"
    return str(value)


def _attributes(cls: type) -> dict[str, str]:
    return {name: _escaped(meaning) for name, meaning in meanings(cls).items()}


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    Path(sys.argv[1] if len(sys.argv) > 1 else _PAGE).write_text(reference(), encoding="utf-8")
