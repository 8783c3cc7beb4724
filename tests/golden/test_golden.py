"""Tiny siblings of the bundled scenarios: their task tables are compared with committed ones, exactly.

A difference is a change in behaviour. `make golden` rewrites the files; the commit says why.
"""

from __future__ import annotations

import os
from io import StringIO
from pathlib import Path

import pandas as pd
import pytest

from evsim import Scenario, Simulation

HERE = Path(__file__).parent
REWRITE = os.environ.get("EVSIM_REWRITE_GOLDEN") == "1"
SMALL = ['executor.kind="serial"', "stop.server_steps=4"]
CASES = {
    "quickstart": ("quickstart", SMALL),
    "replay": (
        "replay",
        [
            'stop.virtual_time="40min"',
            "population.clients=1500",
            "aggregation.cohort_goal=10",
            "aggregation.minimum_cohort=5",
            "aggregation.minimum_reports=2",
        ],
    ),
    "buffered": (
        "quickstart",
        [
            *SMALL,
            'aggregation={ kind="buffered", concurrency=15, buffer_size=8, max_staleness=2, task_timeout="20min" }',
        ],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_task_table_is_the_committed_one(tmp_path: Path, name: str) -> None:
    scenario, overrides = CASES[name]
    folder = Simulation(Scenario.load(scenario, overrides=overrides), device="cpu").run(tmp_path / "run")
    tasks = pd.read_parquet(folder / "tasks.parquet")
    file = HERE / f"{name}.csv"
    if REWRITE:
        tasks.to_csv(file, index=False)
    expected = pd.read_csv(file)
    found = pd.read_csv(StringIO(tasks.to_csv(index=False)))
    pd.testing.assert_frame_equal(found, expected)
