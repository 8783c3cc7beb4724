"""What runs inside a worker process of the `workers` executor."""

from __future__ import annotations

import os
import signal
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import torch

from evsim.base.errors import EvsimError
from evsim.base.user_code import said
from evsim.training.executors.arena import Arena, pack, unpack
from evsim.training.executors.base import Job, Result, Runner, TrainTask
from evsim.training.executors.batched import Batched, BatchedRunner
from evsim.training.executors.memory import keep_freed_memory
from evsim.training.executors.naming import out_of_memory
from evsim.training.executors.serial import Serial, SerialRunner
from evsim.training.executors.sums import Weights, added_up_in_few

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from evsim.algorithms.tree import Payload

#: A received payload that lies in shared memory: slot, generation, pickled with its tensors' places.
Reference = tuple[int, int, bytes]
Message = tuple[str, bytes]  # its kind, and its content with the tensors' places


@final
@dataclass(frozen=True, eq=False)
class Station:
    """What a worker is born with.

    Attributes:
        job: the job, inherited.
        chunk: tasks trained at once; 1 trains serially.
        channels_last: memory format of serial training.
        inbox, outbox: shared memory for tasks and results; received payloads have an arena of their own.
        group: most tasks in a message.
        progress: shared, (1,): the place in its group of the task in work, where updates are added up one by one.
    """

    job: Job
    chunk: int
    channels_last: bool
    inbox: Arena
    outbox: Arena
    received: Arena
    group: int
    progress: torch.Tensor

    def slots(self, number: int) -> range:
        """Where the results of the worker's nth group go; free again when the group after it is given."""
        first = (number % 2) * self.group
        return range(first, first + self.group)


@final
@dataclass(frozen=True, eq=False)
class _Group:
    """What a worker is given at a time: its nth group; with weights, sums are wanted."""

    number: int
    tasks: Sequence[TrainTask]
    weights: Weights | None


def serve(station: Station, conn: Connection, siblings: Sequence[Connection]) -> None:
    """Train what comes through the pipe until it is closed."""
    os.setpgid(
        0, 0
    )  # the parent decides when to stop: what a terminal or a scheduler sends to its group ends it cleanly
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # what the parent does when it hears it was inherited
    for other in siblings:
        other.close()  # else this process would keep their pipes open after the parent is gone
    torch.set_num_threads(1)
    keep_freed_memory()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        runner = _runner(station)
        received = _Received(station.received)
        while True:
            try:
                number, packed, weights = conn.recv()
            except (EOFError, OSError):
                os._exit(0)
            tasks = unpack(packed, station.inbox, own=False, resolve=received.resolve)
            _serve_group(station, conn, runner, _Group(number, tasks, weights))
            for warning in told:
                conn.send(("warning", str(warning.message)))
            told.clear()


def _runner(station: Station) -> Runner:
    if station.chunk > 1:
        return BatchedRunner(station.job, Batched(chunk=station.chunk))
    return SerialRunner(station.job, Serial(channels_last=station.channels_last))


def _serve_group(station: Station, conn: Connection, runner: Runner, group: _Group) -> None:
    """Train a group and send what it gave."""
    try:
        weights = group.weights
        messages = _results(station, runner, group) if weights is None else _sums(station, runner, group, weights)
        for message in messages:
            conn.send(message)
    except Exception as error:  # whatever it is, the parent raises it again
        what = str(error) if isinstance(error, EvsimError) else said(error)
        conn.send(("memory" if out_of_memory(error) else "error", what))


def _results(station: Station, runner: Runner, group: _Group) -> Iterator[Message]:
    """A message for each result, as soon as it is there."""
    for slot, result in zip(station.slots(group.number), runner.run(group.tasks), strict=False):
        losses = result.mean_loss, result.mean_square_loss
        parts = (result.update, result.state, result.steps, *losses, dict(result.metrics))
        yield "result", pack(parts, station.outbox, range(slot, slot + 1))


def _sums(station: Station, runner: Runner, group: _Group, weights: Weights) -> Iterator[Message]:
    """One message for the sums of the group; a few updates are added in the precision of training."""
    if station.chunk > 1:
        blocks = list(runner.sums(group.tasks, weights))
    else:
        blocks = [added_up_in_few(lambda: _counted(runner.run(group.tasks), station.progress), weights)]
    yield "sums", pack(blocks, station.outbox, station.slots(group.number))


def _counted(results: Iterator[Result], progress: torch.Tensor) -> Iterator[Result]:
    """The results; tells on the way which one is in work."""
    progress[0] = 0
    for result in results:
        progress += 1
        yield result


@final
class _Received:
    """Received payloads as views of shared memory, kept until their slot is used for another."""

    def __init__(self, arena: Arena) -> None:
        self._arena = arena
        self._known: dict[int, tuple[int, Payload]] = {}

    def resolve(self, reference: Reference) -> Payload:
        """The payload behind a reference."""
        slot, generation, packed = reference
        if slot not in self._known or self._known[slot][0] != generation:
            self._known[slot] = generation, unpack(packed, self._arena, own=False)
        return self._known[slot][1]
