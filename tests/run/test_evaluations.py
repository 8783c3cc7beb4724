"""One evaluation per instant and version, however many steps an instant brings."""

from __future__ import annotations

import pytest

from evsim import Scenario, Simulation, load_run

LOCKSTEP = (  # equal devices: ten reports of one instant, so ten steps
    "population.clients=20",
    "population.availability=always",
    "population.speed={ compute_ms_per_sample = 20, download_kbps = 5000, upload_kbps = 2000 }",
    "data.partition={ kind = 'iid', samples_per_client = 10 }",
    "aggregation={ kind = 'buffered', concurrency = 10, buffer_size = 1 }",
    "executor.kind=serial",
    "stop.virtual_time=20min",
    "stop.server_steps=",
)


@pytest.mark.parametrize("every", ["1", "3"])
def test_an_instant_has_one_evaluation_of_its_last_version(tmp_path, every):
    scenario = Scenario.load("quickstart", [*LOCKSTEP, f"evaluation.every={every}"])
    run = load_run(Simulation(scenario, device="cpu").run(tmp_path / "run"))
    rows = run.evaluations[run.evaluations["metric"] == "loss"]
    assert run.server_steps["closed_at"].duplicated().any()
    assert rows["at"].is_unique
    last = run.server_steps.groupby("closed_at")["version"].max()
    steps = rows[rows["trigger"] == "step"].set_index("at")["version"]
    assert (steps == last[steps.index]).all()
    assert len(rows) > 1
