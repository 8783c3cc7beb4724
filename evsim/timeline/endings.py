"""The endings of tasks as a source: a calendar of the instants at which the server hears of each task's end.

Entries that are no longer true are left where they are and passed over when their turn comes: lazy deletion.
"""

from __future__ import annotations

import heapq
from collections import deque
from itertools import islice
from typing import TYPE_CHECKING, final

import numpy as np

from evsim.base.units import FOREVER
from evsim.base.vocabulary import Rank

if TYPE_CHECKING:
    from evsim.base.vocabulary import IntArray
    from evsim.timeline.ledger import Ledger


@final
class Endings:
    """Tasks in the order in which their ends become known; those of one instant in random order, the same every time.

    Tasks of one dispatch are kept as one sorted run, single ones as entries of the heap.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._runs: dict[int, tuple[IntArray, IntArray]] = {}  # number -> what is left of (known_at, tasks), sorted
        self._heads: list[tuple[int, int]] = []  # heap of (earliest known_at, run, or ~task of a single one)
        self._n_runs = 0
        self._moved: dict[int, _Moved] = {}  # tasks with entries that are not true
        self._due: deque[int] = deque()  # of this instant, taken out of the calendar, not handed over
        self.in_flight = 0

    def enter(self, tasks: IntArray) -> None:
        """New tasks."""
        self.in_flight += len(tasks)
        if len(tasks) == 1:
            task = int(tasks[0])
            heapq.heappush(self._heads, (self._ledger.cell("known_at", task), ~task))
            return
        ordered = self._ledger.in_order(tasks)
        self._keep(self._n_runs, self._ledger.column("known_at", ordered), ordered)
        self._n_runs += 1

    def move(self, tasks: IntArray) -> None:
        """The ends of these tasks, not handed over yet, become known at other instants, as the ledger now says."""
        for task, known in zip(tasks.tolist(), self._ledger.column("known_at", tasks).tolist(), strict=True):
            moved = self._moved.setdefault(task, _Moved())
            moved.known_at, moved.entries = known, moved.entries + 1
            heapq.heappush(self._heads, (known, ~task))

    def cancel(self, tasks: IntArray) -> None:
        """The server knows these ends already: they will not be handed over."""
        self.in_flight -= len(tasks)
        gone = set(tasks.tolist())
        for task in gone & self._moved.keys():
            self._moved[task].known_at = -1
        gone -= self._moved.keys()
        if self._due:
            self._due = deque(task for task in self._due if task not in gone)
        self._heads = [head for head in self._heads if ~head[1] not in gone]
        heapq.heapify(self._heads)
        for run, (known, ids) in list(self._runs.items()):  # few: one per dispatch with unfinished tasks
            kept = ~np.isin(ids, list(gone))
            if not kept.all():
                self._heads = [head for head in self._heads if head[1] != run]
                heapq.heapify(self._heads)
                del self._runs[run]
                self._keep(run, known[kept], ids[kept])

    # -- the source -------------------------------------------------------------------------------------------------

    def next(self) -> int:
        """The instant at which the next ending becomes known; FOREVER if none will."""
        if self._moved:
            self._pass_over()
        return self._heads[0][0] if self._heads else FOREVER

    def head(self) -> tuple[int, int]:
        """Instant and rank of the next ending."""
        if self._due:
            task = self._due[0]
            return self._ledger.cell("known_at", task), self._ledger.rank_of(task)
        at = self.next()
        return at, _REPORT  # the earliest there can be: `take_one` looks closer

    def take(self, now: int) -> IntArray | None:
        """Tasks whose end became known up to now, in order."""
        tasks = self._pop(now)
        if self._due:
            tasks = np.concatenate([np.array(self._due, np.int64), tasks])
            self._due.clear()
        self.in_flight -= len(tasks)
        return tasks if len(tasks) else None

    def take_one(self, now: int) -> IntArray | None:
        """The next task whose end becomes known at this instant."""
        task = self.take_single(now)
        return None if task is None else np.array([task])

    def take_single(self, now: int) -> int | None:
        """`take_one` as a plain number."""
        if self._due:
            self.in_flight -= 1
            return self._due.popleft()
        if self.alone_before(now + 1) >= 0:
            task = self.take_alone()
            if self._ledger.rank_of(task) == _REPORT:
                return task
            self.in_flight += 1
            self._due.append(task)  # it has a rank of its own to wait for
        else:
            self._due.extend(self._ledger.by_rank(self._pop(now)).tolist())
        return None

    def enter_one(self, task: int, known_at: int) -> None:
        """`enter` of one task."""
        self.in_flight += 1
        heapq.heappush(self._heads, (known_at, ~task))

    def alone_before(self, end: int) -> int:
        """The instant of the next ending, if it comes before `end`, is the only one of its instant and true; or -1."""
        heads = self._heads
        if self._moved or self._due or not heads:
            return -1
        at, run = heads[0]
        if at >= end or any(head[0] == at for head in heads[1:3]):
            return -1
        if run >= 0:
            known = self._runs[run][0]
            if len(known) > 1 and known[1] == at:
                return -1
        return at

    def take_alone(self) -> int:
        """The task of `alone_before`."""
        self.in_flight -= 1
        _, run = self._heads[0]
        if run < 0:
            heapq.heappop(self._heads)
            return ~run
        known, ids = self._runs[run]
        if len(known) > 1:
            self._runs[run] = known[1:], ids[1:]
            heapq.heapreplace(self._heads, (int(known[1]), run))
        else:
            del self._runs[run]
            heapq.heappop(self._heads)
        return int(ids[0])

    # -- looking ahead ----------------------------------------------------------------------------------------------

    def coming(self, count: int) -> list[int]:
        """The instants at which the next endings become known, ascending, at most `count`."""
        if self._moved:
            return self._truly_coming(count)
        runs = (known for known, _ in self._runs.values())
        instants = [int(known[place]) for known in runs for place in range(min(count, len(known)))]
        return heapq.nsmallest(count, instants + [known for known, run in self._heads if run < 0])

    # -- inside -----------------------------------------------------------------------------------------------------

    def _truly_coming(self, count: int) -> list[int]:
        """`coming` where ends have moved: what is not true any more is passed over, and a task is counted once."""
        found = {(known, ~run) for known, run in self._heads if run < 0 and self._holds(~run, known)}
        for known, ids in self._runs.values():
            entries = zip(known, ids, strict=True)  # as far as needed: a run can be long
            found.update(islice(((int(at), int(task)) for at, task in entries if self._holds(int(task), at)), count))
        return heapq.nsmallest(count, [known for known, _ in found])

    def _holds(self, task: int, known_at: int) -> bool:
        """Whether an entry of the calendar is the task's end."""
        moved = self._moved.get(task)
        return moved is None or moved.known_at == known_at

    def _keep(self, run: int, known: IntArray, tasks: IntArray) -> None:
        if len(tasks):
            self._runs[run] = (known, tasks)
            heapq.heappush(self._heads, (int(known[0]), run))

    def _pop(self, now: int) -> IntArray:
        """What becomes known up to now, in order."""
        heads = self._heads
        if not heads or heads[0][0] > now:
            return _NOTHING
        at, head = heapq.heappop(heads)
        if head < 0 and not self._moved and (not heads or heads[0][0] > now):
            return np.array([~head])  # nearly always, where slots are refilled one by one
        heapq.heappush(heads, (at, head))
        return self._pop_many(now)

    def _pop_many(self, now: int) -> IntArray:
        heads = self._heads
        parts: list[IntArray] = []
        singles: list[int] = []
        while heads and heads[0][0] <= now:
            at, run = heapq.heappop(heads)
            if run < 0:
                if self._is_true(~run, at):
                    singles.append(~run)
                continue
            known, ids = self._runs.pop(run)
            cut = 1 if len(known) == 1 or known[1] > now else int(known.searchsorted(now, side="right"))
            parts.append(self._true_ones(ids[:cut], known[:cut]))
            if cut < len(known):
                self._keep(run, known[cut:], ids[cut:])
        if singles:
            parts.append(np.array(singles))
        if len(parts) == 1 and len(singles) <= 1:
            return parts[0]
        return self._ledger.in_order(np.concatenate(parts)) if parts else _NOTHING

    def _is_true(self, task: int, known_at: int) -> bool:
        """Whether an entry taken off the calendar is the task's end."""
        moved = self._moved.get(task)
        if moved is None:
            return True
        true = moved.known_at == known_at
        moved.known_at = -1 if true else moved.known_at
        moved.entries -= 1
        if moved.entries < 0:  # the one it was entered with, and one for each move
            del self._moved[task]
        return true

    def _true_ones(self, tasks: IntArray, known: IntArray) -> IntArray:
        if not self._moved:
            return tasks
        entries = zip(tasks.tolist(), known.tolist(), strict=True)
        return np.array([task for task, at in entries if self._is_true(task, at)], np.int64)

    def _pass_over(self) -> None:
        """Take what is not true off the front of the calendar."""
        while self._heads:
            at, run = self._heads[0]
            if run < 0:
                if self._holds(~run, at):
                    return
                heapq.heappop(self._heads)
                self._is_true(~run, at)
                continue
            known, ids = self._runs[run]
            if self._holds(int(ids[0]), at):
                return
            heapq.heappop(self._heads)
            del self._runs[run]
            self._is_true(int(ids[0]), at)
            self._keep(run, known[1:], ids[1:])


@final
class _Moved:
    """A task with entries that are not true: when its end does become known (-1: is known), and how many moves."""

    __slots__ = ("entries", "known_at")

    def __init__(self) -> None:
        self.known_at, self.entries = -1, 0


_REPORT = int(Rank.REPORT)
_NOTHING: IntArray = np.empty(0, np.int64)
