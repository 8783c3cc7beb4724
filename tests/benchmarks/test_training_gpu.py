"""Training on a GPU: the share of one model's big-batch throughput that simulated clients reach. Figures only.

Run with `make bench-training` on a machine with a CUDA device.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from evsim import Simulation
from evsim.scenario import Scenario
from evsim.training.executors.base import Job
from tests.benchmarks.test_training import best_part, best_seconds, job_of
from tests.benchmarks.works import N_CLIENTS, PER_CLIENT, WORKS, Work, bare_loop, big_batch

pytestmark = [pytest.mark.benchmark, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
COHORTS = (10, 100, N_CLIENTS)


@pytest.mark.parametrize("work", WORKS, ids=lambda work: work.name)
def test_share_of_a_big_batch(work: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Client updates per second of whole runs at three cohort sizes, beside one model on all samples."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    warnings.simplefilter("ignore")
    print_shares(work, tmp_path, "cuda")


def print_shares(work: Work, folder: Path, device: str) -> None:
    """The table of one work."""
    job = on(job_of(work, folder), torch.device(device))
    bare = 10 / best_seconds(lambda: waited(lambda: bare_loop(job, range(10)), job))
    print(f"\n{work.name} on {device}: bare loop {bare:,.0f}/s")
    for cohort in COHORTS:
        model = replace(job, model=copy.deepcopy(job.model))  # it goes on learning
        rows = cohort * PER_CLIENT
        bound = cohort / best_seconds(lambda m=model, n=rows: waited(lambda: big_batch(m, n), m))
        scenario = Scenario.from_dict(work.scenario(folder, {"kind": "auto"}, cohort), folder=folder)
        told: list[tuple[int, float]] = []
        out = folder / f"cohort{cohort}"
        Simulation(scenario, device=device).run(out, lambda shot, t=told: t.append((shot.server_step, shot.wall_s)))
        whole = best_part(told, work.rounds, cohort)
        share = f"{whole / bare:>6.2f} x bare, {whole / bound:.2f} of {bound:,.0f}/s"
        print(f"  cohort {cohort:>5}: whole run {whole:>9,.0f}/s, {share}")


def on(job: Job, device: torch.device) -> Job:
    """The job on a device."""
    data = replace(job.data, x=job.data.x.to(device), y=job.data.y.to(device), device=device)
    return replace(job, model=job.model.to(device), data=data, device=device)


def waited(run: Callable[[], object], job: Job) -> None:
    """Run, and wait for the device."""
    run()
    if job.device.type == "cuda":
        torch.cuda.synchronize()
