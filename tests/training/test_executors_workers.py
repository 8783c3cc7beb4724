"""Workers that die, fail or are abandoned."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from evsim.base.errors import PolicyError, TrainingError
from evsim.testing.executors import assert_agree, make_job, make_tasks, mlp, opened
from evsim.training.executors.base import Job
from evsim.training.executors.serial import Serial
from evsim.training.executors.sums import added_up
from evsim.training.executors.workers import Workers, can_fork


class _Trap(nn.Module):
    """Kills its process, or fails, when it sees a sample above 1000; only as often as there are files to remove."""

    def __init__(self, how: str, folder: Path) -> None:
        super().__init__()
        self.inner = mlp()
        self.how, self.folder, self.parent = how, folder, os.getpid()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if os.getpid() != self.parent and float(x.max()) > 1000 and (left := sorted(self.folder.iterdir())):
            left[0].unlink()
            if self.how == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            raise {"failed": RuntimeError("no such thing"), "memory": MemoryError()}[self.how]
        logits: torch.Tensor = self.inner(x.clamp(max=3.0))
        return logits


def make_trap(how: str, folder: Path, times: int) -> Job:
    for k in range(times):
        (folder / str(k)).touch()
    job = make_job(_Trap(how, folder))
    job.data.x[job.data.of_client(3)] += 10_000
    return job


@pytest.mark.parametrize(("how", "said"), [("killed", "SIGKILL; perhaps the machine ran out of"), ("memory", "Memory")])
@pytest.mark.parametrize("chunk", [1, 3])
@pytest.mark.filterwarnings("ignore:the model cannot be trained in batches")
def test_the_task_of_a_worker_that_died_is_trained_by_another(tmp_path: Path, how: str, said: str, chunk: int) -> None:
    job = make_trap(how, tmp_path, times=1)
    tasks = make_tasks(job)
    with opened(Workers(workers=2, chunk=chunk), job) as run, pytest.warns(RuntimeWarning, match=said) as told:
        found = run(tasks)
    deaths = [str(each.message) for each in told if each.category is RuntimeWarning]
    assert len(deaths) == 1
    assert "task 103 of client 3" in deaths[0]
    assert ("task 105 of client 5" in deaths[0]) == (chunk == 3)
    assert "tried once more in another worker" in deaths[0]
    with opened(Serial(), job) as run:
        assert_agree(job, run(tasks), found)


@pytest.mark.parametrize("chunk", [1, 3])
@pytest.mark.filterwarnings("ignore:the model cannot be trained in batches")
def test_the_sums_of_a_worker_that_died_are_taken_by_another(tmp_path: Path, chunk: int) -> None:
    job = make_trap("killed", tmp_path, times=1)
    tasks = [task for nth in range(4) for task in make_tasks(job, nth=nth)]
    weights = {"": np.arange(1.0, len(tasks) + 1)}
    runner = Workers(workers=2, chunk=chunk).open(job)
    with pytest.warns(RuntimeWarning, match="SIGKILL") as told:
        blocks = list(runner.sums(tasks, weights))
    (death,) = [str(each.message) for each in told if each.category is RuntimeWarning]
    assert "task 103 of client 3" in death
    again = list(runner.sums(tasks, weights))
    runner.close()
    with opened(Serial(), job) as run:
        expected = added_up(run(tasks), weights).sums.totals["model"]["inner.1.weight"]
    for found in (blocks, again):
        assert [place for block in found for place in sorted(block.places.tolist())] == list(range(len(tasks)))
        total = sum(block.sums.totals["model"]["inner.1.weight"] for block in found)
        assert float((total - expected).abs().max()) < 1e-12 * float(expected.abs().max()) * len(tasks)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_task_that_kills_two_workers_stops_the_sums_with_its_name(tmp_path: Path) -> None:
    job = make_trap("killed", tmp_path, times=2)
    tasks = make_tasks(job)
    runner = Workers(workers=2).open(job)
    with pytest.raises(TrainingError, match=r"SIGKILL.*trained task 103 of client 3, for the second time"):
        list(runner.sums(tasks, {"": np.ones(len(tasks))}))
    runner.close()


@pytest.mark.parametrize(("count", "workers"), [(0, 2), (1, 2), (5, 2), (100, 2), (1000, 3), (37, 8)])
def test_groups_behind_a_sum_hold_every_task_once_and_never_grow(count: int, workers: int) -> None:
    runner = Workers(workers=workers).open(make_job(mlp()))
    groups = runner._sum_groups(count)
    assert [place for group in groups for place in group] == list(range(count))
    sizes = [len(group) for group in groups]
    assert sizes == sorted(sizes, reverse=True)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_task_that_kills_two_workers_stops_the_run_with_its_name(tmp_path: Path) -> None:
    job = make_trap("killed", tmp_path, times=2)
    with (
        opened(Workers(workers=2), job) as run,
        pytest.raises(TrainingError, match=r"SIGKILL.*task 103 of client 3, for the second time"),
    ):
        run(make_tasks(job))


def test_an_error_in_a_worker_names_client_and_task(tmp_path: Path) -> None:
    job = make_trap("failed", tmp_path, times=1)
    with (
        opened(Workers(workers=2), job) as run,
        pytest.raises(
            TrainingError,
            match=r"model _Trap \(client 3, task 103, model version 0\): RuntimeError: no such thing\n  test_exec",
        ),
    ):
        run(make_tasks(job))


def test_an_abandoned_run_leaves_nothing_to_the_next() -> None:
    job = make_job(mlp())
    tasks = make_tasks(job)
    runner = Workers(workers=2).open(job)
    begun = runner.run(tasks)
    next(begun)
    begun.close()  # type: ignore[attr-defined]
    assert [result.task.task for result in runner.run(tasks)] == [task.task for task in tasks]
    runner.close()


def test_results_own_their_memory() -> None:
    job = make_job(mlp())
    with opened(Workers(workers=1), job) as run:
        first = run(make_tasks(job))
        before = first[0].update["model"]["1.weight"].clone()
        run(make_tasks(job, nth=1))
        assert torch.equal(first[0].update["model"]["1.weight"], before)


def test_closing_ends_the_processes() -> None:
    job = make_job(mlp())
    runner = Workers(workers=2).open(job)
    list(runner.run(make_tasks(job)))
    pids = [worker.process.pid for worker in runner._pool._alive]
    runner.close()
    assert len(pids) == 2
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_workers_refuse_what_they_cannot_do() -> None:
    with pytest.raises(PolicyError, match="workers must be >= 1, but got workers=0"):
        Workers(workers=0)
    job = make_job(mlp())
    gpu = Job(job.model, job.rule, job.data, job.dtype, job.autocast, torch.device("cuda"), job.seed)
    assert not can_fork(gpu)
    with pytest.raises(TrainingError, match="'workers' on a GPU; expected a CPU job"):
        Workers().open(gpu)
