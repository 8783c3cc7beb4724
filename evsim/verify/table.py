"""Tables as columns of NumPy, and what a check of their rows found."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, final

import numpy as np
from numpy.typing import ArrayLike, NDArray

Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]
Column = NDArray[Any]

NULL = -1  # an empty cell of a column of integers
NEVER = 2**61  # later than every instant of a run
OUTCOMES = (
    "in_flight",
    "aggregated",
    "surplus",
    "late",
    "stale",
    "dropped",
    "round_failed",
    "invalid",
    "aborted",
    "answered",
)
OF = {name: code for code, name in enumerate(OUTCOMES)}  # a column of outcomes holds these codes; -1: not a known name


class LacksError(Exception):
    """A column that a check needs is not in the folder, which an older evsim wrote."""


@final
@dataclass(frozen=True)
class Check:
    """One thing that was recomputed.

    Attributes:
        name: what.
        rows: how many rows were looked at.
        violation: the first row that is wrong, what was expected and what was found; empty if all are right.
        skipped: why nothing was looked at; empty if something was.
    """

    name: str
    rows: int = 0
    violation: str = ""
    skipped: str = ""

    @property
    def ok(self) -> bool:
        """Whether nothing wrong was found."""
        return not self.violation


@final
@dataclass(frozen=True, eq=False)
class Table:
    """One table of a run folder.

    Attributes:
        name: of the table.
        columns: its cells; empty ones are -1.
        label: a row in words.
    """

    name: str
    columns: Mapping[str, Column]
    label: Callable[[Mapping[str, Column], int], str]

    def __getitem__(self, column: str) -> Column:
        if column not in self.columns:
            raise LacksError(f"{self.name}.{column}")
        return self.columns[column]

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), ()))

    def at(self, column: str, rows: Ints, none: int = NULL) -> Ints:
        """A column of integers at some rows; rows below 0 are none of the table's."""
        found = self[column]
        return np.where(rows >= 0, found[np.maximum(rows, 0)], none) if len(found) else np.full(len(rows), none)

    def equal(self, name: str, column: str, expected: ArrayLike, where: Flags | None = None) -> Check:
        """The column holds what was expected, in the rows named."""
        found = self[column]
        wanted = np.broadcast_to(np.asarray(expected), found.shape)
        both_empty = (found != found) & (wanted != wanted)  # noqa: PLR0124  NaN, also among objects
        return self.holds(name, (found == wanted) | both_empty, column, wanted, where)

    def near(self, name: str, column: str, exact: NDArray[np.float64], where: Flags | None = None) -> Check:
        """The column holds whole numbers nearest to the exact ones; at a half either will do."""
        good = np.abs(self[column] - exact) <= 0.5 + 1e-9 * (1 + np.abs(exact))
        return self.holds(name, good, column, np.round(exact, 6), where)

    def holds(self, name: str, good: Flags, column: str, expected: ArrayLike, where: Flags | None = None) -> Check:
        """A condition on rows, which the column breaks where it is false."""
        rows = len(self) if where is None else int(np.count_nonzero(where))
        bad = np.flatnonzero(~good if where is None else ~good & where)
        if not len(bad):
            return Check(name, rows)
        row = int(bad[0])
        wanted = np.broadcast_to(np.asarray(expected), good.shape)[row]
        found = _shown(column, self[column][row])
        more = f" ({len(bad)} rows in all)" if len(bad) > 1 else ""
        text = f"{self.label(self.columns, row)}: {column} is {found}, expected {_shown(column, wanted)}{more}"
        return Check(name, rows, text)


def _shown(column: str, value: Any) -> str:
    if column == "outcome" and isinstance(value, int | np.integer):
        return OUTCOMES[value] if 0 <= value < len(OUTCOMES) else "no known outcome"
    if column != "version" and isinstance(value, int | np.integer) and not isinstance(value, bool):
        return "null" if value == NULL else "never" if value >= NEVER else str(value)
    return str(value)


def counted(where: Ints, size: int, chosen: Flags) -> Ints:
    """How many chosen rows belong to each of `size` places."""
    return np.bincount(where[chosen], minlength=size)[:size].astype(np.int64)
