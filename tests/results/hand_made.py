"""Tiny run folders whose metrics can be computed by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from evsim.base.vocabulary import Outcome
from evsim.results import Run, load_run
from evsim.run.recorder import Recorder

MINUTE = 60_000

#: outcome, client, dispatched, ended, download, compute, upload, staleness; ms; -1: null
ROWS = (
    ("AGGREGATED", 0, 0, 100, 20, 50, 30, 0),
    ("AGGREGATED", 1, 0, 200, 50, 100, 50, 0),
    ("DROPPED", 2, 0, 60, 40, 20, 0, -1),
    ("LATE", 3, 0, 500, 100, 300, 100, -1),
    ("SURPLUS", 0, 200, 250, 10, 30, 10, -1),
    ("AGGREGATED", 1, 300, 400, 20, 60, 20, 2),
    ("ROUND_FAILED", 4, 400, 470, 20, 40, 10, -1),
    ("IN_FLIGHT", 0, 900, -1, 40, 60, 0, -1),
)
#: evaluations every 200 ms: at, version, accuracy
CURVE = ((0, 0, 0.1), (200, 1, 0.5), (400, 2, 0.9), (600, 3, 0.7), (800, 3, 0.8))
END = 1_000


def write(
    folder: Path,
    *,
    rows=ROWS,
    curve=CURVE,
    end=END,
    seed=0,
    clients=6,
    target=0.8,
    spread=False,
    scenario='name = "tiny"\n',
    training="real",
    trigger="grid",
    metric="accuracy",
    **more,
) -> Run:
    """A run folder from tuples."""
    recorder = Recorder(folder)
    recorder.append("tasks", _tasks(rows))
    recorder.append("server_steps", _steps())
    recorder.append("evaluations", _evaluations(curve, trigger, spread=spread, metric=metric))
    numbers = np.arange(clients)
    ones = np.ones(clients)
    recorder.append(
        "clients",
        {"client": numbers, "device": numbers, "clone": numbers * 0, "speed_device": numbers, "samples": numbers + 10}
        | {"compute_ms_per_sample": ones, "download_kbps": ones, "upload_kbps": ones, "online_share": ones / 2}
        | {"latency_ms": 0 * ones, "group": numbers * 0, "compute_share": ones, "batch_size": numbers * 0 + 5},
    )
    recorder.append("availability", {"at": [0, 500], "online": [6, 4]})
    manifest = {
        "evsim": "0",
        "versions": {},
        "name": "tiny",
        "seed": seed,
        "start_ms": 18 * 60 * MINUTE,
        "end": {"at": end, "reason": "virtual_time"},
        "horizon_ms": end,
        "target_accuracy": target,
        "training": training,
        "trace_hash": "t",
        "executor": {"kind": "serial", "pin": {"kind": "serial", "threads": 1}},
        "population": {"clients": clients, "distinct_devices": clients, "notes": []},
    }
    recorder.close()
    recorder.finish(manifest=manifest | {"tables": recorder.seals()} | more, scenario_toml=scenario, tensors=None)
    return load_run(folder)


def _tasks(rows):
    outcome, client, begin, end, down, compute, up, stale = (
        zip(*rows, strict=True) if rows else ((), (), (), (), (), (), (), ())
    )
    count = len(rows)
    codes = np.array([Outcome[name] for name in outcome], np.int8)
    numbers = np.arange(count)
    return {
        "task": numbers,
        "kind": np.array(["train"] * count, object),
        "client": np.array(client, np.int64),
        "nth": numbers * 0,
        "round": numbers * 0,
        "version": numbers * 0,
        "dispatched_at": np.array(begin, np.int64),
        "ended_at": np.array(end, np.int64),
        "known_at": np.array(end, np.int64),
        "order": numbers,
        "outcome": codes,
        "staleness": np.array(stale, np.int64),
        "server_step": np.where(codes == Outcome.AGGREGATED, 1, -1),
        "used_at": np.where(codes == Outcome.AGGREGATED, np.array(end, np.int64), -1),
        "weight": np.where(codes == Outcome.AGGREGATED, 1.0, np.nan),
        "samples": numbers + 10,
        "steps": numbers * 0 + 1,
        "max_steps": numbers * 0 - 1,
        "charged_samples": numbers + 10,
        "bytes_down": numbers * 0 + 1_000,
        "bytes_up": numbers * 0 + 100,
        "download_ms": np.array(down, np.int64),
        "compute_ms": np.array(compute, np.int64),
        "upload_ms": np.array(up, np.int64),
        "planned_samples": numbers + 10,
        "planned_download_ms": np.array(down, np.int64),
        "planned_compute_ms": np.array(compute, np.int64),
        "planned_upload_ms": np.array(up, np.int64),
        "compute_factor": np.ones(count),
        "link_factor": np.ones(count),
    }


def _steps():
    return {
        "round": [0, 1, 2],
        "by": ["", "", ""],
        "version": [1, 2, 2],
        "started_at": [0, 200, 400],
        "deadline_at": [-1, -1, 600],
        "closed_at": [200, 400, 600],
        "reason": ["goal", "goal", "deadline"],
        "applied": [True, True, False],
        "idle": [6, 4, 1],
        "invited": [4, 2, 1],
        "goal": [2, 1, 2],
        "reports": [2, 1, 1],
        "dropped": [1, 0, 0],
        "late": [1, 1, 0],
        "mean_staleness": [0.0, 2.0, float("nan")],
    }


def _evaluations(curve, trigger, *, spread, metric):
    rows = [(at, version, trigger, "test", metric, value) for at, version, value in curve]
    rows += [(at, version, trigger, "test", "loss", 1 - value) for at, version, value in curve]
    if spread:
        rows += [
            (at, version, "grid", "clients", f"accuracy_{name}", value + shift)
            for at, version, value in curve
            for name, shift in (("mean", 0.0), ("std", 0.01), ("p10", -0.1), ("p90", 0.1))
        ]
    names = ("at", "version", "trigger", "split", "metric", "value")
    return {name: [row[i] for row in rows] for i, name in enumerate(names)}
