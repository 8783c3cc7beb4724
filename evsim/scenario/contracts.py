"""What a class of a user's lacks to serve a slot: found before anything of it is called."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

_BY_PLACE = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def lacks(cls: type, base: type) -> Iterator[str]:
    """Everything that keeps a class from being used as its slot's abstract class promises, a sentence each.

    Args:
        cls: the class, derived from `base`.
        base: the abstract class of the slot.
    """
    missing = sorted(getattr(cls, "__abstractmethods__", ()))
    if missing:
        yield f"{cls.__name__} has no {_listed(missing)}, which every {base.__name__} must have"
    for name, promised in _public(base).items():
        own = inspect.getattr_static(cls, name)
        if own is promised or name in missing:
            continue
        yield from (f"{cls.__name__}.{name} {what}" for what in _differs(own, promised))


def _public(base: type) -> dict[str, Any]:
    """What the abstract class and those above it promise, by name."""
    classes = [each for each in reversed(base.__mro__) if each.__module__.startswith("evsim")]
    return {name: value for each in classes for name, value in vars(each).items() if not name.startswith("_")}


def _differs(own: Any, promised: Any) -> Iterator[str]:
    if isinstance(promised, property):
        if inspect.isfunction(own):
            yield "is a method; expected a property or a plain value"
    elif inspect.isfunction(promised):
        if not callable(own) and not isinstance(own, staticmethod | classmethod):
            yield "is no method"
        elif inspect.isfunction(own) and not _takes(own, promised):
            yield f"takes {_signature(own)}; expected {_signature(promised)}"


def _takes(own: Callable[..., Any], promised: Callable[..., Any]) -> bool:
    """Whether a method can be called as the promised one is."""
    wanted = inspect.signature(promised).parameters.values()
    by_place = [each.name for each in wanted if each.kind in _BY_PLACE and each.default is each.empty]
    by_name = [each.name for each in wanted if each.kind is each.KEYWORD_ONLY and each.default is each.empty]
    try:
        inspect.signature(own).bind(*by_place, **dict.fromkeys(by_name))
    except TypeError:
        return False
    return True


def _signature(method: Callable[..., Any]) -> str:
    names = list(inspect.signature(method).parameters.values())
    return f"({', '.join(str(each.replace(annotation=each.empty)) for each in names)})"


def _listed(names: list[str]) -> str:
    return " and ".join(f"`{name}`" for name in names)
