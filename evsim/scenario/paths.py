"""What a scenario refers to outside of itself: files, which an override names as everything that is typed, and code."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from evsim.base import registry
from evsim.base.bundled import bundled_trace
from evsim.base.errors import Problem
from evsim.scenario.layers import Layer, Tables

_NAMES = ("path", "file", "folder", "directory", "root")
_SOURCES = ("population.availability", "population.speed", "model.weights")


def from_working_directory(layer: Layer, start: Path) -> Layer:
    """The layer of an override with its paths made absolute.

    What is not there stays as it was typed: it may be the name of a bundled trace, or lie beside the scenario.

    Args:
        layer: of an override.
        start: the working directory, or the folder of the file that holds the override.
    """
    return Layer(layer.origin, _tables(layer.tables, "", start.absolute()), layer.unset)


def _tables(tables: Mapping[str, Any], at: str, start: Path) -> Tables:
    return {key: _value(key, value, f"{at}.{key}".lstrip("."), start) for key, value in tables.items()}


def _value(key: str, value: Any, at: str, start: Path) -> Any:
    if isinstance(value, Mapping):
        return _tables(value, at, start)
    if isinstance(value, list):
        return [_value(key, each, at, start) for each in value]
    if not isinstance(value, str):
        return value
    if names_code(key, value):
        file, colon, name = value.partition(":")
        return f"{_there(file, start)}{colon}{name}"
    return _there(value, start) if _is_path(key, at) and bundled_trace(value) is None else value


def names_code(key: str, value: object) -> bool:
    """Whether a value is code that a scenario brings along: a kind such as "rule.py:Mine" or "package.module:Mine"."""
    kind = key in ("kind", "format", "target") or key in registry.slots()
    if not kind or not isinstance(value, str) or registry.library_of("model", value):
        return False
    return ":" in value or value.endswith(".py")


def code_in(layers: Sequence[Layer]) -> list[Problem]:
    """Every place where a scenario names code that evsim did not bring; nothing of it is imported."""
    expected = "a kind that is built in or installed"
    hint = "code runs with all your rights: read it, then check without --no-plugins"
    return [
        Problem(": ".join(filter(None, (layer.origin.partition("=")[0], at))), repr(value), expected, hint)
        for layer in layers
        for at, value in _named_code(layer.tables, "", "")
    ]


def _named_code(value: object, key: str, at: str) -> Iterator[tuple[str, object]]:
    if isinstance(value, Mapping):
        for name, each in value.items():
            yield from _named_code(each, name, f"{at}.{name}".lstrip("."))
    elif isinstance(value, list):
        for place, each in enumerate(value):
            yield from _named_code(each, key, f"{at}[{place}]")
    elif names_code(key, value):
        yield at, value


def _is_path(key: str, at: str) -> bool:
    return at in _SOURCES or key in _NAMES or key.endswith(tuple(f"_{name}" for name in _NAMES))


def _there(text: str, start: Path) -> str:
    found = start / Path(text).expanduser()
    try:
        return str(found) if text and found.exists() else text
    except (OSError, ValueError):  # too long for a path, or with a zero in it
        return text


def looked_for(text: str, *folders: Path) -> str:
    """The absolute places where a path may be, each once, for a message.

    >>> looked_for("a.csv", Path("/x"), Path("/y"), Path("/x"))
    'looked for /x/a.csv and /y/a.csv'
    """
    try:
        places = dict.fromkeys(str((folder / Path(text).expanduser()).resolve()) for folder in folders)
    except (OSError, ValueError, RuntimeError):
        return "it can be no path"
    return f"looked for {' and '.join(places)}"
