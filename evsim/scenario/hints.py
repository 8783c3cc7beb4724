"""What a field of a scenario may hold: read from its annotation, said in words, converted at the edge."""

from __future__ import annotations

import inspect
import json
import types
from collections.abc import Callable, Mapping
from dataclasses import Field, dataclass, fields, is_dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Annotated, Any, Literal, Union, final, get_args, get_origin, get_type_hints

from pydantic import TypeAdapter, ValidationError

from evsim.base import registry, units
from evsim.base.errors import PolicyError, require
from evsim.base.units import MS_PER_DAY, MS_PER_HOUR, MS_PER_MINUTE, MS_PER_SECOND, Edge


@final
@dataclass(frozen=True, kw_only=True)
class Every:
    """How often: on a grid of virtual time, or every so many server steps."""

    ms: int | None = None
    steps: int | None = None

    def __post_init__(self) -> None:
        require((self.ms is None) != (self.steps is None), "give either ms or steps", ms=self.ms, steps=self.steps)
        require((self.ms or self.steps or 0) > 0, "must be > 0", ms=self.ms, steps=self.steps)


#: A field that a scenario file writes as "10min" (virtual time) or as 5 (server steps).
EveryField = Annotated[
    Every, Edge('a duration such as "10min" (of virtual time) or a whole number of server steps > 0')
]


class MismatchError(ValueError):
    """A value that does not fit; never reaches a user."""


def _parse_every(value: object) -> Every:
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole and not isinstance(value, str):
        raise PolicyError(f"{value!r} is neither a duration nor a number of steps")
    return Every(steps=value) if isinstance(value, int) else Every(ms=units.parse_duration(value))


def format_exact(ms: int) -> str:
    """A duration as text that reads back as the same number of ms.

    >>> format_exact(7 * 86_400_000), format_exact(1_500)
    ('7d', '1500ms')
    """
    for name, size in (("d", MS_PER_DAY), ("h", MS_PER_HOUR), ("min", MS_PER_MINUTE), ("s", MS_PER_SECOND)):
        if ms and ms % size == 0:
            return f"{ms // size}{name}"
    return f"{ms}ms"


def _format_time_of_day(ms: int) -> str:
    hours, minutes, seconds = ms // MS_PER_HOUR, ms // MS_PER_MINUTE % 60, ms // MS_PER_SECOND % 60
    return f"{hours:02d}:{minutes:02d}" + (f":{seconds:02d}" if seconds else "")


def _format_every(every: Every) -> int | str | None:
    return every.steps if every.ms is None else format_exact(every.ms)


_CONVERTERS: dict[Edge, tuple[Callable[[object], Any], Callable[[Any], object]]] = {
    get_args(units.Duration)[1]: (units.parse_duration, format_exact),
    get_args(units.TimeOfDay)[1]: (units.parse_time_of_day, _format_time_of_day),
    get_args(EveryField)[1]: (_parse_every, _format_every),
}


# -- annotations -----------------------------------------------------------------------------------------------------


def hints_of(cls: type) -> Mapping[str, Any]:
    """The resolved annotations of a class, with their metadata."""
    return _hints(cls)


@lru_cache(maxsize=1024)
def _hints(cls: type) -> Mapping[str, Any]:
    return MappingProxyType(get_type_hints(cls, include_extras=True))  # slow, and asked again and again


def fields_of(cls: type) -> dict[str, Field[Any]]:
    """The fields a file may set, by the key it writes: a trailing underscore (`with_`) stays in Python.

    Fields left out of comparison, such as a folder, belong to the live object and not to the file.
    """
    return {field.name.rstrip("_"): field for field in fields(cls) if field.init and field.compare}


def members(hint: Any) -> list[Any]:
    """The alternatives of an annotation without None, which TOML cannot write."""
    if get_origin(hint) in (Union, types.UnionType):
        return [each for one in get_args(hint) for each in members(one)]
    return [] if hint is type(None) else [hint]


def says_none(field: Field[Any], hint: Any) -> bool:
    """Whether a file writes None as "none": where it is allowed, and leaving the key out means something else."""
    allowed = get_origin(hint) in (Union, types.UnionType) and type(None) in get_args(hint)
    return allowed and field.default is not None


def plain_class(hint: Any) -> type | None:
    """The class behind an annotation such as ``Selector[Any]``, if it is one."""
    found = get_origin(hint) or hint
    return found if inspect.isclass(found) else None


def is_table(hint: Any) -> bool:
    """Whether the annotation is a dataclass of ours, written as a table of its own."""
    return is_dataclass(plain_class(hint)) and not is_policy(hint)


def is_policy(hint: Any) -> bool:
    """Whether the annotation is the abstract class of a slot."""
    found = plain_class(hint)
    return found is not None and inspect.isabstract(found) and found.__module__.startswith("evsim")


def slot_of(key: str, hint: Any) -> str:
    """The slot that fills a field: the one it is named after, or the one its abstract class names."""
    return key if key in registry.slots() else str(getattr(plain_class(hint), "slot", key))


def item_of(hint: Any) -> Any | None:
    """The item type of ``tuple[X, ...]``, else None."""
    arguments = get_args(hint)
    return arguments[0] if get_origin(hint) is tuple and arguments[1:] == (...,) else None


def edge_of(hint: Any) -> Edge | None:
    """The marker of a field that users write in human units."""
    if get_origin(hint) is not Annotated:
        return None
    return next((each for each in get_args(hint)[1:] if isinstance(each, Edge)), None)


# -- values ----------------------------------------------------------------------------------------------------------


def parse(hint: Any, given: object) -> Any:
    """A plain value as the annotation wants it, strictly: "1" is no number and 1.5 is no integer.

    Raises:
        MismatchError: if it does not fit.
    """
    edge = edge_of(hint)
    try:
        if edge is not None:
            return _CONVERTERS[edge][0](given)
        return _adapter(hint).validate_json(json.dumps(given), strict=True)
    except (ValidationError, PolicyError, TypeError) as error:
        raise MismatchError(str(error)) from error


def unparse(hint: Any, value: Any) -> object:
    """A value as a scenario file writes it; the inverse of `parse`."""
    edges = [edge for each in members(hint) if (edge := edge_of(each))]
    if edges and isinstance(value, int | Every) and not isinstance(value, bool):
        return _CONVERTERS[edges[0]][1](value)
    return plain(value)


def plain(value: Any) -> object:
    """Tuples as lists and mappings as dicts, all the way down."""
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return value


@lru_cache(maxsize=1024)
def _adapter(hint: Any) -> TypeAdapter[Any]:
    return TypeAdapter(hint)


# -- words -----------------------------------------------------------------------------------------------------------

_WORDS = {int: "an integer", float: "a number", str: "text", bool: "true or false", dict: "a table", list: "a list"}
_PLURALS = {int: "integers", float: "numbers", str: "texts", bool: "true or false values", dict: "tables"}


def describe(hint: Any) -> str:
    """What a field takes, in words.

    >>> describe(int | None), describe(tuple[int, ...]), describe(Literal["a", "b"])
    ('an integer', 'a list of integers', "'a' or 'b'")
    """
    return " or ".join(dict.fromkeys(_describe_one(each) for each in members(hint)))


def _describe_one(hint: Any) -> str:
    edge = edge_of(hint)
    if edge is not None:
        return edge.expected
    if get_origin(hint) is Literal:
        return " or ".join(repr(each) for each in get_args(hint))
    item = item_of(hint)
    if item is not None:
        return f"a list of {_PLURALS.get(item, 'tables' if is_policy(item) else describe(item))}"
    if is_policy(hint):
        return "a kind or a table with a kind"
    found = plain_class(hint)
    if found is not None and issubclass(found, Mapping):
        return "a table"
    return _WORDS.get(found, "a table" if is_table(hint) else str(hint)) if found else str(hint)
