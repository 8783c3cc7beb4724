"""JSON Schema of scenario files, made from the registry and the dataclasses that the files are checked against.

A schema is for editors: it knows keys, kinds, types and meanings. What it accepts may still be wrong, since ranges and
what must hold between tables are known to `evsim check` alone; what it refuses is wrong. No key is required: a file may
take it over from one that it extends.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, is_dataclass
from pathlib import Path
from typing import Any, final, get_args

from pydantic import PydanticUserError, TypeAdapter
from pydantic.errors import PydanticInvalidForJsonSchema

from evsim.algorithms.compositions import COMPOSITIONS
from evsim.base import registry, units
from evsim.base.errors import Problem, ScenarioError, report
from evsim.base.units import Edge
from evsim.scenario import Scenario
from evsim.scenario.assembling import DEFAULTS
from evsim.scenario.docstrings import meanings, summary
from evsim.scenario.dumping import write_value
from evsim.scenario.hints import (
    EveryField,
    describe,
    edge_of,
    fields_of,
    hints_of,
    is_policy,
    is_table,
    item_of,
    members,
    plain_class,
    says_none,
    slot_of,
)

Json = dict[str, Any]

#: What most editors' TOML extensions understand.
DRAFT = "http://json-schema.org/draft-07/schema#"
_HOME = "#/definitions/"
#: A kind that names code: its options are its own affair. That of a library too ("torchvision:resnet18").
_CODE = r"[:.]"
_EDGES: dict[Edge, Json] = {
    get_args(units.Duration)[1]: {"type": ["number", "string"]},
    get_args(units.TimeOfDay)[1]: {"type": "string"},
    get_args(EveryField)[1]: {"type": ["integer", "string"]},
}
_FILE: Json = {
    "extends": {"type": "string", "description": "another file, or the name of a bundled scenario, to begin from"},
    "unset": {
        "type": "array",
        "items": {"type": "string"},
        "description": "keys or tables that were taken over, back to their defaults",
    },
}


def scenario_schema(plug_ins: Path | None = None) -> Json:
    """The JSON Schema (draft 7) of scenario files.

    Args:
        plug_ins: a folder of Python files; the policies they define become kinds. They are imported.

    Raises:
        ScenarioError: if the folder or a file of it cannot be read, or a file cannot be imported.
    """
    maker = _Maker(plug_ins)
    top = maker.object_of(Scenario)
    top["properties"]["algorithm"] = {
        "description": meanings(Scenario)["algorithm"],
        "anyOf": [_constant(name, each.summary) for name, each in COMPOSITIONS.items()],
    }
    top["properties"] |= _FILE
    head = {"$schema": DRAFT, "title": "evsim scenario"}
    return {**head, **top, "definitions": dict(sorted(maker.definitions.items()))}


@final
class _Maker:
    """Makes schemas of classes, and keeps those that are referred to by name."""

    def __init__(self, plug_ins: Path | None) -> None:
        self.definitions: dict[str, Json] = {}
        self._folder = plug_ins
        self._found = [] if plug_ins is None else list(_classes(plug_ins))

    def object_of(self, cls: type) -> Json:
        """A table whose keys are the fields of a dataclass."""
        hints, means = hints_of(cls), meanings(cls)
        properties = {}
        for key, field in fields_of(cls).items():
            hint = hints[field.name]
            made = self._value(key, field, hint)
            told = {"description": means[field.name]} if field.name in means else {}
            properties[key] = {**told, **made, **_default(key, field, hint)}
        return {"type": "object", "properties": properties, "additionalProperties": False}

    def _value(self, key: str, field: Field[Any], hint: Any) -> Json:
        made = [self._member(key, each) for each in members(hint)]
        if says_none(field, hint):
            made.append({"const": "none"})
        return made[0] if len(made) == 1 else {"anyOf": made}

    def _member(self, key: str, hint: Any) -> Json:
        item, edge = item_of(hint), edge_of(hint)
        if edge is not None:
            return _EDGES[edge]
        if item is not None:
            whole = [self._member(key, each) for each in members(item)]
            return {"type": "array", "items": whole[0] if len(whole) == 1 else {"anyOf": whole}}
        if is_policy(hint):
            return self._slot(slot_of(key, hint), plain_class(hint))
        if is_table(hint):
            return self._named(plain_class(hint) or object)
        return _plain(hint)

    def _named(self, cls: type) -> Json:
        if cls.__qualname__ not in self.definitions:
            self.definitions[cls.__qualname__] = {}  # a table may hold itself
            self.definitions[cls.__qualname__] = {"description": summary(cls), **self.object_of(cls)}
        return {"$ref": f"{_HOME}{cls.__qualname__}"}

    def _slot(self, slot: str, base: type | None) -> Json:
        """Everything that fills a slot: a kind alone, or a table with a kind and its options."""
        if slot not in self.definitions:
            self.definitions[slot] = {}  # a policy may hold one of its own slot
            kinds = dict(self._kinds(slot, base))
            names = [_constant(kind, told) for kind, (told, _) in kinds.items()]
            code = {"type": "string", "pattern": _CODE}
            tables = [_with_kind(self._options(cls), _constant(kind, told)) for kind, (told, cls) in kinds.items()]
            own = {"type": "object", "properties": {"kind": code}, "required": ["kind"]}
            self.definitions[slot] = {"anyOf": [*names, code, *tables, own]}
        return {"$ref": f"{_HOME}{slot}"}

    def _kinds(self, slot: str, base: type | None) -> Iterator[tuple[str, tuple[str, Any]]]:
        known = {kind: (entry.summary, registry.load(slot, kind)) for kind, entry in registry.entries(slot).items()}
        yield from known.items()
        serves = {each.__name__ for _, cls in known.values() for each in _family(cls, base)}
        for file, name, bases in self._found:
            if serves & bases:
                kind = f"{file}:{name}"
                cls = registry.load(slot, kind, self._folder)
                yield kind, (summary(cls), cls)

    def _options(self, cls: Any) -> Json:
        if is_dataclass(cls):
            return self.object_of(cls if isinstance(cls, type) else type(cls))
        taken = registry.parameters_of(cls)
        means = meanings(cls) if isinstance(cls, type) else {}
        named = {each.name: {"description": means.get(each.name, "")} for each in taken if each.kind in _NAMED}
        free = any(each.kind is each.VAR_KEYWORD for each in taken)
        return {"type": "object", "properties": named, "additionalProperties": free}


def _family(cls: Any, base: type | None) -> list[type]:
    """A class and those it derives from, up to the abstract class of its slot."""
    whole = cls.__mro__ if isinstance(cls, type) else ()
    return [each for each in whole if base is not None and issubclass(each, base)]


_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def _with_kind(options: Json, kind: Json) -> Json:
    told = {"description": kind["description"]} if "description" in kind else {}
    return {**options, **told, "properties": {"kind": kind, **options["properties"]}}


def _constant(value: str, told: str) -> Json:
    return {"const": value, **({"description": told} if told else {})}


def _plain(hint: Any) -> Json:
    """Numbers, texts, choices, lists and free tables."""
    try:
        found: Json = TypeAdapter(hint).json_schema()
    except (PydanticInvalidForJsonSchema, PydanticUserError):
        return {"description": describe(hint)}
    return found


def _default(key: str, field: Field[Any], hint: Any) -> Json:
    """What the key means if it is left out; a default that is itself None says nothing."""
    if key in DEFAULTS and field.default is MISSING and field.default_factory is MISSING:
        return {"default": DEFAULTS[key]["kind"]}
    if field.default is not MISSING and field.default is not None:
        return {"default": write_value(hint, field.default, key)}
    if field.default_factory is not MISSING and not any(is_table(each) for each in members(hint)):
        return {"default": write_value(hint, field.default_factory(), key)}
    return {}


def _classes(folder: Path) -> Iterator[tuple[str, str, set[str]]]:
    """The file, the name and the names of all bases of each class in a folder; found without importing anything."""
    if not folder.is_dir():
        raise ScenarioError(report([Problem(str(folder), "no such folder", "a folder with Python files")]))
    for file in sorted(folder.glob("*.py")):
        try:
            tree = ast.parse(file.read_bytes())
        except (SyntaxError, ValueError) as error:
            where = f"{file}, line {error.lineno}" if isinstance(error, SyntaxError) else str(file)
            raise ScenarioError(report([Problem(where, str(error), "Python")])) from error
        for each in tree.body:
            if isinstance(each, ast.ClassDef) and each.decorator_list:  # a policy is a frozen dataclass
                yield file.name, each.name, set(_base_names(each))


def _base_names(each: ast.ClassDef) -> Iterator[str]:
    for base in each.bases:
        bare = base.value if isinstance(base, ast.Subscript) else base
        yield bare.attr if isinstance(bare, ast.Attribute) else getattr(bare, "id", "")


# -- studies ---------------------------------------------------------------------------------------------------------

_TEXTS: Json = {"type": "array", "items": {"type": "string"}}


def study_schema() -> Mapping[str, Any]:
    """The JSON Schema (draft 7) of study files."""
    number = {"type": "number"}
    properties: Json = {
        "name": {"type": "string", "description": "of the study; default: the file's name"},
        "scenario": {"type": "string", "description": "a scenario file, or the name of a bundled scenario"},
        "seeds": {
            "description": "each arm runs with each: so many from 0, or a list of them",
            "default": 5,
            "anyOf": [
                {"type": "integer", "minimum": 1},
                {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1, "uniqueItems": True},
            ],
        },
        "target_accuracy": {
            "type": "number",
            "exclusiveMinimum": 0,
            "maximum": 1,
            "description": "what comparisons ask for; default: the scenario's",
        },
        "target": {
            "type": "object",
            "description": "a target of another metric, instead of target_accuracy",
            "properties": {"metric": {"type": "string"}, "at_least": number, "at_most": number},
            "required": ["metric"],
            "additionalProperties": False,
        },
        "overrides": {**_TEXTS, "description": 'for all arms, such as "stop.virtual_time=1d"'},
        "arms": {
            "type": "object",
            "description": "lists of overrides by the arm's name; the first arm is the baseline",
            "additionalProperties": _TEXTS,
        },
        "grid": {
            "type": "object",
            "description": "lists of values by the quoted dotted key: every arm times every point",
            "additionalProperties": {"type": "array", "minItems": 1},
        },
    }
    head = {"$schema": DRAFT, "title": "evsim study", "type": "object"}
    return {**head, "properties": properties, "required": ["scenario"], "additionalProperties": False}
