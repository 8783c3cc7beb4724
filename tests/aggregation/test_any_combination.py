"""Every named algorithm and every selector runs under buffered aggregation, from scenario to tables."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from evsim import Scenario, Simulation
from evsim.algorithms.compositions import COMPOSITIONS

TABLES = {
    "name": "short",
    "stop": {"server_steps": 3},
    "population": {"clients": 30, "availability": "always"},
    "data": {"dataset": "digits", "partition": {"kind": "iid", "samples_per_client": 10}},
    "model": {"kind": "softmax"},
    "aggregation": {"kind": "buffered", "concurrency": 8, "buffer_size": 4, "task_timeout": "2h"},
    "client_rule": {"learning_rate": 0.1, "batch_size": 5},
    "executor": {"kind": "serial", "threads": 1},
}
SELECTORS = {
    kind: {"kind": kind}
    for kind in ("uniform", "by_samples", "oort", "tifl", "tifl_loss", "afl", "fastest", "power_of_choice_stale")
}
SELECTORS["fedcs"] = {"kind": "fedcs", "deadline": "10min"}
SELECTORS["power_of_choice_stale"]["d"] = 5  # type: ignore[assignment]
SELECTORS |= {kind: {"kind": kind, "predictor": "daily"} for kind in ("refl_ips", "longest_stay")}


def run(tmp_path: Path, **tables: object) -> pd.DataFrame:
    folder = Simulation(Scenario.from_dict({**TABLES, **tables}), device="cpu").run(tmp_path / "run")
    tasks = pd.read_parquet(folder / "tasks.parquet")
    used = tasks[tasks["outcome"] == "aggregated"]
    assert used["server_step"].max() == 3
    return used


@pytest.mark.filterwarnings("ignore::UserWarning")  # what theory does not cover is said, and tested elsewhere
@pytest.mark.parametrize("algorithm", COMPOSITIONS)
def test_every_named_algorithm_runs_with_a_buffer(tmp_path: Path, algorithm: str) -> None:
    assert len(run(tmp_path, algorithm=algorithm)) == 12


@pytest.mark.parametrize("kind", SELECTORS)
def test_every_selector_refills_a_buffer(tmp_path: Path, kind: str) -> None:
    assert len(run(tmp_path, algorithm="fedbuff", selection=SELECTORS[kind])) == 12


def test_queries_before_every_refill(tmp_path: Path) -> None:
    selection = {"kind": "power_of_choice", "d": 3, "query_timeout": "10min"}
    assert len(run(tmp_path, algorithm="fedbuff", selection=selection)) == 12
    tasks = pd.read_parquet(tmp_path / "run" / "tasks.parquet")
    queries = tasks[tasks["kind"] == "query"]
    assert (queries["outcome"] == "answered").any()
    assert (queries.loc[queries["outcome"] == "answered", "bytes_up"] == 8).all()
