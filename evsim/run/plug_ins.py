"""Which files hold the code that a scenario brings, and what is in them: a changed plug-in makes another run."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from evsim.base import registry

if TYPE_CHECKING:
    from evsim.scenario import Scenario


def plug_ins(scenario: Scenario) -> dict[str, str]:
    """SHA-256 of each file with code of a plug-in that the scenario uses, by ``slot class``; "" if it has no file.

    Only the file of the class itself is looked at, not what it imports.
    """
    known, found = registry.plug_ins(), {}
    for part in _parts(scenario) if known else ():
        for each in (part, type(part)):
            if _hashable(each) and each in known:
                found[f"{known[each]} {each.__name__}"] = _checksum(each)
    return dict(sorted(found.items()))


def _parts(value: Any) -> Iterator[Any]:
    """A scenario, everything in its fields, and everything in theirs."""
    yield value
    if is_dataclass(value) and not isinstance(value, type):
        inner: Any = [getattr(value, field.name) for field in fields(value)]
    elif isinstance(value, Mapping):
        inner = value.values()
    elif isinstance(value, list | tuple):
        inner = value
    else:
        return
    for each in inner:
        yield from _parts(each)


def _hashable(value: Any) -> bool:
    return isinstance(value, type | ModuleType) or callable(value)


def _checksum(plug_in: Any) -> str:
    with suppress(OSError, TypeError):
        return hashlib.sha256(Path(inspect.getfile(plug_in)).read_bytes()).hexdigest()
    return ""  # typed into an interpreter
