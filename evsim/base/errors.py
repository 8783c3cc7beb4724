"""Every error a user can meet, in one place.

A message says where, what was given, what was expected and what to do. All classes take one string, because SimPy
rebuilds exceptions as ``type(e)(*e.args)``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING

from typing_extensions import override

if TYPE_CHECKING:
    from collections.abc import Iterable


class EvsimError(Exception):
    """Base of all errors a user can cause; the command line prints it without a traceback."""


class PolicyError(EvsimError, ValueError):
    """An impossible value for a policy's field."""


class MisuseError(PolicyError):
    """Something that an aggregator asks of its server, and that no server could do."""


class ScenarioError(EvsimError):
    """A scenario file that cannot be used; lists every problem at once."""


class TraceError(EvsimError):
    """A trace that cannot be read or breaks a law of traces."""


class DataError(EvsimError):
    """A data set or partition that cannot be used."""


class ModelError(EvsimError):
    """A model that cannot be built or does not fit the data."""


class RunFolderError(EvsimError):
    """A run folder that cannot be written or read."""


class ResumeError(RunFolderError):
    """A run that cannot be gone on with: something it depends on has changed, or what it needs is damaged."""


class TrainingError(EvsimError):
    """Training or merging that cannot go on."""


class ListenerError(EvsimError):
    """A listener that raised: which one, at which fact and instant."""


class MissingExtraError(EvsimError):
    """An optional package that is not installed; the message holds the install line."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: where, what was given, what was expected, what to do."""

    where: str
    given: str
    expected: str
    hint: str = ""

    @override
    def __str__(self) -> str:
        parts = [f"{self.where}: {self.given}", f"expected {self.expected}" if self.expected else "", self.hint]
        return "; ".join(part for part in parts if part)


def report(problems: Iterable[Problem]) -> str:
    """All problems as the text of one error, a line each."""
    lines = [str(problem) for problem in problems]
    return "\n".join([_count(len(lines)), *(f"  {line}" for line in lines)])


def joined(errors: Iterable[Exception]) -> str:
    """Several errors as the text of one: the lines of reports side by side, with one count.

    >>> print(
    ...     joined([ScenarioError(report([Problem("a", "1", "2"), Problem("b", "3", "4")])), TraceError("t.csv: no")])
    ... )
    3 problems
      a: 1; expected 2
      b: 3; expected 4
      t.csv: no
    """
    lines = [line for error in errors for line in _lines(str(error))]
    return "\n".join([_count(len(lines)), *(f"  {line}" for line in lines)])


def _lines(message: str) -> list[str]:
    """The problems in a message of `report`; another message is one, with all its lines."""
    first, *rest = message.splitlines() or [""]
    return (
        [line.removeprefix("  ") for line in rest]
        if rest and _HEAD.fullmatch(first)
        else ["\n    ".join((first, *rest))]
    )


def _count(n: int) -> str:
    return "1 problem" if n == 1 else f"{n} problems"


_HEAD = re.compile(r"\d+ problems?")


def require(condition: bool, message: str, /, **given: object) -> None:  # noqa: FBT001  a predicate reads best bare
    """Raise `PolicyError` unless the condition holds; the message says what was given.

    >>> require(-1 >= 0, "mu must be >= 0", mu=-1)
    Traceback (most recent call last):
    evsim.base.errors.PolicyError: mu must be >= 0, but got mu=-1
    """
    if not condition:
        values = ", ".join(f"{name}={value!r}" for name, value in given.items())
        raise PolicyError(f"{message}, but got {values}" if values else message)


def suggest(name: str, known: Iterable[str]) -> str:
    """A "did you mean" clause with the nearest valid name, and the list of valid ones.

    >>> suggest("exploraton", ["exploration", "pacer"])
    "did you mean 'exploration'? (known: exploration, pacer)"
    """
    names = sorted(known)
    plain = {each.lower().replace("-", "_"): each for each in names}
    near = [plain[each] for each in get_close_matches(name.lower().replace("-", "_"), plain, n=1)]
    listed = f"(known: {', '.join(names)})" if names else ""
    return f"did you mean '{near[0]}'? {listed}".strip() if near else listed


def missing_extra(package: str, extra: str, purpose: str) -> MissingExtraError:
    """The error for an optional package, with the line that installs it."""
    return MissingExtraError(f"{purpose} needs the package '{package}'; install it with: pip install 'evsim[{extra}]'")
