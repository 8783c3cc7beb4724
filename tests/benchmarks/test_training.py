"""Training benchmarks: every executor and whole runs against the bare loop, in the same minute. Figures only.

Run with `make bench-training`. Each figure is the best of several, since neighbours on the machine only ever slow a
measurement down.
"""

from __future__ import annotations

import copy
import itertools
import json
import math
import resource
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from evsim import Scenario, Simulation
from evsim.training.data.samples import TrainingData
from evsim.training.executors.base import Executor, Job, Runner, TrainTask
from evsim.training.executors.batched import Batched
from evsim.training.executors.calibration import describe
from evsim.training.executors.serial import Serial
from evsim.training.executors.sums import Block
from evsim.training.executors.threads import limited_threads
from evsim.training.executors.workers import Workers
from tests.benchmarks.works import COHORT, N_CLIENTS, PER_CLIENT, WORKS, Work, bare_loop, big_batch, samples

pytestmark = pytest.mark.benchmark
_SHORT_S = 1.0


def modes(*, convolutions: bool) -> list[Executor]:
    threads = torch.get_num_threads()
    found = [Serial(threads=1), Serial(threads=threads), Workers()]
    if convolutions:
        more = [Serial(threads=1, channels_last=True), Workers(channels_last=True)]
        return [*found, *more, Batched(chunk=8, threads=1), Batched(chunk=8, threads=threads)]
    return [*found, Batched(chunk=100, threads=1), Batched(chunk=100, threads=threads), Workers(chunk=50)]


@pytest.mark.parametrize("work", WORKS, ids=lambda work: work.name)
def test_training(work: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Client updates per second: the bare loop, each mode alone, a whole run."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    warnings.simplefilter("ignore")
    job = job_of(work, tmp_path)
    tasks = tasks_of(job)
    convolutions = "cnn" in work.name or work.name == "resnet"
    few = 12 if convolutions else COHORT
    with limited_threads(1):
        starts = itertools.cycle(range(0, N_CLIENTS - few + 1, few))
        bare = few / best_seconds(lambda: bare_loop(job, range(start := next(starts), start + few)))
    alone = replace(job, model=copy.deepcopy(job.model))  # it goes on learning
    bound = COHORT / best_seconds(lambda: big_batch(alone, COHORT * PER_CLIENT))
    print(f"\n{work.name}: bare loop on one thread {bare:,.0f}/s; one model on all samples of a cohort {bound:,.0f}/s")
    best = 0.0
    for mode in modes(convolutions=convolutions):
        (single, _), (summed, cpu_ms) = (rate_of(mode, job, tasks, sums=sums) for sums in (False, True))
        best = max(best, single, summed)
        times = f"{summed / bare:>6.2f} x bare {cpu_ms:>8.2f} CPU ms"
        print(f"  {describe(mode):<42} {single:>9,.1f}/s one by one {summed:>9,.1f}/s as sums {times}")
    whole, plan = whole_run(work, tmp_path)
    picked = f"{plan['picked']}, {plan['source']} in {plan['calibration_s']} s" if "pin" in plan else plan["why"]
    print(f"  auto: {picked}")
    again, _ = whole_run(work, tmp_path)
    for name, rate in (("a whole run", whole), ("again, pick cached", again)):
        print(f"  {name:<42} {rate:>9,.1f}/s {rate / bare:>6.2f} x bare, {rate / best:.2f} x the best mode alone")


def job_of(work: Work, folder: Path) -> Job:
    """The job that a run of the work would open."""
    scenario = Scenario.from_dict(work.scenario(folder, {"kind": "serial"}), folder=folder)
    x, y = samples(N_CLIENTS * PER_CLIENT, text=work.text)
    classes = 80 if work.text else 62
    assert scenario.model is not None
    model = scenario.model.build(
        shape=x.shape[1:], n_classes=classes, n_tokens=classes if work.text else None, seed=0
    ).train()
    offsets = np.arange(N_CLIENTS + 1) * PER_CLIENT
    data = TrainingData(torch.from_numpy(x), torch.from_numpy(y), np.arange(len(y)), offsets)
    half = work.precision == "bfloat16"
    return Job(model, scenario.client_rule, data, torch.float32, half, torch.device("cpu"), seed=0)


def tasks_of(job: Job) -> list[list[TrainTask]]:
    """One task per client, by cohorts: passes take turns, since a real cohort's data is not in the cache either."""
    params = {name: leaf.detach().clone() for name, leaf in job.model.named_parameters()}
    received = {"model": params, "buffers": {name: leaf.clone() for name, leaf in job.model.named_buffers()}}
    tasks = [TrainTask(client, client, 0, 0, received, job.rule.init_client(received)) for client in range(N_CLIENTS)]
    return [tasks[start : start + COHORT] for start in range(0, N_CLIENTS, COHORT)]


def rate_of(mode: Executor, job: Job, cohorts: list[list[TrainTask]], *, sums: bool) -> tuple[float, float]:
    """Tasks per second, one result each or added up: the best of several passes over the cohort, or over a part of it.

    And processor milliseconds per task, of this process and its workers: busy neighbours hardly change those.
    """
    runner, before, turns = mode.open(job), _cpu_s(), itertools.cycle(cohorts)
    try:
        first = _one_pass(runner, cohorts[0] if isinstance(mode, Workers) else cohorts[0][:2], sums=sums)
        passes = [_one_pass(runner, next(turns), sums=sums)]
        while math.fsum(seconds for _, seconds in passes) < _SHORT_S:
            passes.append(_one_pass(runner, next(turns), sums=sums))
    finally:
        runner.close()  # only then the workers' time is known
    trained = math.fsum(count for count, _ in [first, *passes])  # the first one pays for what is paid once
    return max(count / seconds for count, seconds in passes), 1000 * (_cpu_s() - before) / trained


def _one_pass(runner: Runner, tasks: list[TrainTask], *, sums: bool) -> tuple[int, float]:
    """Tasks trained, seconds; stops after four seconds."""
    start, count = time.perf_counter(), 0
    ones = {"": np.ones(len(tasks))}
    for gave in runner.sums(tasks, ones) if sums else runner.run(tasks):
        count += len(gave.places) if isinstance(gave, Block) else 1
        if time.perf_counter() - start > 4 * _SHORT_S:
            break
    return count, time.perf_counter() - start


def _cpu_s() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def best_seconds(run: Callable[[], object]) -> float:
    """The shortest of at least two and at most ten runs."""
    run()
    times: list[float] = []
    while len(times) < 2 or (sum(times) < _SHORT_S and len(times) < 10):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


def whole_run(work: Work, folder: Path) -> tuple[float, dict[str, Any]]:
    """Client updates per second of a whole run under auto, once the first third of its steps is over; its plan.

    The best of a few parts of the run, as the modes alone are given by their best pass.
    """
    told: list[tuple[int, float]] = []
    scenario = Scenario.from_dict(work.scenario(folder, {"kind": "auto"}), folder=folder)
    out = folder / f"run{time.perf_counter_ns()}"
    Simulation(scenario, device="cpu").run(out, lambda shot: told.append((shot.server_step, shot.wall_s)))
    plan = json.loads((out / "manifest.json").read_text())["executor"]
    return best_part(told, work.rounds, COHORT), plan


def best_part(told: list[tuple[int, float]], rounds: int, cohort: int) -> float:
    """Updates per second of the best part of a run, from (server step, wall-clock seconds) told on the way."""
    later = [pair for pair in told if pair[0] >= rounds / 3]
    ends = dict(reversed(later))  # the first message of each step
    return max(cohort * (b - a) / (ends[b] - ends[a]) for a, b in itertools.pairwise(sorted(ends)))


_MEMORY = """
import resource, sys, types
import numpy as np, torch
from torch import nn
from evsim.base import registry
from evsim.algorithms.base import Method
from evsim.training.learning.learning import Learning, Setting
kind, options = sys.argv[1], eval(sys.argv[2])
n = 1000
draw = np.random.default_rng(0)
x, y = draw.standard_normal((n * 20, 784)).astype(np.float32), draw.integers(0, 62, n * 20)
data = types.SimpleNamespace(
    x=x, y=y, x_test=x[:10], y_test=y[:10], index=np.arange(n * 20), offsets=np.arange(n + 1) * 20, n_clients=n
)
load = registry.load
method = Method(
    broadcast=load("broadcast", "full")(),
    client_rule=load("client_rule", "sgd")(learning_rate=0.05),
    upload=(),
    weighting=load("weighting", "samples")(),
    merge=load("merge", "mean")(),
    server_optimizer=load("server_optimizer", "sgd")(),
)
model = nn.Sequential(nn.Linear(784, 2048), nn.ReLU(), nn.Linear(2048, 62))
learning = Learning(method, model, data, load("executor", kind)(**options), Setting(seed=0))
tasks = np.arange(n)
learning.dispatched(tasks, tasks, np.zeros(n, int))
learning.apply(tasks)
learning.close()
own = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(int(own) // 1024, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024)
"""


@pytest.mark.parametrize("kind", ["serial", "batched", "workers"])
def test_peak_memory_of_a_thousand_clients_of_a_large_model(kind: str) -> None:
    """MiB of the whole process: 1000 tasks of a model of 1.7 M parameters in one server step, merged as they come."""
    options = {"workers": 2} if kind == "workers" else {}
    command = [sys.executable, "-c", _MEMORY, kind, repr(options)]
    own, child = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    print(f"\n{kind:>8}: {int(own):,} MiB in the process" + (f", {int(child):,} in a worker" if options else ""))
