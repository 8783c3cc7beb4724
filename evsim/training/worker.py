"""What runs inside a worker process of the `workers` executor."""

from __future__ import annotations

import os
import signal
import traceback
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import torch

from evsim.training.arena import Arena, pack, unpack
from evsim.training.base import Job, Runner, TrainTask
from evsim.training.batched import Batched, BatchedRunner, out_of_memory
from evsim.training.memory import keep_freed_memory
from evsim.training.serial import Serial, SerialRunner

if TYPE_CHECKING:
    from collections.abc import Sequence
    from multiprocessing.connection import Connection

    from evsim.algorithms.tree import Payload

#: A received payload that lies in shared memory: slot, generation, pickled with its tensors' places.
Reference = tuple[int, int, bytes]


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
    """

    job: Job
    chunk: int
    channels_last: bool
    inbox: Arena
    outbox: Arena
    received: Arena
    group: int


def serve(station: Station, conn: Connection, siblings: Sequence[Connection]) -> None:
    """Train what comes through the pipe until it is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when to stop
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
                number, packed = conn.recv()
            except (EOFError, OSError):
                os._exit(0)
            tasks = unpack(packed, station.inbox, own=False, resolve=received.resolve)
            _train(station, conn, runner, number, tasks)
            for warning in told:
                conn.send(("warning", str(warning.message)))
            told.clear()


def _runner(station: Station) -> Runner:
    if station.chunk > 1:
        return BatchedRunner(station.job, Batched(chunk=station.chunk))
    return SerialRunner(station.job, Serial(channels_last=station.channels_last))


def _train(station: Station, conn: Connection, runner: Runner, number: int, tasks: Sequence[TrainTask]) -> None:
    """Train a group and send a result as soon as it is there; its slot is free again when the group is done."""
    try:
        for place, result in enumerate(runner.run(tasks)):
            slot = (number % 2) * station.group + place
            losses = result.mean_loss, result.mean_square_loss
            parts = (result.update, result.state, result.steps, *losses, dict(result.metrics))
            conn.send(("result", pack(parts, station.outbox, slot)))
    except Exception as error:  # whatever it is, the parent says which task it was
        what = traceback.format_exception_only(error)[-1].strip()
        conn.send(("memory" if out_of_memory(error) else "error", what))


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
