"""Training on a CUDA device against serial training on the CPU. Run with `make test-gpu`; needs a GPU."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from evsim import Scenario, Simulation
from evsim.algorithms.tree import Payload, apply
from evsim.base import registry
from evsim.testing.executors import (
    MODELS,
    assert_agree,
    make_job,
    make_rule,
    make_tasks,
    mlp,
    objective_job,
    opened,
)
from evsim.training.executors import batched
from evsim.training.executors.base import Executor, Job, Result
from evsim.training.executors.batched import Batched
from evsim.training.executors.calibration import describe
from evsim.training.executors.chunk import _trained
from evsim.training.executors.functional import Functional
from evsim.training.executors.serial import Serial
from evsim.training.executors.sums import added_up

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
GPU = torch.device("cuda")
EXECUTORS = [Serial(), Batched(chunk=4), Batched()]


@pytest.fixture(autouse=True)
def exact_products() -> Iterator[None]:
    """No TF32: tolerances are those of float32."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    yield
    torch.set_float32_matmul_precision(before)


def moved(job: Job, *, streamed: bool = False) -> Job:
    data = job.data if streamed else replace(job.data, x=job.data.x.to(GPU), y=job.data.y.to(GPU))
    data = replace(data, device=GPU, streamed=streamed)
    return replace(job, model=copy.deepcopy(job.model).to(GPU), data=data, device=GPU)


def home(result: Result) -> Result:
    def back(payload: Payload) -> Payload:
        return {name: apply(lambda leaf: leaf.cpu(), leaves) for name, leaves in payload.items()}

    return replace(result, update=back(result.update), state=back(result.state))


def compare(job: Job, executor: Executor, *, streamed: bool = False) -> None:
    tasks = make_tasks(job, versions=2)
    with opened(Serial(), job) as run:
        expected = run(tasks)
    there = moved(job, streamed=streamed)
    with opened(executor, there) as run:
        found = [home(result) for result in run(make_tasks(there, versions=2))]
    assert_agree(job, expected, [replace(r, task=t) for r, t in zip(found, tasks, strict=True)])


@pytest.mark.parametrize("executor", EXECUTORS, ids=describe)
@pytest.mark.parametrize("name", sorted(registry.entries("client_rule")))
def test_every_client_rule_trains_as_on_the_cpu(name: str, executor: Executor) -> None:
    compare(make_job(mlp(), make_rule(name)), executor)


@pytest.mark.parametrize("executor", EXECUTORS, ids=describe)
@pytest.mark.parametrize("kind", sorted(registry.entries("objective")))
def test_every_objective_trains_as_on_the_cpu(kind: str, executor: Executor) -> None:
    compare(objective_job(registry.load("objective", kind)()), executor)


@pytest.mark.parametrize("executor", EXECUTORS, ids=describe)
@pytest.mark.parametrize("model", ["dropout", "group_norm", "batch_norm", "shared", "cell"])
def test_every_model_trains_as_on_the_cpu(model: str, executor: Executor) -> None:
    sizes = (14, 0, 2, 26, 40, 6, 16, 26)
    compare(make_job(MODELS[model](), sizes=sizes), executor)


@pytest.mark.parametrize("executor", EXECUTORS, ids=describe)
@pytest.mark.parametrize("model", ["mlp", "batch_norm"])
def test_streamed_samples_train_as_resident_ones(model: str, executor: Executor) -> None:
    sizes = (14, 0, 2, 26, 40, 6, 16, 26)
    compare(make_job(MODELS[model](), sizes=sizes), executor, streamed=True)


@pytest.mark.parametrize("executor", EXECUTORS, ids=describe)
def test_sums_are_those_of_the_cpu(executor: Executor) -> None:
    job = make_job(mlp())
    weights = {"": np.arange(1.0, 9.0)}
    with opened(Serial(), job) as run:
        expected = added_up(run(make_tasks(job)), weights).sums.totals["model"]
    there = moved(job)
    runner = executor.open(there)
    totals = [block.sums.totals["model"] for block in runner.sums(make_tasks(there), weights)]
    runner.close()
    for name, leaf in expected.items():
        found = sum(total[name].cpu().double() for total in totals)
        assert float((found - leaf).abs().max()) <= 1e-9 * float(leaf.abs().max())


@pytest.mark.parametrize("streamed", [False, True])
def test_no_step_waits_for_the_gpu(streamed: bool) -> None:
    job = moved(make_job(mlp()), streamed=streamed)
    tasks = sorted(make_tasks(job), key=lambda task: -job.data.size(task.client))
    functional = Functional(job)
    _trained(job, functional, tasks)  # what is paid once may wait
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        _trained(job, functional, tasks)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_little_memory_halves_the_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    job = moved(make_job(mlp()))
    whole = batched.train_chunk

    def scarce(job: Job, functional: Functional, some: list) -> list[Result]:
        if len(some) > 3:
            torch.empty(1 << 60, dtype=torch.uint8, device=GPU)  # really out of memory
        return whole(job, functional, some)

    monkeypatch.setattr(batched, "train_chunk", scarce)
    with opened(Batched(chunk=8), job) as run, pytest.warns(UserWarning, match="memory ran out"):
        assert len(run(make_tasks(job))) == 8


def test_a_whole_run_on_the_gpu_learns_as_on_the_cpu(tmp_path: Path) -> None:
    scenario = Scenario.load("quickstart", ["stop.server_steps=20"])
    accuracy = []
    for device in ("cpu", "cuda"):
        folder = Simulation(scenario, device=device).run(tmp_path / device)
        rows = pd.read_parquet(folder / "evaluations.parquet")
        accuracy.append(rows[rows["metric"] == "accuracy"]["value"].iloc[-1])
    assert accuracy[0] == pytest.approx(accuracy[1], abs=0.02)
