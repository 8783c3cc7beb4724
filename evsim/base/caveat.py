"""A caveat: what runs, but cannot mean what it seems to; with its measure and its remedy."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, final

from typing_extensions import override


class CaveatWarning(UserWarning):
    """How a run from Python says a caveat, its only argument; the command line prints it instead."""


@final
@dataclass(frozen=True)
class Caveat:
    """One sentence of doubt about a set-up or a result.

    >>> print(Caveat("no_deadline", "a round waits for its slowest client", "3 of 4 rounds", "set reporting_deadline"))
    a round waits for its slowest client (3 of 4 rounds); set reporting_deadline

    Attributes:
        key: its name, the same for every run that has it.
        text: what may be misunderstood.
        measure: how much of it there is; "" if it has no number.
        remedy: what to do about it; "" if nothing can be done.
    """

    key: str
    text: str
    measure: str = ""
    remedy: str = ""

    @override
    def __str__(self) -> str:
        measured = f" ({self.measure})" if self.measure else ""
        return f"{self.text}{measured}{'; ' if self.remedy else ''}{self.remedy}"

    def to_json(self) -> dict[str, str]:
        """As the manifest holds it."""
        return asdict(self)

    @classmethod
    def from_json(cls, given: Any) -> Caveat:
        """From a manifest; older ones hold plain sentences."""
        return cls(**given) if isinstance(given, dict) else cls("", str(given))


def as_caveat(given: Any) -> Caveat:
    """A caveat as it is, or from a manifest."""
    return given if isinstance(given, Caveat) else Caveat.from_json(given)
