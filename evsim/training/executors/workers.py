"""The workers executor: a process per core, each training on one thread.

Data and model are inherited, received models and updates travel through shared memory. Two single-thread processes
beat two threads that wait for each other after every operation. Results are given in the order of the tasks; a bounded
number waits for its turn.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import final

from typing_extensions import override

from evsim.base.errors import TrainingError, require
from evsim.training.executors.base import Executor, Job, Result, Runner, TrainTask
from evsim.training.executors.pool import Group, Lost, Pool, Shape, Summed
from evsim.training.executors.sums import Block, Weights
from evsim.training.executors.threads import limited_threads

_GROUP_BYTES = 4 << 20
_SUM_BYTES = 1 << 30  # of a group that comes back as one sum; only bounds address space
_FEWEST = 4  # tasks behind a sum: less and copying sums costs as much as copying updates
_MOST_IN_GROUP = 16
_AHEAD = 4  # groups per worker that may be trained before the first one is needed


@final
@dataclass(frozen=True, kw_only=True)
class Workers(Executor):
    """Trains in processes of one thread each; needs an operating system with fork, and a CPU job.

    A worker that dies or runs out of memory is reported with its client and task; the task is tried once more in
    another worker.

    Attributes:
        workers: processes; one per usable core if not given.
        chunk: clients that a worker trains at once, as `Batched` does; 1 trains one after the other.
        channels_last: keep convolutions' weights channels last (for chunk = 1).
    """

    workers: int | None = None
    chunk: int = 1
    channels_last: bool = False

    def __post_init__(self) -> None:
        require(self.workers is None or self.workers >= 1, "workers must be >= 1", workers=self.workers)
        require(self.chunk >= 1, "chunk must be >= 1", chunk=self.chunk)

    @override
    def open(self, job: Job) -> Runner:
        if not can_fork(job):
            where = "on a GPU" if job.device.type != "cpu" else f"on {sys.platform}"
            raise TrainingError(
                f"executor.kind: 'workers' {where}; expected a CPU job on Linux; use 'batched' or 'serial'"
            )
        return WorkersRunner(job, self)


def can_fork(job: Job) -> bool:
    """Whether worker processes can be had for a job."""
    return sys.platform.startswith("linux") and job.device.type == "cpu"


def usable_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@final
class WorkersRunner(Runner):
    """Deals groups of tasks to workers and gives the results in order."""

    def __init__(self, job: Job, options: Workers) -> None:
        self._options = options
        self._workers = options.workers or usable_cores()
        self._group = options.chunk if options.chunk > 1 else _group_size(job, _GROUP_BYTES)
        self._most = options.chunk if options.chunk > 1 else _group_size(job, _SUM_BYTES)
        self._pool = Pool(job, Shape(self._workers, self._most, options.chunk, options.channels_last))

    @property
    @override
    def plan(self) -> Mapping[str, object]:
        options = self._options
        plan = {"kind": "workers", "workers": self._workers, "chunk": options.chunk}
        return plan if options.chunk > 1 else {**plan, "channels_last": options.channels_last}

    @override
    def run(self, tasks: Sequence[TrainTask]) -> Iterator[Result]:
        groups = [
            list(range(start, start + self._group)[: len(tasks) - start]) for start in range(0, len(tasks), self._group)
        ]
        run = _Run(self._pool, tasks, groups, None)
        try:
            yield from run.results()
        finally:
            self._pool.settle()  # an abandoned run leaves no results behind

    @override
    def sums(self, tasks: Sequence[TrainTask], weights: Weights) -> Iterator[Block]:
        run = _Run(self._pool, tasks, self._sum_groups(len(tasks)), weights)
        try:
            yield from run.blocks()
        finally:
            self._pool.settle()

    def _sum_groups(self, count: int) -> list[Group]:
        """Groups that get smaller towards the end, so that no worker waits long for the others."""
        groups: list[Group] = []
        start = 0
        while start < count:
            share = -(-(count - start) // (2 * self._workers))
            size = self._most if self._options.chunk > 1 else min(max(share, _FEWEST), self._most)
            groups.append(list(range(start, min(start + size, count))))
            start += size
        return groups

    @override
    def close(self) -> None:
        """Stop the workers."""
        self._pool.close()


@final
class _Run:
    """One call of `run`, or of `sums` if there are weights."""

    def __init__(
        self, pool: Pool, tasks: Sequence[TrainTask], groups: Sequence[Group], weights: Weights | None
    ) -> None:
        self._pool, self._tasks, self._weights = pool, tasks, weights
        self._groups, self._todo = groups, deque(groups)
        self._ahead = _AHEAD * pool.workers * max(map(len, groups), default=1)
        self._found: dict[int, Result] = {}
        self._blocks: dict[int, list[Block]] = {}  # by the first place of the group
        self._tries: dict[int, int] = {}
        self._failed: dict[int, str] = {}  # by place: what the model said; raised when its turn comes

    def results(self) -> Iterator[Result]:
        """Results in order, while the workers go on."""
        for place in range(len(self._tasks)):
            self._advance(place, self._found)
            yield self._found.pop(place)

    def blocks(self) -> Iterator[Block]:
        """Sums in the order of the groups, while the workers go on."""
        for group in self._groups:
            self._advance(group[0], self._blocks)
            for block in self._blocks.pop(group[0]):
                yield replace(block, places=block.places + group[0])

    @limited_threads(1)  # copying an update must not wait for a core that a worker has
    def _advance(self, place: int, found: Mapping[int, object]) -> None:
        """Keep the workers busy until what was found for this place is there."""
        self._deal(place)
        self._pump(block=False)
        while place not in found:
            if place in self._failed:
                raise TrainingError(self._failed[place])
            self._deal(place)
            self._pump(block=True)

    def _deal(self, place: int) -> None:
        """Give groups to free workers, but do not run far ahead of the result that is needed."""
        while self._todo and self._todo[0][0] < place + self._ahead:
            if not self._pool.give(self._todo[0], self._tasks, self._weights):
                return
            self._todo.popleft()

    def _pump(self, *, block: bool) -> None:
        """Take what the workers have sent."""
        for event in self._pool.events(block=block):
            if isinstance(event, Lost):
                self._retry(event)
            elif isinstance(event, Summed):
                self._blocks[event.place] = event.blocks
            else:
                self._found[event.place] = event.result(self._tasks[event.place])

    def _retry(self, lost: Lost) -> None:
        """Put the tasks of lost groups back; give up on one that was in work for the second time."""
        for place in lost.in_work:
            self._tries[place] = self._tries.get(place, 0) + 1
        tasks = [self._tasks[place] for place in lost.in_work]
        named = ", ".join(f"task {task.task} of client {task.client}" for task in tasks)
        if lost.fatal:
            self._fail(lost)
            return
        if max((self._tries[place] for place in lost.in_work), default=0) > 1:
            raise TrainingError(f"{lost.what} while it trained {named}, for the second time")
        text = f"{lost.what} while it trained {named}; tried once more in another worker"
        warnings.warn(text, RuntimeWarning, stacklevel=2)
        if self._weights is None:
            self._todo.extendleft([place] for group in reversed(lost.groups) for place in reversed(group))
        else:  # whole, so that the sums are the same
            self._todo.extendleft(reversed(lost.groups))

    def _fail(self, lost: Lost) -> None:
        """Keep an error until its turn comes: the first task in order that fails is named, as it would be serially."""
        place = lost.groups[0][0]
        self._failed[place] = lost.what
        self._todo = deque(group for group in (*lost.groups[1:], *self._todo) if group[0] < place)


def _group_size(job: Job, most_bytes: int) -> int:
    """Tasks in a message: many for a small model, where messages would cost more than training."""
    leaves = [*job.model.parameters(), *job.model.buffers()]
    model = sum(leaf.numel() * leaf.element_size() for leaf in leaves)
    return max(1, min(_MOST_IN_GROUP, most_bytes // max(1, model)))
