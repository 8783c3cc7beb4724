"""TOML and JSON as people and programs hand them over: read in one place, bounded, every failure one sentence.

A document may be a folder, a pipe that never ends, a gigabyte, not UTF-8, nested a thousand deep, or hold a number of
five thousand digits; each ends in the caller's own error, which names the file and what was expected.
"""

from __future__ import annotations

import json
import re
import stat
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from evsim.base.errors import EvsimError, Problem, report
from evsim.base.units import format_bytes

_MOST_TOML = 8 * 10**6  # bytes
_MOST_JSON = 256 * 10**6  # bytes
_DEEPEST = 64  # tables in tables
_MARK = b"\xef\xbb\xbf"
_WIDE_MARKS = (b"\xff\xfe", b"\xfe\xff")
_POSITION = re.compile(r"(.*) \(at (?:line (\d+), column (\d+)|end of document)\)", re.DOTALL)
_SIXTY_FOUR_BITS = 2**63
#: A dotted key so long that the time to read it, which grows with its square, would count.
_DOTTED = re.compile(rf"(?<![A-Za-z0-9_-])(?:[A-Za-z0-9_-]++[ \t]*+\.[ \t]*+){{{_DEEPEST}}}")


def load_toml(path: Path, *, what: str, raising: type[EvsimError], where: str = "") -> dict[str, Any]:
    """The tables of a TOML file.

    Args:
        path: of the file.
        what: it is, in words, such as "a scenario file".
        raising: the error of whoever reads.
        where: how a message calls the file; default: its path.
    """
    at = where or str(path)
    content = _read(path, at, what, raising, _MOST_TOML)
    return parse_toml(
        _text(content, at, f"{what}: a text file in UTF-8", raising), where=at, what=what, raising=raising
    )


def parse_toml(text: str, *, where: str, what: str, raising: type[EvsimError]) -> dict[str, Any]:
    r"""The tables of a text in TOML.

    >>> parse_toml("a = 1", where="x.toml", what="a scenario file", raising=EvsimError)
    {'a': 1}
    >>> parse_toml("a = ", where="x.toml", what="a scenario file", raising=EvsimError)
    Traceback (most recent call last):
    evsim.base.errors.EvsimError: 1 problem
      x.toml: Invalid value; expected TOML
    """
    if _DOTTED.search(text):
        raise _refused(raising, where, "nested too deeply", what)
    try:
        found = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        match = _POSITION.fullmatch(str(error))
        at = f"{where}: line {match[2]}, column {match[3]}" if match and match[2] else where
        raise _refused(raising, at, match[1] if match else str(error), "TOML") from error
    except RecursionError as error:
        raise _refused(raising, where, "nested too deeply", what) from error
    except ValueError as error:  # Python reads no number of more than 4,300 digits
        raise _refused(raising, where, "a number of thousands of digits", what) from error
    if problem := odd(found):
        raise _refused(raising, where, problem, what)
    return found


def load_json(path: Path, *, what: str, raising: type[EvsimError], most: int = _MOST_JSON) -> dict[str, Any]:
    """The object in a JSON file; of at most so many bytes.

    Args:
        path: of the file.
        what: it is, in words, such as "the manifest of a run".
        raising: the error of whoever reads.
        most: bytes.
    """
    return parse_json(_read(path, str(path), what, raising, most), where=str(path), what=what, raising=raising)


def parse_json(content: bytes | str, *, where: str, what: str, raising: type[EvsimError]) -> dict[str, Any]:
    """The object in a text of JSON.

    >>> parse_json('{"a": 1}', where="x.json", what="a manifest", raising=EvsimError)
    {'a': 1}
    >>> parse_json("[" * 100_000, where="x.json", what="a manifest", raising=EvsimError)
    Traceback (most recent call last):
    evsim.base.errors.EvsimError: 1 problem
      x.json: nested too deeply; expected a manifest
    """
    text = _text(content, where, f"{what}: JSON in UTF-8", raising) if isinstance(content, bytes) else content
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        at = f"{where}: line {error.lineno}, column {error.colno}"
        raise _refused(raising, at, f"not valid JSON: {error.msg}", what) from error
    except RecursionError as error:
        raise _refused(raising, where, "nested too deeply", what) from error
    except ValueError as error:
        raise _refused(raising, where, "a number of thousands of digits", what) from error
    if not isinstance(found, dict):
        raise _refused(raising, where, f"a JSON {type(found).__name__}", f"{what}: an object")
    return found


def _read(path: Path, where: str, what: str, raising: type[EvsimError], most: int) -> bytes:
    try:
        kind = path.stat()
        if not stat.S_ISREG(kind.st_mode):
            given = "a folder" if stat.S_ISDIR(kind.st_mode) else "no regular file"
            raise _refused(raising, where, given, what)
        if kind.st_size > most:
            raise _refused(
                raising, where, f"{format_bytes(kind.st_size)} long", f"{what}: at most {format_bytes(most)}"
            )
        with path.open("rb") as file:
            content = file.read(most + 1)
    except OSError as error:
        raise _refused(raising, where, error.strerror or str(error), f"a readable file: {what}") from error
    except ValueError as error:  # a zero byte in the path
        raise _refused(raising, where, str(error), f"a path: {what}") from error
    if len(content) > most:
        raise _refused(raising, where, "growing while it is read", what)
    return content


def _text(content: bytes, where: str, what: str, raising: type[EvsimError]) -> str:
    if content.startswith(_WIDE_MARKS):
        raise _refused(raising, where, "UTF-16", what)
    try:
        return content.removeprefix(_MARK).decode("utf-8")
    except UnicodeDecodeError as error:
        raise _refused(raising, where, f"byte {error.start} is not UTF-8", what) from error


def odd(tables: dict[str, Any]) -> str:
    """What no reader of these tables could use: depth without end, integers beyond 64 bits; "" if nothing."""
    level: list[Any] = [tables]
    for _ in range(_DEEPEST):
        level = [each for parent in level for each in _children(parent)]
        if any(type(each) is int and not -_SIXTY_FOUR_BITS <= each < _SIXTY_FOUR_BITS for each in level):
            return "an integer of more than 64 bits"
        if not level:
            return ""
    return "nested too deeply"


def _children(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def _refused(raising: type[EvsimError], where: str, given: str, expected: str) -> EvsimError:
    return raising(report([Problem(where, given, expected)]))
