"""Leaves and modules by patterns over their dotted names, such as ``features.*``."""

from __future__ import annotations

from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from evsim.base.errors import Problem

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_NEAR, _SHOWN, _ALIKE = 2, 10, 0.6


def matching(patterns: Iterable[str], names: Iterable[str]) -> list[str]:
    """The names that any pattern matches; ``*`` stands for anything, dots included.

    >>> matching(["a.*"], ["a.weight", "a.0.bias", "b.weight"])
    ['a.weight', 'a.0.bias']
    """
    wanted = list(patterns)
    return [name for name in names if any(fnmatchcase(name, pattern) for pattern in wanted)]


def unmatched(key: str, patterns: Iterable[str], names: Sequence[str]) -> list[Problem]:
    """A problem for each pattern that matches nothing, with the names that are nearest."""
    return [
        Problem(
            key, f"{pattern!r} matches nothing", "a pattern over the names of the model's leaves", near(pattern, names)
        )
        for pattern in patterns
        if not matching([pattern], names)
    ]


def near(pattern: str, names: Sequence[str]) -> str:
    """The names that a pattern may have meant, or the first ones there are."""
    parents = {f"{name[:place]}.*" for name in names for place, letter in enumerate(name) if letter == "."}
    meant = get_close_matches(pattern, [*names, *sorted(parents)], n=_NEAR, cutoff=_ALIKE)
    return f"did you mean {' or '.join(map(repr, meant))}?" if meant else f"names: {listed(names)}"


def listed(names: Sequence[str]) -> str:
    """Names in quotes: the first ten, and how many more there are."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(f"'{name}'" for name in names[:_SHOWN]) + more
