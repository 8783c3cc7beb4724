"""The batched executor: many clients at once, their parameters stacked along a leading dimension.

``torch.func.vmap`` takes the gradient; the rule's step works on the stacked leaves outside of it, one fused operation
per kind. Clients of a chunk are sorted by their number of steps, so the ones still training are always the first ones.
Short mini-batches are padded with a real row that has no weight; where samples of a batch see each other (BatchNorm, or
whatever else is found to do so), clients with the same batch size are taken together instead.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from textwrap import shorten
from typing import TYPE_CHECKING, TypeVar, final

import numpy as np
import torch
from typing_extensions import override

from evsim.base.errors import EvsimError, require
from evsim.base.user_code import said
from evsim.training.executors.agreement import disagreement
from evsim.training.executors.base import Executor, Job, Result, Runner, TrainTask
from evsim.training.executors.batches import steps_of
from evsim.training.executors.chunk import padding_matters, sum_chunk, train_chunk
from evsim.training.executors.doubled import in_double
from evsim.training.executors.footprint import clients_that_fit, model_bytes
from evsim.training.executors.functional import Functional
from evsim.training.executors.memory import keep_freed_memory
from evsim.training.executors.naming import out_of_memory
from evsim.training.executors.serial import Serial, SerialRunner
from evsim.training.executors.sums import Block, Weights, weights_at
from evsim.training.executors.threads import check_threads, limited_threads

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from evsim.base.vocabulary import IntArray

T = TypeVar("T")
_WINDOW_BYTES = 256 << 20  # of updates that wait for their turn
_MOST_CHUNKS_AHEAD = 4
_LONGEST_REASON = 120  # characters; torch explains itself in many more


@final
@dataclass(frozen=True, kw_only=True)
class Batched(Executor):
    """Trains many clients at once in this process, by `torch.func.vmap`.

    A model that cannot be trained this way, or gives another result than `Serial`, is trained serially, with a warning.

    Attributes:
        chunk: clients at once; if not given, as many as 96 MiB of what trains and 1 GiB of what a step keeps for its
            gradient, at most 50; on a GPU 20 times that.
        threads: threads of one operation; torch's own setting if not given.
    """

    chunk: int | None = None
    threads: int | None = None

    def __post_init__(self) -> None:
        require(self.chunk is None or self.chunk >= 1, "chunk must be >= 1", chunk=self.chunk)
        check_threads(self.threads)

    @override
    def open(self, job: Job) -> Runner:
        return BatchedRunner(job, self)


@final
class BatchedRunner(Runner):
    """Chunks of stacked clients; falls back to `Serial` where they would be wrong."""

    def __init__(self, job: Job, options: Batched) -> None:
        keep_freed_memory()
        self._job, self._threads = job, options.threads or torch.get_num_threads()
        self._functional = Functional(job)
        self._serial = SerialRunner(job, Serial(threads=self._threads))
        self._chunk = options.chunk or clients_that_fit(job)
        self._checked = False
        self._fallback = ""

    @property
    @override
    def plan(self) -> Mapping[str, object]:
        plan = {"kind": "batched", "chunk": self._chunk, "threads": self._threads}
        return {**plan, "fallback": f"serial: {self._fallback}"} if self._fallback else plan

    @override
    def run(self, tasks: Sequence[TrainTask]) -> Iterator[Result]:
        """Train in windows of a few chunks: within one, tasks of similar length go together."""
        start = 0
        while start < len(tasks):
            window = tasks[start : start + self._window()]
            start += len(window)
            yield from self._train_window(window)

    @override
    def sums(self, tasks: Sequence[TrainTask], weights: Weights) -> Iterator[Block]:
        """Train all tasks in chunks; no update waits for its turn, so there are no windows."""

        def train(some: list[TrainTask], places: IntArray) -> Block:
            block = sum_chunk(self._job, self._functional, some, weights_at(weights, places))
            return replace(block, places=places[block.places])

        if self._goes_serially(tasks):
            yield from self._serial.sums(tasks, weights)
            return
        left = np.ones(len(tasks), np.bool_)
        try:
            for places, block in self._in_chunks(tasks, train):
                left[places] = False
                yield block
        except Exception as error:  # Serial says whether it is the model's fault
            rest = np.flatnonzero(left)
            for block in self._serial.sums([tasks[place] for place in rest.tolist()], weights_at(weights, rest)):
                yield replace(block, places=rest[block.places])
            self._give_up(_first_line(error))

    @override
    def close(self) -> None:
        """Nothing to release."""

    def _window(self) -> int:
        ahead = min(_MOST_CHUNKS_AHEAD, _WINDOW_BYTES // max(1, self._chunk * model_bytes(self._job)))
        return self._chunk * max(1, ahead)

    def _train_window(self, window: Sequence[TrainTask]) -> Iterator[Result]:
        if self._goes_serially(window):
            yield from self._serial.run(window)
            return
        found: dict[int, Result] = {}
        try:
            for places, results in self._in_chunks(
                window, lambda some, _: train_chunk(self._job, self._functional, some)
            ):
                found.update(zip(places.tolist(), results, strict=True))
        except Exception as error:  # Serial says whether it is the model's fault
            yield from self._serial.run(window)
            self._give_up(_first_line(error))
            return
        yield from (found[i] for i in range(len(window)))

    def _in_chunks(
        self, tasks: Sequence[TrainTask], train: Callable[[list[TrainTask], IntArray], T]
    ) -> Iterator[tuple[IntArray, T]]:
        """Train chunks, longest tasks first; one that memory does not hold is halved and tried again.

        Gives the places of a chunk's tasks and what `train` gave for them.
        """
        order = np.argsort(-steps_of(self._job.rule.schedule, self._job.data, self._job.seed, tasks), kind="stable")
        done = 0
        while done < len(order):
            places = order[done : done + self._chunk]
            try:
                with limited_threads(self._threads):
                    gave = train([tasks[place] for place in places.tolist()], places)
            except (MemoryError, RuntimeError) as error:
                if not out_of_memory(error) or len(places) == 1:
                    raise
            else:
                done += len(places)
                yield places, gave
                continue
            self._halve(len(places))

    def _halve(self, clients: int) -> None:
        if self._job.device.type == "cuda":
            torch.cuda.empty_cache()
        self._chunk = max(1, clients // 2)
        warnings.warn(f"memory ran out with {clients} clients at once; from here on {self._chunk}", stacklevel=2)

    def _goes_serially(self, tasks: Sequence[TrainTask]) -> bool:
        """Whether tasks are trained one after the other: a single one, or any if the model cannot be batched."""
        if len(tasks) == 1:  # stacked alone it would take five times as long
            return True
        if not self._checked and tasks:
            self._check(tasks)
        return bool(self._fallback)

    def _check(self, window: Sequence[TrainTask]) -> None:
        """Train a few tasks of unequal size both ways once; whatever goes wrong ends in the serial executor."""
        self._checked = True
        sample = _sample(self._job, window)
        try:
            expected = list(self._serial.run(sample))
        except EvsimError as error:
            if out_of_memory(error):
                self._checked = False
                raise
            self._fallback = _first_line(error)  # said again, and better, when the tasks are trained in their order
            return
        reason = self._reason(sample, expected)
        if reason:
            self._give_up(reason)

    def _give_up(self, reason: str) -> None:
        """From here on train serially."""
        self._fallback = reason
        text = "the model cannot be trained in batches of clients, so one client after the other is trained"
        warnings.warn(f"{text}: {reason}; set [executor] kind = 'workers' or 'serial'", stacklevel=2)

    def _reason(self, sample: list[TrainTask], expected: Iterable[Result]) -> str:
        if self._functional.draws_globally:
            return "it draws random numbers that are not keyed (dropout inside a recurrent layer, say)"
        try:
            with limited_threads(self._threads):
                if padding_matters(self._job, self._functional, sample[0]):
                    self._functional.couples_samples = True
                found = train_chunk(self._job, self._functional, sample)
        except Exception as error:  # whatever vmap cannot do; Serial has just shown that the model works
            return _first_line(error)
        reason = disagreement(self._job, expected, found)
        return self._more_than_rounding(sample, reason) if reason else ""

    def _more_than_rounding(self, sample: list[TrainTask], reason: str) -> str:
        """The reason if the executors differ in double precision, too; "" if it was rounding."""
        if self._job.dtype == torch.float64:
            return reason
        try:
            job, tasks = in_double(self._job, sample)
            functional = Functional(job)
            functional.couples_samples = self._functional.couples_samples
            with limited_threads(self._threads):
                expected = list(SerialRunner(job, Serial(threads=self._threads)).run(tasks))
                found = train_chunk(job, functional, tasks)
        except Exception:  # a model that knows one precision only
            return reason
        return reason if disagreement(job, expected, found) else ""


def _first_line(error: Exception) -> str:
    return shorten(said(error).splitlines()[0], _LONGEST_REASON)


def _sample(job: Job, window: Sequence[TrainTask]) -> list[TrainTask]:
    """Up to three tasks: the least samples, the most, and one between; sorted by falling steps."""
    by_size = sorted(window, key=lambda task: job.data.size(task.client))
    filled = [task for task in by_size if job.data.size(task.client) > 0] or by_size
    some = [filled[place] for place in sorted({0, len(filled) // 2, len(filled) - 1})]
    return [some[place] for place in np.argsort(-steps_of(job.rule.schedule, job.data, job.seed, some), kind="stable")]
