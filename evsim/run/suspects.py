"""Which keys of a scenario to look at first when training diverged: the numbers of its method that nobody writes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

_METHOD = ("broadcast", "client_rule", "upload", "weighting", "merge", "server_optimizer", "model", "data")
_LARGE = 100.0
_SHOWN = 3


def suspects(scenario: Mapping[str, Any]) -> str:
    """The largest numbers with a fraction in the tables of a method, in words; "" if there is no large one.

    >>> suspects({"client_rule": {"learning_rate": 0.1, "weight_decay": 1e14}, "merge": {"mu": [3.0, 1e9]}})
    '; unusually large: client_rule.weight_decay = 1e+14, merge.mu[1] = 1e+09'
    """
    found = [each for slot in _METHOD for each in _numbers(scenario.get(slot), slot) if abs(each[1]) >= _LARGE]
    largest = sorted(found, key=lambda each: -abs(each[1]))[:_SHOWN]
    return "; unusually large: " + ", ".join(f"{key} = {value:g}" for key, value in largest) if largest else ""


def _numbers(table: Any, at: str) -> Iterator[tuple[str, float]]:
    """Every float below a table with its dotted key."""
    if isinstance(table, float):
        yield at, table
    elif isinstance(table, Mapping):
        for key, each in table.items():
            yield from _numbers(each, f"{at}.{key}")
    elif isinstance(table, list):
        for place, each in enumerate(table):
            yield from _numbers(each, f"{at}[{place}]")
