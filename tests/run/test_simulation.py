"""Whole runs: how they end, what they write, what they refuse."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from evsim import Scenario, Simulation
from evsim.base.errors import RunFolderError, ScenarioError, TrainingError
from evsim.run.simulation import Snapshot

SMALL = ['executor.kind="serial"', "stop.server_steps=3", "population.clients=120"]


def run(tmp_path: Path, *overrides: str, scenario: str = "quickstart") -> Path:
    loaded = Scenario.load(scenario, overrides=[*SMALL, *overrides] if scenario == "quickstart" else list(overrides))
    return Simulation(loaded, device="cpu").run(tmp_path / "run")


def manifest(folder: Path) -> dict[str, object]:
    return json.loads((folder / "manifest.json").read_text())


def evaluations(folder: Path) -> pd.DataFrame:
    rows = pd.read_parquet(folder / "evaluations.parquet")
    return rows[rows["metric"] == "accuracy"]


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        ([], "server_steps"),
        (["stop.target_accuracy=0.05"], "target_accuracy"),
        (['stop.virtual_time="11min"'], "virtual_time"),
        (["stop.rounds=2"], "rounds"),
        (["stop.failed_rounds=2", 'aggregation.reporting_deadline="1s"'], "failed_rounds"),
    ],
)
def test_a_run_ends_for_the_reason_it_says(tmp_path: Path, overrides: list[str], reason: str) -> None:
    assert manifest(run(tmp_path, *overrides))["end"]["reason"] == reason


def test_the_model_is_evaluated_at_time_0_on_the_grid_and_at_the_end(tmp_path: Path) -> None:
    rows = evaluations(run(tmp_path, "population.clients=300"))
    assert rows["trigger"].iloc[0] == "start"
    assert rows["at"].iloc[0] == 0
    grid = rows.loc[rows["trigger"] == "grid", "at"]
    assert (grid % 600_000 == 0).all()
    assert len(grid) == grid.iloc[-1] // 600_000
    assert rows["version"].iloc[-1] == 3


def test_evaluation_every_n_steps(tmp_path: Path) -> None:
    rows = evaluations(run(tmp_path, "evaluation.every=2", "stop.server_steps=5"))
    assert rows["trigger"].tolist() == ["start", "step", "step", "final"]
    assert rows["version"].tolist() == [0, 2, 4, 5]


def test_evaluation_per_client_tells_the_spread(tmp_path: Path) -> None:
    folder = run(tmp_path, "evaluation.per_client=true")
    rows = pd.read_parquet(folder / "evaluations.parquet")
    spread = rows[rows["split"] == "clients"]
    assert set(spread["metric"]) == {f"{m}_{s}" for m in ("loss", "accuracy") for s in ("mean", "std", "p10", "p90")}
    last = spread[spread["version"] == 3].set_index("metric")["value"]
    assert last["accuracy_p10"] <= last["accuracy_mean"] <= last["accuracy_p90"]


def test_what_was_charged_and_what_was_true_are_both_told(tmp_path: Path) -> None:
    folder = run(tmp_path)
    cost, tasks = manifest(folder)["cost"], pd.read_parquet(folder / "tasks.parquet")
    assert cost["model_bytes"] == 40_000_000
    assert cost["true_model_bytes"] == 4 * (64 * 32 + 32 + 32 * 10 + 10)
    done = tasks[tasks["outcome"] == "aggregated"]
    assert (done["bytes_down"] == 40_000_000).all()
    assert (done["samples"] == 20).all()
    assert (done["charged_samples"] == 20 * 80).all()


def test_sessions_are_written_when_asked_for(tmp_path: Path) -> None:
    folder = run(tmp_path, 'stop.virtual_time="3h"', "record.sessions=true", scenario="replay")
    sessions = pd.read_parquet(folder / "sessions.parquet")
    online = pd.read_parquet(folder / "availability.parquet")
    ends = sessions["check_out_at"].fillna(np.inf)
    for row in online.itertuples():
        assert ((sessions["check_in_at"] <= row.at) & (ends > row.at)).sum() == row.online


def test_sessions_are_those_of_the_clients_that_got_tasks(tmp_path: Path) -> None:
    folder = run(tmp_path, 'stop.virtual_time="1h"', scenario="replay")
    tasks, sessions = (pd.read_parquet(folder / f"{name}.parquet") for name in ("tasks", "sessions"))
    assert 0 < sessions["client"].nunique() < len(pd.read_parquet(folder / "clients.parquet"))
    assert set(sessions["client"]) == set(tasks["client"])
    assert sessions[["client", "check_in_at"]].apply(tuple, axis=1).is_monotonic_increasing


def test_progress_tells_where_the_run_stands(tmp_path: Path) -> None:
    seen: list[Snapshot] = []
    scenario = Scenario.load("replay", overrides=['stop.virtual_time="6d"'])
    Simulation(scenario).run(tmp_path / "run", on_progress=seen.append)
    assert seen
    assert all(a.now_ms <= b.now_ms for a, b in pairwise(seen))
    assert seen[-1].horizon_ms == 6 * 86_400_000
    assert 0 < seen[-1].online < 2000


def test_a_population_too_small_for_a_round_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match=r"population.clients: 10; expected at least 20"):
        run(tmp_path, "population.clients=10")
    assert not (tmp_path / "run").exists()


def test_a_population_that_never_comes_online_ends_the_run(tmp_path: Path) -> None:
    trace = tmp_path / "never.csv"
    trace.write_text("device,start_s,stop_s\n0,5,5\n")
    never = f'population.availability="{trace}"'
    folder = run(tmp_path, never, "population.clients=60", "stop.virtual_time=", "stop.server_steps=3")
    assert manifest(folder)["end"] == {"at": 0, "reason": "no_clients"}


def test_a_run_folder_that_exists_is_left_alone(tmp_path: Path) -> None:
    folder = run(tmp_path)
    before = (folder / "manifest.json").read_bytes()
    with pytest.raises(RunFolderError, match="not empty"):
        run(tmp_path)
    assert (folder / "manifest.json").read_bytes() == before


def test_an_error_in_training_leaves_what_happened_on_disk(tmp_path: Path) -> None:
    """Krum needs more arrived updates than a failed deadline may leave; the run stops and says so."""
    overrides = [
        'merge={ kind="krum", attackers=8 }',
        "aggregation.minimum_reports=2",
        'aggregation.reporting_deadline="2min"',
    ]
    with pytest.raises(TrainingError, match="needs at least"):
        run(tmp_path, *overrides)
    assert str(manifest(tmp_path / "run")["end"]["reason"]).startswith("error: ")
    assert len(pd.read_parquet(tmp_path / "run" / "tasks.parquet")) > 0


@pytest.mark.parametrize("algorithm", ["scaffold", "dp_fedavg"])
def test_what_theory_does_not_cover_runs_with_a_warning(tmp_path: Path, algorithm: str) -> None:
    overrides = [f'algorithm="{algorithm}"', 'aggregation={ kind="buffered", concurrency=10, buffer_size=5 }']
    with pytest.warns(UserWarning, match="guarantee does not carry over|not amplified by sampling"):
        folder = run(tmp_path, *overrides)
    keys = {each["key"] for each in manifest(folder)["caveats"]}
    assert keys & {"scaffold_not_in_rounds", "no_amplification"}
