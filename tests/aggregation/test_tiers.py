"""The tiers of docs/extending.md, as they stand there: run from a scenario file, and what verify says of them."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pytest

from evsim import Scenario, Simulation
from evsim.verify import verify

SECTION = (Path(__file__).parents[2] / "docs" / "extending.md").read_text().split("processes: tiers\n")[1]
CODE, SCENARIO = (re.findall(rf"```{kind}\n(.*?)```", SECTION, flags=re.DOTALL)[0] for kind in ("python", "toml"))


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("replay", ["bulk", "events"])
def test_tiers_from_a_scenario_file(tmp_path: Path, replay: str) -> None:
    (tmp_path / "tiers.py").write_text(CODE)
    (tmp_path / "tiers.toml").write_text(SCENARIO)
    scenario = Scenario.load(tmp_path / "tiers.toml", [f'engine.replay = "{replay}"'])
    folder = Simulation(scenario).run(tmp_path / "run")
    steps, tasks = (pd.read_parquet(folder / f"{name}.parquet") for name in ("server_steps", "tasks"))
    assert set(steps["by"]) == {"tier 0", "tier 1", "tier 2"}
    assert steps.groupby("by")["goal"].max().to_dict() == {"tier 0": 8, "tier 1": 4, "tier 2": 2}
    assert steps["started_at"].min() >= 30 * 60_000
    tier = tasks["round"].map(steps.set_index("round")["by"])
    assert (tasks.groupby("client").apply(lambda own: tier[own.index].nunique(), include_groups=False) <= 1).all()
    verdict = verify(folder)
    assert verdict.ok
    unchecked = {check.name: check.skipped for check in verdict.checks if check.skipped}
    assert unchecked["outcomes and closes"] == "the aggregator is not one of evsim's own"
