"""Every task of a run, as columns: what was dispatched, what it would be, how it ends, when the server knows.

Finished rows are released, oldest first, to be written.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from operator import itemgetter
from typing import TYPE_CHECKING, final

import numpy as np

from evsim.base import rng
from evsim.base.units import FOREVER
from evsim.base.vocabulary import Outcome, Rank
from evsim.timeline.fates import ARRIVES, LOST, STOPPED

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import ArrayLike, NDArray

    from evsim.base.vocabulary import BoolArray, IntArray

_COLUMNS = (
    "client",
    "round",
    "version",
    "kind",
    "nth",  # how many tasks the client had before
    "max_steps",  # partial work: steps that fit before the deadline; 0 for no limit
    "dispatched_at",
    "leaves_at",  # when its device leaves, working or not
    "loss_by",  # a loss is known by then at the latest
    "stop_at",  # the server stops what lasts longer
    "ended_at",
    "known_at",
    "fate",
    "outcome",
    "staleness",
    "server_step",
    "used_at",  # instant of the server step that it was put into; -1: of none
    "weight",  # bits of the float64 that it counted in the merge; NaN: not merged, or not known
    "samples",
    "charged_samples",
    "bytes_down",
    "bytes_up",
    "download_ms",
    "compute_ms",
    "upload_ms",
)
_ENDS = ("known_at", "fate")
KINDS = ("train", "query")
#: Of the float64 NaN, as the column `weight` wants it.
NO_WEIGHT = int(np.array(np.nan).view(np.int64))
_PHASES = (("download_ms", "bytes_down"), ("compute_ms", "charged_samples"), ("upload_ms", "bytes_up"))
#: Bytes that transfers had moved when they were cut: their column, the rows, when they began, the ms they lasted.
Moved = Callable[[str, "Mapping[str, IntArray]", "IntArray", "IntArray"], "IntArray"]
_ROW = struct.Struct(f"={len(_COLUMNS)}q")
_in_order = itemgetter(*_COLUMNS)
_IN_FLIGHT = int(Outcome.IN_FLIGHT)
_REPORT, _CHECK_IN, _DEADLINE = int(Rank.REPORT), int(Rank.CHECK_IN), int(Rank.DEADLINE)


@final
class Ledger:
    """Tasks by id, ids in order of dispatch; only rows not yet written are kept in memory."""

    def __init__(self, seed: int) -> None:
        self._tie = rng.key(seed, "tie")
        self.first = 0  # id of row 0
        self._size = 0
        self.n_changes = 0  # of the ends of tasks, ever
        self._hold(np.empty((1024, len(_COLUMNS)), np.int64))
        self._held: dict[int, int] = {}  # rows from this task on stay in memory, and how often that is wanted

    def __len__(self) -> int:
        return self.first + self._size

    def add(self, values: Mapping[str, ArrayLike]) -> IntArray:
        """Enter the tasks of one dispatch; columns not given are 0. Returns their ids."""
        clients = np.asarray(values["client"], np.int64)
        ids = np.arange(len(self), len(self) + len(clients), dtype=np.int64)
        self._reserve(len(clients))
        new = slice(self._size, self._size + len(clients))
        for name in _COLUMNS:
            self._rows[name][new] = values.get(name, 0)
        self._size += len(clients)
        return ids

    def add_one(self, values: Mapping[str, int]) -> int:
        """Enter one task with a value for every column. Returns its id."""
        return self.add_row(*_in_order(values))

    def add_row(self, *values: int) -> int:
        """`add_one` without names, in the order of the columns: a hundredth of the cost of `add`."""
        self._reserve(1)
        row = self._size
        _ROW.pack_into(self._bytes, row * _ROW.size, *values)
        self._size += 1
        return self.first + row

    @property
    def rows_in_memory(self) -> int:
        """Rows not yet released."""
        return self._size

    @staticmethod
    def as_table(rows: Mapping[str, NDArray[np.int64]]) -> dict[str, object]:
        """Released rows as the table `tasks` wants them: outcomes as codes, kinds as names."""
        table: dict[str, object] = dict(rows)
        table["outcome"] = rows["outcome"].astype(np.int8)
        table["kind"] = np.array(KINDS, dtype=object)[rows["kind"]]
        table["weight"] = rows["weight"].view(np.float64)
        return table

    def column(self, name: str, ids: IntArray) -> IntArray:
        """A column at some tasks."""
        return self._rows[name][ids - self.first]

    def cell(self, name: str, task: int) -> int:
        """A column at one task."""
        return self._one[name][task - self.first]

    def set(self, name: str, ids: IntArray, values: ArrayLike) -> None:
        """Set a column at some tasks."""
        self.n_changes += name in _ENDS
        self._rows[name][ids - self.first] = values

    def in_order(self, tasks: IntArray) -> IntArray:
        """Tasks by the instant their end becomes known; those of one instant in random order, the same every time."""
        return tasks[np.lexsort((rng.hash64(self._tie, tasks), self.column("known_at", tasks)))]

    def by_rank(self, tasks: IntArray) -> IntArray:
        """Tasks that end at one instant by the rank of their end; those of one rank stay as they are."""
        return tasks[np.argsort(self.ranks(tasks), kind="stable")]

    def ranks(self, tasks: IntArray) -> IntArray:
        """The rank at which each task's end becomes known: as a report, at a check-in, or by the server's patience."""
        fate, known, patience = (self.column(name, tasks) for name in ("fate", "known_at", "loss_by"))
        at_check_in = (fate == LOST) & (known < patience)
        return np.where(fate == ARRIVES, _REPORT, np.where(at_check_in, _CHECK_IN, _DEADLINE))

    def rank_of(self, task: int) -> int:
        """`ranks` of one task."""
        fate = self.cell("fate", task)
        if fate == ARRIVES:
            return _REPORT
        return _CHECK_IN if fate == LOST and self.cell("known_at", task) < self.cell("loss_by", task) else _DEADLINE

    def ties(self, tasks: IntArray) -> NDArray[np.uint64]:
        """What orders tasks of one instant and rank."""
        return rng.hash64(self._tie, tasks)

    def is_lost_at(self, task: int, at: int) -> bool:
        """Whether a task in memory is lost at this instant, as things stand."""
        return task >= self.first and self.cell("fate", task) == LOST and self.cell("ended_at", task) == at

    def stop(self, tasks: IntArray, now: int) -> BoolArray:
        """Stop tasks now; which of them were still running (the others had been lost before)."""
        running = self.column("ended_at", tasks) > now
        self.set("ended_at", tasks[running], now)
        self.set("known_at", tasks, now)
        self.set("fate", tasks[running], STOPPED)
        return running

    @contextmanager
    def holding(self, tasks: IntArray) -> Iterator[None]:
        """Keep the rows of tasks, and of all after them, in memory for a while."""
        first = int(tasks[0])
        self._held[first] = self._held.get(first, 0) + 1
        try:
            yield
        finally:
            self._held[first] -= 1
            if not self._held[first]:
                del self._held[first]

    def unresolved(self) -> IntArray:
        """Ids of the tasks in memory whose outcome is not decided."""
        return self.first + np.flatnonzero(self._rows["outcome"][: self._size] == _IN_FLIGHT)

    def release(
        self, now: int, *, everything: bool = False, moved: Moved | None = None
    ) -> dict[str, NDArray[np.int64]] | None:
        """Take the finished rows at the front out of memory, as columns of the table `tasks` (nulls are -1).

        `everything` also takes tasks still in flight, as they stand now; `moved` says what transfers that were cut
        short had moved, where that is not in proportion to their time.
        """
        used = slice(0, self._size)
        unfinished = np.flatnonzero(self._rows["outcome"][used] == _IN_FLIGHT)
        count = self._size if everything or len(unfinished) == 0 else int(unfinished[0])
        if self._held and not everything:
            count = min(count, min(self._held) - self.first)
        if count == 0:
            return None
        rows = {name: self._rows[name][:count].copy() for name in _COLUMNS}
        rows["task"] = np.arange(self.first, self.first + count)
        rows["order"] = (rng.hash64(self._tie, rows["task"]) >> np.uint64(1)).astype(np.int64)
        rows["max_steps"] = np.where(rows["max_steps"] > 0, rows["max_steps"], -1)
        rest = self._size - count
        self._table[:rest] = self._table[count : self._size]
        self.first, self._size = self.first + count, rest
        return _as_spent(rows, now, moved)

    def _reserve(self, count: int) -> None:
        if self._size + count > len(self._table):
            grown = np.empty((max(2 * len(self._table), self._size + count), len(_COLUMNS)), np.int64)
            grown[: self._size] = self._table[: self._size]
            self._hold(grown)

    def _hold(self, table: IntArray) -> None:
        """Keep the rows in this table: row by row, so that a single task is written at once."""
        self._table = table  # (row, column)
        self._rows = {name: table[:, place] for place, name in enumerate(_COLUMNS)}
        self._one = {name: column.data for name, column in self._rows.items()}  # an entry as a Python integer
        self._bytes = table.data.cast("B")


def _as_spent(rows: dict[str, IntArray], now: int, moved: Moved | None) -> dict[str, IntArray]:
    """Cut each phase at the task's end: a device that left has computed and sent only what it had time for.

    What a phase would have been stays, as `planned_*`. A phase is whole once a later one began, however short it is.
    """
    running = (rows["outcome"] == _IN_FLIGHT) & (rows["ended_at"] > now)
    left = np.minimum(rows["ended_at"], now) - rows["dispatched_at"]
    done = left >= sum(rows[phase] for phase, _ in _PHASES)
    rows["planned_samples"], begin = rows["charged_samples"], rows["dispatched_at"]
    for phase, size in _PHASES:
        planned, spent = rows[phase], np.minimum(rows[phase], left)
        whole = done | (left > planned)
        part = rows[size] * spent // np.maximum(planned, 1)
        if moved is not None and size != "charged_samples":
            cut = np.flatnonzero(~whole & (spent > 0))
            part[cut] = moved(size, {name: column[cut] for name, column in rows.items()}, begin[cut], spent[cut])
        begin = begin + planned
        rows[size] = np.where(whole, rows[size], part)
        rows[phase], rows[f"planned_{phase}"] = spent, planned
        left = left - spent
    rows["ended_at"] = np.where(running, -1, rows["ended_at"])
    rows["known_at"] = np.where(running | (rows["known_at"] >= FOREVER), -1, rows["known_at"])
    return rows
