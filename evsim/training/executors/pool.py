"""A pool of forked workers: who has which tasks, what lies in shared memory, and who died."""

from __future__ import annotations

import multiprocessing
import signal
import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkProcess
from typing import final

import numpy as np
import torch

from evsim.algorithms.base import State
from evsim.algorithms.tree import Payload
from evsim.training.executors.arena import Arena, pack, unpack
from evsim.training.executors.base import Job, Result, TrainTask
from evsim.training.executors.sums import Block, Weights, weights_at
from evsim.training.executors.worker import Reference, Station, serve

Group = list[int]  # places of tasks in the run
_OUTSTANDING = 2  # groups a worker has at once: one in work, one waiting, so that it never idles
_ROOM = 4  # slots hold this many models: update, client state, controls; what is larger goes through the pipe
_MARGIN = 1 << 16


@final
@dataclass(frozen=True)
class Shape:
    """How a pool is built: processes, tasks in a group, tasks at once, memory format."""

    workers: int
    group: int
    chunk: int
    channels_last: bool


@final
@dataclass(frozen=True)
class Lost:
    """A worker that died or could not train.

    Attributes:
        what: what happened to it, or the whole message of a fatal error.
        groups: its unfinished tasks.
        in_work: those it was training.
        fatal: whether trying again is pointless.
    """

    what: str
    groups: list[Group]
    in_work: Group
    fatal: bool


@final
@dataclass(frozen=True)
class Summed:
    """The sums that a worker has sent, for a group that begins at this place of the run; its blocks count from 0."""

    place: int
    blocks: list[Block]


@final
@dataclass(frozen=True, eq=False)
class Trained:
    """A result that a worker has sent, for the task at this place of the run."""

    place: int
    update: Payload
    state: State
    steps: int
    mean_loss: float
    mean_square_loss: float
    metrics: dict[str, float]

    def result(self, task: TrainTask) -> Result:
        """The result, with its task."""
        return Result(task, self.update, self.state, self.steps, self.mean_loss, self.mean_square_loss, self.metrics)


@final
@dataclass(eq=False)
class _Worker:
    process: ForkProcess
    conn: Connection
    station: Station
    summing: bool = False  # what it is asked for
    groups: deque[Group] = field(default_factory=deque)
    slots: deque[list[int]] = field(default_factory=deque)  # of received payloads, by group
    given: int = 0


@final
class Pool:
    """Workers that are started when first needed."""

    def __init__(self, job: Job, shape: Shape) -> None:
        self._job, self._shape, self.workers = job, shape, shape.workers
        leaves = [*job.model.parameters(), *job.model.buffers()]
        model = sum(leaf.numel() * leaf.element_size() for leaf in leaves)
        self._slot_bytes = _ROOM * model + _MARGIN
        self._received = _ReceivedSlots(shape.workers * _OUTSTANDING * shape.group, self._slot_bytes)
        self._alive: list[_Worker] = []

    def give(self, group: Group, tasks: Sequence[TrainTask], weights: Weights | None) -> bool:
        """Give a group to the worker with the least to do, for sums if there are weights; False if all have enough."""
        self._start()
        worker = min(self._alive, key=lambda each: len(each.groups))
        if len(worker.groups) >= _OUTSTANDING:
            return False
        some = [tasks[place] for place in group]
        names = {id(task.received): self._received.acquire(task.received) for task in _first_of_each(some)}
        slot = worker.given % _OUTSTANDING
        message = pack(some, worker.station.inbox, range(slot, slot + 1), lambda obj: names.get(id(obj)))
        own = None if weights is None else weights_at(weights, np.array(group))
        with suppress(OSError):  # it died; its group is found lost when its pipe is read
            worker.conn.send((worker.given, message, own))
        worker.summing = weights is not None
        worker.given += 1
        worker.groups.append(list(group))
        worker.slots.append([slot for slot, _, _ in names.values()])
        return True

    def events(self, *, block: bool) -> Iterator[Lost | Trained | Summed]:
        """What the workers have sent since the last call; with `block`, at least one event."""
        busy = {worker.conn: worker for worker in self._alive if worker.groups}
        for conn in wait(list(busy), timeout=None if block else 0):
            event = self._read(busy[conn])  # type: ignore[index]
            if event is not None:
                yield event

    def settle(self) -> None:
        """Stop workers that still have something to do for a run that is over."""
        for worker in [each for each in self._alive if each.groups]:
            self._drop(worker)

    def close(self) -> None:
        """Stop all workers."""
        for worker in list(self._alive):
            self._drop(worker)

    def _read(self, worker: _Worker) -> Lost | Trained | Summed | None:
        try:
            kind, content = worker.conn.recv()
        except (EOFError, OSError):
            return self._died(worker)
        if kind == "warning":
            warnings.warn(content, stacklevel=2)
            return None
        if kind == "result":
            return Trained(self._next_place(worker), *unpack(content, worker.station.outbox, own=True))
        if kind == "sums":
            return Summed(self._finish_group(worker), unpack(content, worker.station.outbox, own=True))
        if kind == "error":
            return self._lose(worker, content, fatal=True)
        return self._lose(worker, f"a worker failed ({content})", fatal=False)

    def _lose(self, worker: _Worker, what: str, *, fatal: bool) -> Lost:
        """Give a worker up: it may have more to do, and its memory is in an unknown state."""
        groups = [list(group) for group in worker.groups]
        current = groups[0] if groups else []
        done = int(worker.station.progress) if worker.summing else 0  # else finished tasks have left the group
        in_work = current if self._shape.chunk > 1 else current[min(done, len(current) - 1) :][:1]
        self._drop(worker)
        return Lost(what, groups, in_work, fatal)

    def _finish_group(self, worker: _Worker) -> int:
        """The first place of the group whose sums have come."""
        self._received.release(worker.slots.popleft())
        return worker.groups.popleft()[0]

    def _next_place(self, worker: _Worker) -> int:
        """The task whose result has come; a worker sends results in order."""
        group = worker.groups[0]
        place = group.pop(0)
        if not group:
            worker.groups.popleft()
            self._received.release(worker.slots.popleft())
        return place

    def _died(self, worker: _Worker) -> Lost:
        worker.process.join(1.0)
        code = worker.process.exitcode
        if code is not None and code < 0:
            hint = "; perhaps the machine ran out of memory" if -code == signal.SIGKILL else ""
            return self._lose(worker, f"a worker was ended by signal {signal.Signals(-code).name}{hint}", fatal=False)
        return self._lose(worker, f"a worker ended by itself (exit code {code})", fatal=False)

    def _start(self) -> None:
        """Fork what is missing."""
        for worker in [each for each in self._alive if not each.groups and not each.process.is_alive()]:
            self._drop(worker)
        context = multiprocessing.get_context("fork")
        while len(self._alive) < self._shape.workers:
            ours, theirs = context.Pipe()
            station = self._station()
            siblings = [ours, *(worker.conn for worker in self._alive)]
            process = context.Process(target=serve, args=(station, theirs, siblings), daemon=True)
            with warnings.catch_warnings():
                # forking beside torch's threads: the worker uses one thread and none of theirs
                warnings.simplefilter("ignore", DeprecationWarning)
                process.start()
            theirs.close()
            self._alive.append(_Worker(process, ours, station))

    def _station(self) -> Station:
        shape = self._shape
        boxes = Arena(_OUTSTANDING, self._slot_bytes * shape.group), Arena(_OUTSTANDING * shape.group, self._slot_bytes)
        progress = Arena(1, 8).view(0, torch.int64, (1,)).zero_()
        return Station(self._job, shape.chunk, shape.channels_last, *boxes, self._received.arena, shape.group, progress)

    def _drop(self, worker: _Worker) -> None:
        self._alive.remove(worker)
        for slots in worker.slots:
            self._received.release(slots)
        worker.conn.close()
        worker.process.terminate()
        worker.process.join()
        worker.process.close()


def _first_of_each(tasks: Sequence[TrainTask]) -> list[TrainTask]:
    """One task for each received payload."""
    return list({id(task.received): task for task in tasks}.values())


@final
class _ReceivedSlots:
    """Received payloads in shared memory, each written once however many tasks have it."""

    def __init__(self, slots: int, slot_bytes: int) -> None:
        self.arena = Arena(slots, slot_bytes)
        self._users = [0] * slots
        self._written = [0] * slots  # the generation in each slot; 0: never used
        self._generation = 0
        self._known: dict[int, tuple[Payload, Reference]] = {}  # by identity; the payload is kept alive

    def acquire(self, payload: Payload) -> Reference:
        """Where the payload lies; it stays there until it is released as often as it was acquired."""
        if id(payload) not in self._known:
            self._write(payload)
        reference = self._known[id(payload)][1]
        self._users[reference[0]] += 1
        return reference

    def release(self, slots: Sequence[int]) -> None:
        """One user less for each of these slots."""
        for slot in slots:
            self._users[slot] -= 1

    def _write(self, payload: Payload) -> None:
        free = [slot for slot, users in enumerate(self._users) if users == 0]
        slot = min(free, key=lambda each: self._written[each] or self._generation + 1)  # used pages before fresh ones
        self._known = {name: entry for name, entry in self._known.items() if entry[1][0] != slot}
        self._generation += 1
        self._written[slot] = self._generation
        self._known[id(payload)] = payload, (slot, self._generation, pack(payload, self.arena, range(slot, slot + 1)))
