"""Every task of a run, as columns: what was dispatched, how it ends, when the server knows.

A task's fate is determined by the traces at dispatch, so its ending is data, not a process. The book hands out endings
in the order in which they become known and releases finished rows, oldest first, to be written.
"""

from __future__ import annotations

import heapq
import struct
from enum import IntEnum
from operator import itemgetter
from typing import TYPE_CHECKING, final

import numpy as np

from evsim.base import rng
from evsim.base.units import FOREVER
from evsim.base.vocabulary import Outcome

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import ArrayLike, NDArray

    from evsim.base.vocabulary import IntArray

_COLUMNS = (
    "client",
    "round",
    "version",
    "kind",
    "nth",  # how many tasks the client had before
    "max_steps",  # partial work: steps that fit before the deadline; 0 for no limit
    "dispatched_at",
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
KINDS = ("train", "query")
#: Of the float64 NaN, as the column `weight` wants it.
NO_WEIGHT = int(np.array(np.nan).view(np.int64))
_NOBODY = np.empty(0, np.int64)
_PHASES = (("download_ms", "bytes_down"), ("compute_ms", "charged_samples"), ("upload_ms", "bytes_up"))
_ROW = struct.Struct(f"={len(_COLUMNS)}q")
_in_order = itemgetter(*_COLUMNS)


class Fate(IntEnum):
    """How a task ends, as the traces and the server's timeout have it."""

    LOST = 0
    ARRIVES = 1
    STOPPED = 2


@final
class TaskBook:
    """Tasks by id, ids in order of dispatch; only rows not yet written are kept in memory."""

    def __init__(self, seed: int) -> None:
        self._tie = rng.key(seed, "tie")
        self._first = 0  # id of row 0
        self._size = 0
        self._hold(np.empty((1024, len(_COLUMNS)), np.int64))
        self._runs: dict[int, tuple[IntArray, IntArray]] = {}  # dispatch -> what is left of (known_at, ids), sorted
        self._heads: list[tuple[int, int]] = []  # heap of (earliest known_at, dispatch, or ~task of a single one)
        self._n_runs = 0
        self.in_flight = 0

    def __len__(self) -> int:
        return self._first + self._size

    def add(self, values: Mapping[str, ArrayLike]) -> IntArray:
        """Enter the tasks of one dispatch; columns not given are 0. Returns their ids."""
        clients = np.asarray(values["client"], np.int64)
        ids = np.arange(len(self), len(self) + len(clients), dtype=np.int64)
        self._reserve(len(clients))
        new = slice(self._size, self._size + len(clients))
        for name in _COLUMNS:
            self._rows[name][new] = values.get(name, 0)
        self._size += len(clients)
        self.in_flight += len(clients)
        self._schedule(ids)
        return ids

    def add_one(self, values: Mapping[str, int]) -> int:
        """Enter one task with a value for every column; a fiftieth of the cost of `add`. Returns its id."""
        self._reserve(1)
        row = self._size
        task = self._first + row
        _ROW.pack_into(self._bytes, row * _ROW.size, *_in_order(values))
        self._size += 1
        self.in_flight += 1
        heapq.heappush(self._heads, (values["known_at"], ~task))
        return task

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
        return self._rows[name][ids - self._first]

    def cell(self, name: str, task: int) -> int:
        """A column at one task."""
        return self._one[name][task - self._first]

    def set(self, name: str, ids: IntArray, values: ArrayLike) -> None:
        """Set a column at some tasks."""
        self._rows[name][ids - self._first] = values

    def in_order(self, ids: IntArray) -> IntArray:
        """The ids by the instant they become known; those of one instant in random order, the same every time."""
        return ids[np.lexsort((rng.hash64(self._tie, ids), self.column("known_at", ids)))]

    def pop_known(self, now: int) -> IntArray:
        """Ids of the tasks whose end became known up to now and were not handed out before, in order."""
        parts: list[IntArray] = []
        singles: list[int] = []
        while self._heads and self._heads[0][0] <= now:
            _, run = heapq.heappop(self._heads)
            if run < 0:
                singles.append(~run)
                continue
            known, ids = self._runs.pop(run)
            cut = 1 if len(known) == 1 else int(np.searchsorted(known, now, side="right"))
            parts.append(ids[:cut])
            if cut < len(known):
                self._keep_run(run, known[cut:], ids[cut:])
        if singles:
            parts.append(np.array(singles))
        if not parts:
            return _NOBODY
        ids = parts[0] if len(parts) == 1 and len(singles) <= 1 else self.in_order(np.concatenate(parts))
        self.in_flight -= len(ids)
        return ids

    def pop_one(self, now: int) -> int:
        """The task of `pop_known` if it is exactly one, entered by `add_one`; otherwise -1, and nothing changes."""
        heads = self._heads
        if not heads or heads[0][0] > now or heads[0][1] >= 0:
            return -1
        known, head = heapq.heappop(heads)
        if heads and heads[0][0] <= now:
            heapq.heappush(heads, (known, head))
            return -1
        self.in_flight -= 1
        return ~head

    def next_instant(self) -> int:
        """The instant at which the next ending becomes known; FOREVER if none will."""
        return self._heads[0][0] if self._heads else FOREVER

    def next_known(self, count: int) -> list[int]:
        """The instants at which the next endings become known, ascending, at most `count`."""
        instants = [int(known[i]) for known, _ in self._runs.values() for i in range(min(count, len(known)))]
        return heapq.nsmallest(count, instants + [known for known, run in self._heads if run < 0])

    def abort(self, ids: IntArray, now: int) -> IntArray:
        """Stop tasks now; returns those that were still running (the others had been lost before)."""
        running = ids[self.column("ended_at", ids) > now]
        self.set("ended_at", running, now)
        self.set("known_at", ids, now)
        self.set("fate", running, Fate.STOPPED)
        self.set("outcome", running, Outcome.ABORTED)
        wanted = set(np.unique(self.column("round", ids)).tolist())
        gone = {~task for task in ids.tolist()}
        self._heads = [head for head in self._heads if head[1] not in gone]
        heapq.heapify(self._heads)
        for run, (known, tasks) in list(self._runs.items()):  # few runs: one per dispatch with unfinished tasks
            if int(self.column("round", tasks[:1])[0]) in wanted:
                keep = ~np.isin(tasks, ids)
                self._heads = [head for head in self._heads if head[1] != run]
                heapq.heapify(self._heads)
                del self._runs[run]
                self._keep_run(run, known[keep], tasks[keep])
        self.in_flight -= len(ids)
        return running

    def unresolved(self) -> IntArray:
        """Ids of the tasks in memory whose outcome is not decided."""
        return self._first + np.flatnonzero(self._rows["outcome"][: self._size] == Outcome.IN_FLIGHT)

    def release(self, now: int, *, everything: bool = False) -> dict[str, NDArray[np.int64]] | None:
        """Take the finished rows at the front out of memory, as columns of the table `tasks` (nulls are -1).

        `everything` also takes tasks still in flight, as they stand now.
        """
        used = slice(0, self._size)
        unfinished = np.flatnonzero(self._rows["outcome"][used] == Outcome.IN_FLIGHT)
        count = self._size if everything or len(unfinished) == 0 else int(unfinished[0])
        if count == 0:
            return None
        rows = {name: self._rows[name][:count].copy() for name in _COLUMNS}
        rows["task"] = np.arange(self._first, self._first + count)
        rows["order"] = (rng.hash64(self._tie, rows["task"]) >> np.uint64(1)).astype(np.int64)
        rows["max_steps"] = np.where(rows["max_steps"] > 0, rows["max_steps"], -1)
        rest = self._size - count
        self._table[:rest] = self._table[count : self._size]
        self._first, self._size = self._first + count, rest
        return _as_spent(rows, now)

    def _schedule(self, ids: IntArray) -> None:
        ordered = self.in_order(ids) if len(ids) > 1 else ids
        self._keep_run(self._n_runs, self.column("known_at", ordered), ordered)
        self._n_runs += 1

    def _keep_run(self, run: int, known: IntArray, ids: IntArray) -> None:
        if len(ids):
            self._runs[run] = (known, ids)
            heapq.heappush(self._heads, (int(known[0]), run))

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


def _as_spent(rows: dict[str, IntArray], now: int) -> dict[str, IntArray]:
    """Cut each phase at the task's end: a device that left has computed and sent only what it had time for.

    What a phase would have been stays, as `planned_*`. A phase is whole once a later one began, however short it is.
    """
    running = (rows["outcome"] == Outcome.IN_FLIGHT) & (rows["ended_at"] > now)
    left = np.minimum(rows["ended_at"], now) - rows["dispatched_at"]
    done = left >= sum(rows[phase] for phase, _ in _PHASES)
    rows["planned_samples"] = rows["charged_samples"]
    for phase, size in _PHASES:
        planned, spent = rows[phase], np.minimum(rows[phase], left)
        whole = done | (left > planned)
        rows[size] = np.where(whole, rows[size], rows[size] * spent // np.maximum(planned, 1))
        rows[phase], rows[f"planned_{phase}"] = spent, planned
        left = left - spent
    rows["ended_at"] = np.where(running, -1, rows["ended_at"])
    rows["known_at"] = np.where(running | (rows["known_at"] >= FOREVER), -1, rows["known_at"])
    return rows
