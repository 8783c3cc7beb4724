"""Where the tables of a scenario come from: files, what they extend, overrides; and who said what."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from typing_extensions import override as overriding

from evsim.base import registry
from evsim.base.bundled import bundled, bundled_scenario
from evsim.base.documents import load_toml, odd
from evsim.base.errors import Problem, ScenarioError, report, suggest

Tables = dict[str, Any]

#: What a file says about the files below it, at its top level; no keys of a scenario.
FILE_KEYS = ("extends", "unset")

_MAX_DEPTH = 16
_SHOWN = 400  # characters of an override
_KEY = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")


@final
@dataclass(frozen=True)
class Layer:
    """Tables of one origin, such as one file.

    Attributes:
        origin: a file as the user typed it, or ``-o key``.
        tables: laid over those of the layers below.
        unset: dotted keys that are first taken out of the layers below.
    """

    origin: str
    tables: Tables
    unset: tuple[str, ...] = ()


def fail(where: str, given: str, expected: str = "", hint: str = "") -> ScenarioError:
    """An error that stands alone: nothing else can be checked."""
    return ScenarioError(report([Problem(where, given, expected, hint)]))


# -- files -----------------------------------------------------------------------------------------------------------


def find(name: str | Path) -> Path:
    """The file meant by a path, a run folder, or the name of a bundled scenario.

    Raises:
        ScenarioError: if there is no such file.
    """
    path = Path(name)
    if path.is_dir() and (path / "scenario.toml").is_file():
        return path / "scenario.toml"
    if path.is_file():
        return path
    found = bundled_scenario(str(name))
    if found is not None:
        return found
    known = [each.stem for each in bundled("scenarios")]
    given = "a folder without scenario.toml" if path.is_dir() else "no such file"
    hint = "; ".join((suggest(path.stem, known), f"looked for {path.absolute()}"))
    raise fail(str(name), given, "a scenario file or the name of a bundled scenario", hint)


def read(path: Path) -> list[Layer]:
    """The layers of a file: what it extends first, itself last.

    Raises:
        ScenarioError: if a file cannot be read, or extends itself in the end.
    """
    return _read(path, ())


def _read(path: Path, seen: tuple[Path, ...]) -> list[Layer]:
    chain = (*seen, path.resolve())
    if path.resolve() in seen:
        names = " -> ".join(each.name for each in chain)
        raise fail(f"{path.name}: extends", f"the files extend each other: {names}", "a file that does not lead back")
    if len(chain) > _MAX_DEPTH:
        raise fail(f"{path.name}: extends", f"more than {_MAX_DEPTH} files extend each other", "a shorter chain")
    tables = _parse(path)
    if _is_study(tables):
        raise fail(_shown(path), "a study: it names a scenario and arms", "a scenario", f"evsim sweep {path} runs it")
    base, unset = tables.pop("extends", None), tables.pop("unset", [])
    if seen:
        tables.pop("name", None)  # a name is of one file
    own = Layer(_shown(path), tables, _unset_keys(unset, base, f"{_shown(path)}: unset"))
    return [own] if base is None else [*_read(_extended(base, path), chain), own]


def _is_study(tables: Tables) -> bool:
    return isinstance(tables.get("scenario"), str) and bool({"arms", "grid", "seeds"} & tables.keys())


def _extended(base: object, path: Path) -> Path:
    where = f"{_shown(path)}: extends"
    if not isinstance(base, str):
        raise fail(where, repr(base), "the path of a scenario file")
    if Path(base).is_absolute():
        raise fail(where, repr(base), "a path relative to this file, or the name of a bundled scenario")
    for found in (path.parent / base, bundled_scenario(base)):
        if found is not None and found.is_file():
            return found
    hint = f"no such file; looked for {(path.parent / base).absolute()}"
    raise fail(where, repr(base), "a file beside this one, or the name of a bundled scenario", hint)


def _unset_keys(given: object, base: object, where: str) -> tuple[str, ...]:
    if not isinstance(given, list) or not all(
        isinstance(key, str) and _KEY.fullmatch(key) and key.count(".") <= _MAX_DEPTH for key in given
    ):
        raise fail(where, repr(given), 'a list of dotted keys, such as ["aggregation.reporting_deadline"]')
    if given and base is None:
        raise fail(where, repr(given), "extends = ... beside it", "a file that extends nothing inherits nothing")
    return tuple(given)


def _parse(path: Path) -> Tables:
    return load_toml(path, what="a scenario file", raising=ScenarioError, where=_shown(path))


def _shown(path: Path) -> str:
    """A path as the user may have typed it."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)


# -- overrides -------------------------------------------------------------------------------------------------------


def override(text: str) -> Layer:
    """The layer of ``section.key=value``; the value is TOML, a bare word is text, no value means the default.

    >>> override("aggregation.cohort_goal=10").tables, override("client_rule.kind=fedprox").tables
    ({'aggregation': {'cohort_goal': 10}}, {'client_rule': {'kind': 'fedprox'}})

    Raises:
        ScenarioError: if it is not of that form.
    """
    key, equals, value = (part.strip() for part in text.partition("="))
    where = "-o " + text[:_SHOWN].replace("\n", "\\n")
    if not equals or not _is_key(key):
        raise fail(where, "not an override", "section.key=value, such as client_rule.learning_rate=0.05")
    if not value:
        return Layer(f"-o {key}", _nested(key, _UNSET))
    return Layer(f"-o {key}", _nested(key, _override_value(value, where)))


def _is_key(text: str) -> bool:
    return _KEY.fullmatch(text) is not None and text.count(".") <= _MAX_DEPTH


def _override_value(value: str, where: str) -> object:
    try:
        tables = tomllib.loads(f"value = {value}")
    except tomllib.TOMLDecodeError as error:
        if value[0] in "[{\"'":
            raise fail(where, f"{value} is not TOML", 'such as 0.1, "text", [32, 16] or {kind = "x"}') from error
        return value
    except (ValueError, RecursionError) as error:
        raise fail(where[:_SHOWN], "thousands of digits, or nested too deeply", "a value of a scenario") from error
    if problem := odd(tables):
        raise fail(where[:_SHOWN], problem, "a value of a scenario")
    if len(tables) != 1:
        raise fail(where, f"{value!r} holds more than one value", "section.key=value")
    plain = isinstance(tables["value"], str | int | float | bool | list | dict)
    return tables["value"] if plain else value  # a bare date or time of day is text


def _nested(key: str, value: object) -> Tables:
    first, dot, rest = key.partition(".")
    return {first: _nested(rest, value) if dot else value}


# -- merging ---------------------------------------------------------------------------------------------------------

_UNSET = object()  # in tables: back to the default


def merge(base: Mapping[str, Any], top: Mapping[str, Any]) -> Tables:
    """Tables merged deeply, the top one wins; a policy whose kind changes is replaced.

    >>> merge({"a": {"kind": "x", "n": 1}, "b": {"n": 1}}, {"a": {"kind": "y"}, "b": {"m": 2}})
    {'a': {'kind': 'y'}, 'b': {'n': 1, 'm': 2}}
    """
    merged = dict(base)
    for key, value in top.items():
        old = _as_table(key, merged.get(key))
        if value is _UNSET:
            merged.pop(key, None)
        elif isinstance(value, Mapping):
            merged[key] = merge(old if isinstance(old, Mapping) and not _changes_kind(old, value) else {}, value)
        elif not (isinstance(old, Mapping) and old.get("kind") == value):  # the same kind again changes nothing
            merged[key] = value
    return merged


@final
@dataclass(frozen=True)
class Drop:
    """Options of a policy that went with its kind.

    Attributes:
        at: dotted key of the policy.
        old: the kind that was replaced.
        new: the kind that took its place.
        options: what was said about the old one.
    """

    at: str
    old: str
    new: str
    options: Tables

    @overriding
    def __str__(self) -> str:
        said = ", ".join(f"{key} = {value!r}" for key, value in self.options.items())
        return f"the options of kind {self.old!r} were dropped with it ({said})"


def drops(base: Mapping[str, Any], top: Mapping[str, Any], at: str = "") -> list[Drop]:
    """What `merge` leaves out because a kind changes.

    >>> [str(each) for each in drops({"merge": {"kind": "x", "n": 1}}, {"merge": "y"})]
    ["the options of kind 'x' were dropped with it (n = 1)"]
    """
    found = []
    for key, value in top.items():
        old, new = _as_table(key, base.get(key)), _as_table(key, value)
        if not isinstance(old, Mapping) or not isinstance(new, Mapping):
            continue
        options = {name: each for name, each in old.items() if name != "kind" and name not in new}
        if not _changes_kind(old, new):
            found += drops(old, new, f"{at}{key}.")
        elif options:
            found.append(Drop(f"{at}{key}", str(old["kind"]), str(new["kind"]), options))
    return found


def take_out(below: Tables, layer: Layer) -> Tables:
    """The tables below a layer without the keys that it unsets.

    Raises:
        ScenarioError: with every key that is not there: a slip of the pen must not leave the inherited value in force.
    """
    problems = []
    for key in layer.unset:
        known = _keys_beside(below, key)
        if key in known:
            below = merge(below, _nested(key, _UNSET))
        else:
            expected = "a key that the extended files set"
            problems.append(Problem(f"{layer.origin}: unset", f"{key!r} is not set", expected, suggest(key, known)))
    if problems:
        raise ScenarioError(report(problems))
    return below


def _keys_beside(tables: Tables, key: str) -> list[str]:
    """The dotted keys of the table that holds a key, or would; of the nearest one around it if there is none."""
    table, prefix = tables, ""
    for part in key.split(".")[:-1]:
        inner = _as_table(part, table.get(part))
        if not isinstance(inner, Mapping):
            break
        table, prefix = dict(inner), f"{prefix}{part}."
    return [prefix + name for name in table]


def _as_table(key: str, value: object) -> object:
    """A policy given by its kind alone as the table it stands for."""
    return {"kind": value} if isinstance(value, str) and key in registry.slots() else value


def _changes_kind(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    return "kind" in new and "kind" in old and new["kind"] != old["kind"]


def origins(layers: Sequence[Layer]) -> dict[str, str]:
    """Who said each dotted key last; "" is where what nobody said would have belonged."""
    said = {"": layers[-1].origin if layers else ""}
    for layer in layers:
        said |= dict.fromkeys((*layer.unset, *_dotted(layer.tables)), layer.origin)
        if not layer.origin.startswith("-o "):
            said[""] = layer.origin
    return said


def origin_of(said: Mapping[str, str], key: str) -> str:
    """Who said a key, or the nearest table around it."""
    while key and key not in said:
        key = re.sub(r"(\[\d+\]|(^|\.)[^.\[\]]*)$", "", key)
    return said[key]


def _dotted(tables: Mapping[str, Any], prefix: str = "") -> list[str]:
    found = []
    for key, value in tables.items():
        found.append(prefix + key)
        if isinstance(value, Mapping):
            found += _dotted(value, f"{prefix}{key}.")
    return found
