"""How fast a run of a million tasks is read and reported (`make bench`): figures of fresh processes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from evsim.base.vocabulary import Outcome
from evsim.run.recorder import Recorder
from evsim.run.schema import columns

pytestmark = pytest.mark.benchmark

TASKS, CLIENTS, STEPS, WEEK = 1_000_000, 100_000, 20_000, 7 * 86_400_000
PROBE = """
import resource, sys, time
import pandas, pyarrow.parquet  # what any reader pays before the first row
from pathlib import Path
start = time.perf_counter()
from evsim.results import load_run
run = load_run(sys.argv[1])
rows = len(run.tasks)
loaded = time.perf_counter() - start
memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
from evsim.results.report import write_report
start = time.perf_counter()
page = write_report(sys.argv[1], Path(sys.argv[1]) / "report.html")
written = time.perf_counter() - start
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
size = page.stat().st_size / 1e6
print(f"{rows:>10,} rows loaded in {loaded:.2f} s, peak {memory:.0f} MiB; "
      f"report of {size:.2f} MB in {written:.1f} s, peak {peak:.0f} MiB")
"""


def test_a_run_of_a_million_tasks_is_read_and_reported(tmp_path: Path) -> None:
    _write(tmp_path / "run")
    done = subprocess.run(
        [sys.executable, "-c", PROBE, str(tmp_path / "run")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    print(f"\n{done.stdout}", end="")


def _write(folder: Path) -> None:
    rng = np.random.default_rng(0)
    recorder = Recorder(folder)
    recorder.append("tasks", _tasks(rng))
    recorder.append("server_steps", _server_steps())
    recorder.append("clients", _clients(rng))
    at = np.arange(0, WEEK, 300_000)
    recorder.append("availability", {"at": at, "online": rng.integers(10_000, 40_000, len(at))})
    recorder.append("evaluations", _evaluations())
    manifest = {
        "evsim": "0", "versions": {}, "name": "million", "seed": 0, "start_ms": 0, "training": "real",
        "end": {"at": WEEK, "reason": "virtual_time"}, "horizon_ms": WEEK, "target_accuracy": 0.9,
        "trace_hash": "t", "executor": {"kind": "serial"}, "population": {"clients": CLIENTS, "notes": []},
    }  # fmt: skip
    recorder.finish(manifest=manifest, scenario_toml='name = "million"\n', tensors=None)


def _tasks(rng: np.random.Generator) -> dict[str, object]:
    number = np.arange(TASKS)
    phases = {name: rng.integers(1_000, 90_000, TASKS) for name in ("download_ms", "compute_ms", "upload_ms")}
    begin = np.sort(rng.integers(0, WEEK - 300_000, TASKS))
    end = begin + sum(phases.values())
    code = rng.choice(
        [Outcome.AGGREGATED, Outcome.DROPPED, Outcome.LATE, Outcome.SURPLUS], TASKS, p=[0.7, 0.1, 0.1, 0.1]
    )
    merged = code == Outcome.AGGREGATED
    found = dict.fromkeys(columns("tasks"), number * 0 + 1000) | phases
    return found | {
        "task": number,
        "kind": np.full(TASKS, "train", object),
        "client": rng.integers(0, CLIENTS, TASKS),
        "dispatched_at": begin,
        "ended_at": end,
        "known_at": end,
        "outcome": code.astype(np.int8),
        "staleness": np.where(merged, 0, -1),
        "server_step": np.where(merged, number * STEPS // TASKS, -1),
    }


def _server_steps() -> dict[str, object]:
    step = np.arange(STEPS)
    found: dict[str, object] = dict.fromkeys(columns("server_steps"), step)
    return found | {
        "started_at": step * (WEEK // STEPS),
        "by": np.full(STEPS, "", object),
        "closed_at": (step + 1) * (WEEK // STEPS),
        "reason": np.full(STEPS, "goal", object),
        "applied": np.ones(STEPS, bool),
        "mean_staleness": np.zeros(STEPS),
    }


def _clients(rng: np.random.Generator) -> dict[str, object]:
    client = np.arange(CLIENTS)
    shares = rng.random((4, CLIENTS))
    names = ("compute_ms_per_sample", "download_kbps", "upload_kbps", "online_share")
    whole = {"client": client, "device": client, "speed_device": client}
    whole |= {"clone": client * 0, "samples": client * 0 + 20, "latency_ms": np.zeros(CLIENTS)}
    return whole | dict(zip(names, shares, strict=True))


def _evaluations() -> dict[str, object]:
    at = np.arange(0, WEEK, 600_000)
    count = len(at)
    return {
        "at": at,
        "version": at * STEPS // WEEK,
        "trigger": np.full(count, "grid", object),
        "split": np.full(count, "test", object),
        "metric": np.full(count, "accuracy", object),
        "value": 0.95 - 0.85 * np.exp(-at / WEEK * 6),
    }
