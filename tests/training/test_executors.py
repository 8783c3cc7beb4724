"""Every executor passes the contract."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from evsim.algorithms.base import Schedule
from evsim.base import rng
from evsim.testing.executors import (
    MODELS,
    ExecutorContract,
    ZooContract,
    assert_agree,
    make_job,
    make_tasks,
    mlp,
    opened,
)
from evsim.testing.zoo import ZOO, made
from evsim.training.data.samples import Ahead, Batch, fits
from evsim.training.data.transforms.base import Keys
from evsim.training.executors import batched, chunk
from evsim.training.executors.base import Executor, Job, Result, TrainTask
from evsim.training.executors.batched import Batched
from evsim.training.executors.batches import batches, plan_batches
from evsim.training.executors.calibration import describe
from evsim.training.executors.chunk import train_chunk
from evsim.training.executors.dropout import KeyedDropout, keyed, set_keys
from evsim.training.executors.functional import Functional
from evsim.training.executors.serial import Serial
from evsim.training.executors.sums import added_up
from evsim.training.executors.workers import Workers


class TestSerial(ExecutorContract):
    def make(self) -> Executor:
        return Serial(threads=1)


class TestSerialChannelsLast(ExecutorContract):
    def make(self) -> Executor:
        return Serial(channels_last=True)


class TestBatched(ExecutorContract, ZooContract):
    def make(self) -> Executor:
        return Batched(chunk=4)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", ["weight_norm", "older_weight_norm", "orthogonal", "attention"])
def test_an_operation_that_vmap_does_one_by_one_trains_as_serially_without_a_word(name: str) -> None:
    job = make_job(made(ZOO[name]), sizes=(6, 5))
    with opened(Serial(threads=1), job) as serial, opened(Batched(), job) as batched_too:  # to give up would be a word
        assert_agree(job, list(serial(make_tasks(job))), list(batched_too(make_tasks(job))))


class TestBatchedAllAtOnce(ExecutorContract):
    def make(self) -> Executor:
        return Batched(threads=1)


class TestWorkers(ExecutorContract, ZooContract):
    def make(self) -> Executor:
        return Workers(workers=2)


class TestWorkersInChunks(ExecutorContract, ZooContract):
    def make(self) -> Executor:
        return Workers(workers=2, chunk=3)


@pytest.mark.parametrize("executor", [Batched(chunk=4), Workers(workers=2, chunk=4)], ids=describe)
def test_tasks_cut_short_train_as_serially(executor: Executor) -> None:
    job = make_job(MODELS["dropout"]())
    tasks = [
        replace(task, max_steps=limit) for task, limit in zip(make_tasks(job), (2, 0, 9, 1, 3, 0, 1, 7), strict=True)
    ]
    with opened(Serial(), job) as run:
        expected = run(tasks)
    assert [result.steps for result in expected] == [2, 0, 2, 1, 3, 2, 1, 7]
    with opened(executor, job) as run:
        assert_agree(job, expected, run(tasks))


@pytest.mark.parametrize("executor", [Serial(), Batched(chunk=4)], ids=describe)
@pytest.mark.parametrize("model", ["mlp", "batch_norm"])
def test_streamed_samples_train_as_resident_ones(executor: Executor, model: str) -> None:
    sizes = (14, 0, 2, 26, 40, 6, 16, 26)
    job = make_job(MODELS[model](), sizes=sizes)
    streamed = replace(job, data=replace(job.data, streamed=True))
    with opened(executor, job) as run, opened(executor, streamed) as run_streamed:
        assert_agree(job, run(make_tasks(job)), run_streamed(make_tasks(job)))


def test_every_step_but_the_first_finds_its_samples_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    job = make_job(mlp())
    job = replace(job, data=replace(job.data, streamed=True))
    ready: list[tuple[int, bool]] = []

    def noted(self: Ahead, step: int, rows: torch.Tensor, keys: Keys) -> Batch:
        ready.append((step, self._held is not None and self._held[0] == step))
        batch = get(self, step, rows, keys)
        assert batch[0].shape[:2] == rows.shape
        return batch

    get = Ahead.get
    with opened(Batched(chunk=8), job) as run:
        run(make_tasks(job)[:2])  # the first tasks are checked against Serial
        monkeypatch.setattr(Ahead, "get", noted)
        run(make_tasks(job))
    assert ready == [(step, step > 0) for step in range(10)]  # 20 samples in batches of 4, twice


@pytest.mark.parametrize(("free", "streams"), [(1000, True), (10_000_000, False)])
def test_data_that_do_not_fit_on_a_gpu_stay_in_host_memory(
    monkeypatch: pytest.MonkeyPatch, free: int, streams: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (free, 0))
    assert fits(torch.device("cuda"), torch.zeros(1000)) != streams
    assert fits(torch.device("cpu"), torch.zeros(1000))


def test_little_memory_halves_the_chunk_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    job = make_job(mlp())
    tasks = make_tasks(job)

    def scarce(job: Job, functional: Functional, some: Sequence[TrainTask]) -> list[Result]:
        if len(some) > 3:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return train_chunk(job, functional, some)

    monkeypatch.setattr(batched, "train_chunk", scarce)
    runner = Batched(chunk=8).open(job)
    with pytest.warns(UserWarning, match="memory ran out") as told:
        found = list(runner.run(tasks))
    assert [str(each.message) for each in told] == [
        "memory ran out with 8 clients at once; from here on 4",
        "memory ran out with 4 clients at once; from here on 2",
    ]
    assert runner.plan["chunk"] == 2
    with opened(Serial(), job) as run:
        assert_agree(job, run(tasks), found)


class _MixesSamples(nn.Module):
    """Its logits depend on which other samples are in the batch, in a way no executor can know."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = mlp()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.inner(x - x.mean(0))
        return logits


def test_samples_that_see_each_other_are_found_out_and_never_padded() -> None:
    job = make_job(_MixesSamples())
    tasks = make_tasks(job)
    with opened(Serial(), job) as run:
        expected = run(tasks)
    with opened(Batched(chunk=4), job) as run:
        assert_agree(job, expected, run(tasks))


def test_one_task_goes_the_serial_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batched, "train_chunk", None)
    monkeypatch.setattr(batched, "sum_chunk", None)
    job = make_job(mlp())
    runner = Batched(chunk=4).open(job)
    for task in make_tasks(job):
        with opened(Serial(), job) as run:
            assert_agree(job, run([task]), list(runner.run([task])))
        (block,) = runner.sums([task], {"": np.ones(1)})
        assert block.places.tolist() == [0]
    assert "fallback" not in runner.plan


@pytest.mark.parametrize("sums", [False, True])
def test_what_cannot_be_batched_later_on_is_trained_serially_from_there_on(
    monkeypatch: pytest.MonkeyPatch, *, sums: bool
) -> None:
    job = make_job(mlp())
    tasks = [task for nth in range(2) for task in make_tasks(job, nth=nth)]
    calls: list[int] = []

    def grudging(*given: Any) -> Any:
        calls.append(len(given[2]))
        if len(calls) > 2:
            raise ValueError("no more of it")
        return (chunk.sum_chunk if sums else train_chunk)(*given)

    with opened(Serial(), job) as run:
        expected = run(tasks)
    runner = Batched(chunk=4).open(job)
    list(runner.run(tasks[:2]))  # checked
    monkeypatch.setattr(batched, "sum_chunk" if sums else "train_chunk", grudging)
    weights = {"": np.arange(1.0, len(tasks) + 1)}
    with pytest.warns(UserWarning, match="ValueError: no more of it") as told:
        found = list(runner.sums(tasks, weights) if sums else runner.run(tasks))
    if sums:
        assert sorted(place for block in found for place in block.places.tolist()) == list(range(len(tasks)))
        total = sum(block.sums.totals["model"]["1.weight"].double() for block in found)
        right = added_up(expected, weights).sums.totals["model"]["1.weight"]
        assert float((total - right).abs().max()) < 1e-9 * float(right.abs().max())
    else:
        assert_agree(job, expected, found)
    assert len(told) == 1
    assert len(calls) == 3
    assert runner.plan["fallback"] == "serial: ValueError: no more of it"


def test_what_cannot_be_batched_is_trained_serially_with_one_warning() -> None:
    _falls_back(make_job(MODELS["gru_dropout"]()), "it draws random numbers that are not keyed")


def test_a_batched_result_that_differs_from_the_serial_one_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(job: Job, functional: Functional, some: Sequence[TrainTask]) -> list[Result]:
        found = train_chunk(job, functional, some)
        found[-1].update["model"]["1.bias"].add_(1e-3)
        return found

    monkeypatch.setattr(batched, "train_chunk", wrong)
    _falls_back(make_job(mlp()), "its updates differ from those of Serial by")


def _falls_back(job: Job, why: str) -> None:
    tasks = make_tasks(job)
    runner = Batched(chunk=3).open(job)
    with pytest.warns(UserWarning, match=why) as told:
        found = [result for _ in range(2) for result in runner.run(tasks)]
    assert len(told) == 1
    assert str(runner.plan["fallback"]).startswith(f"serial: {why}")
    with opened(Serial(), job) as run:
        assert_agree(job, 2 * run(tasks), found)


def test_dropout_of_two_clients_steps_and_layers_differs_and_drops_its_share() -> None:
    layer = KeyedDropout(0.3, 0)
    masks = {}
    for client in (0, 1):
        set_keys([layer, KeyedDropout(0.3, 0)], torch.tensor(rng.hash64(5, client).view(np.int64)))
        masks[client] = layer(torch.ones(100, 100)), layer(torch.ones(100, 100))
    different = [masks[0][0], masks[0][1], masks[1][0], masks[1][1]]
    for k, mask in enumerate(different):
        share = float((mask == 0).double().mean())
        assert abs(share - 0.3) < 5 * (0.3 * 0.7 / 10_000) ** 0.5  # one false alarm in two million
        assert sorted(set(mask.flatten().tolist())) == pytest.approx([0.0, 1 / 0.7])
        for other in different[:k]:
            both = float(((mask == 0) & (other == 0)).double().mean())
            assert abs(both - 0.09) < 5 * (0.09 * 0.91 / 10_000) ** 0.5  # independent


def test_spatial_dropout_drops_whole_channels() -> None:
    (layer,) = keyed(nn.Sequential(nn.Conv2d(1, 1, 1), nn.Dropout2d(0.5)))
    set_keys([layer], torch.tensor(12345))
    dropped = layer(torch.ones(8, 16, 3, 3)).flatten(2)
    assert bool(((dropped == 0).all(2) | (dropped == 2).all(2)).all())
    layer.eval()
    assert torch.equal(layer(torch.ones(2, 3)), torch.ones(2, 3))


@pytest.mark.parametrize(
    "schedule",
    [
        Schedule(5, epochs=2),
        Schedule(4, steps=7),
        Schedule(20, epochs=1),
        Schedule(3, epochs=0.4),
        Schedule(3, epochs=1.7, drop_last=True),
        Schedule(3, steps=1),
        Schedule(5, epochs=2, drop_last=True),
        Schedule(4, steps=7, drop_last=True),
    ],
    ids=repr,
)
def test_batches_planned_together_are_those_of_each_task(schedule: Schedule) -> None:
    job = make_job(mlp())
    tasks = [TrainTask(k, k, 2 * k, 0, {}, {}) for k in range(8)]
    plan = plan_batches(schedule, job.data, 3, tasks)
    for k in range(8):
        own, steps = job.data.of_client(k), batches(schedule, job.data.size(k), rng.key(3, "local"), k, 2 * k)
        assert len(steps) == plan.steps[k]
        for step, positions in enumerate(steps):
            assert own[positions].tolist() == plan.rows[k, step, : plan.counts[k, step]].tolist()
            assert set(plan.rows[k, step].tolist()) <= set(own.tolist())
