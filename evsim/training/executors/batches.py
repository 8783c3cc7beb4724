"""Which samples a task uses in which step: a function of names only, the same for every executor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np

from evsim.algorithms.base import Schedule
from evsim.algorithms.schedule import TaskNames
from evsim.base import rng
from evsim.base.vocabulary import BoolArray, IntArray
from evsim.training.data.samples import TrainingData
from evsim.training.executors.base import TrainTask

if TYPE_CHECKING:
    from collections.abc import Sequence


def batches(
    schedule: Schedule, n_samples: int, key: int, client: int, nth: int, steps: int | None = None
) -> list[IntArray]:
    """Positions within the client's samples, one array per step; every pass has a fresh random order.

    `key` is ``rng.key(seed, "local")``; `nth` counts the client's tasks; `steps` is asked for where they are drawn.
    """
    steps = int(schedule.n_steps(np.asarray([n_samples]))[0]) if steps is None else steps
    size, used = schedule.batch_size, int(schedule.per_pass(np.asarray([n_samples]))[1][0])
    found: list[IntArray] = []
    epoch = 0
    while len(found) < steps:
        order = np.argsort(rng.hash64(key, client, nth, epoch, np.arange(n_samples)), kind="stable")[:used]
        found += [order[start : start + size] for start in range(0, used, size)]
        epoch += 1
    return found[:steps]


def steps_of(schedule: Schedule, data: TrainingData, seed: int, tasks: Sequence[TrainTask]) -> IntArray:
    """Steps of each task: as scheduled, or fewer where a task is cut short."""
    columns = ((data.size(task.client), task.max_steps, task.client, task.nth) for task in tasks)
    sizes, limits, clients, nth = np.array(list(columns), dtype=np.int64).reshape(-1, 4).T
    steps = schedule.n_steps(sizes, TaskNames(seed, clients, nth), _batch_sizes(schedule, tasks))
    return np.where(limits > 0, np.minimum(steps, limits), steps)


def _batch_sizes(schedule: Schedule, tasks: Sequence[TrainTask]) -> IntArray:
    return np.array([task.batch_size or schedule.batch_size for task in tasks], dtype=np.int64)


@final
@dataclass(frozen=True, eq=False)
class BatchPlan:
    """The mini-batches of several tasks at once.

    Attributes:
        rows: row numbers in the data, (tasks, steps, batch); a place without a sample of its own holds a real row of
            the same client (0 if it has none), since zeros can make a loss that is not finite.
        counts: samples of each step, (tasks, steps); they come first in their batch.
        steps: steps of each task, (tasks,).
        keys: a key per step for draws such as dropout, int64, (tasks, steps).
    """

    rows: IntArray
    counts: IntArray
    steps: IntArray
    keys: IntArray


def plan_batches(schedule: Schedule, data: TrainingData, seed: int, tasks: Sequence[TrainTask]) -> BatchPlan:
    """What `batches` gives for each task, found for all of them in a few array operations."""
    clients = np.array([task.client for task in tasks], dtype=np.int64)
    nths = np.array([task.nth for task in tasks], dtype=np.int64)
    sizes = data.offsets[clients + 1] - data.offsets[clients]
    steps = steps_of(schedule, data, seed, tasks)
    own = _batch_sizes(schedule, tasks)
    width = int(np.minimum(own, sizes).max(initial=0))
    shape = (len(tasks), int(steps.max(initial=0)))
    rows = np.empty((*shape, width), dtype=np.int64)
    rows[:] = _first_rows(data, clients, sizes)[:, None, None]
    counts = np.zeros(shape, dtype=np.int64)
    _fill(rows, counts, _Epochs(schedule, data, rng.key(seed, "local"), clients, nths, sizes, own, steps))
    keys = rng.hash64(rng.key(seed, "step"), clients[:, None], nths[:, None], np.arange(shape[1]))
    return BatchPlan(rows, counts, steps, keys.view(np.int64))


@final
@dataclass(frozen=True, eq=False)
class _Epochs:
    schedule: Schedule
    data: TrainingData
    key: int
    clients: IntArray
    nths: IntArray
    sizes: IntArray  # of the clients' data
    own: IntArray  # of the clients' mini-batches
    steps: IntArray


def _fill(rows: IntArray, counts: IntArray, of: _Epochs) -> None:
    """Write every pass over the samples into its places."""
    per_epoch, used = of.schedule.per_pass(of.sizes, of.own)
    epoch, left = 0, per_epoch > 0
    while left.any():
        who = np.flatnonzero(left)
        task = np.repeat(who, of.sizes[who])
        within = np.arange(len(task)) - np.repeat(np.cumsum(of.sizes[who]) - of.sizes[who], of.sizes[who])
        draws = rng.hash64(of.key, of.clients[task], of.nths[task], epoch, within)
        order = np.lexsort((draws, task))  # stable: equal draws keep their order, as in `batches`
        own = of.data.index[of.data.offsets[of.clients[task]] + within[order]]
        size = of.own[task]
        step = epoch * per_epoch[task] + within // size
        kept = (step < of.steps[task]) & (within < used[task])
        rows[task[kept], step[kept], within[kept] % size[kept]] = own[kept]
        np.add.at(counts, (task[kept], step[kept]), 1)
        epoch += 1
        left = per_epoch * epoch < of.steps


def _first_rows(data: TrainingData, clients: IntArray, sizes: IntArray) -> IntArray:
    first = np.zeros(len(clients), dtype=np.int64)
    filled: BoolArray = sizes > 0
    first[filled] = data.index[data.offsets[clients[filled]]]
    return first
