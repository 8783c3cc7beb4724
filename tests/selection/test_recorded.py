"""`record.selector`: what a selector says of its choices is a table, the same after a kill, and verify reads it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from evsim.base.errors import PolicyError
from evsim.results import load_run
from evsim.run.simulation import Simulation
from evsim.scenario import Scenario
from evsim.selection.base import Selector
from evsim.selection.oort import Oort
from evsim.testing.selectors import make_manager
from evsim.timeline.manager import ClientManager
from evsim.verify import verify

SHORT = ["record.selector=true", "executor.kind=serial", "stop.server_steps=6", "population.clients=120"]


def run(tmp_path: Path, *overrides: str) -> Any:
    return load_run(Simulation(Scenario.load("quickstart", [*SHORT, *overrides])).run(tmp_path / "run"))


def said(table: pd.DataFrame, name: str) -> pd.DataFrame:
    return table[table["name"] == name]


def test_oort_says_exploration_preferred_duration_and_scores(tmp_path: Path) -> None:
    found = run(tmp_path, "selection={kind = 'oort', pacer_delta = '30s'}")
    table, tasks = found.selections, found.tasks
    exploration = said(table, "exploration")
    np.testing.assert_allclose(exploration["value"], [max(0.2, 0.9 * 0.98**k) for k in exploration["round"]])
    assert exploration["client"].isna().all()
    assert (said(table, "preferred_ms")["value"] % 30_000 == 0).all()
    chosen = said(table, "score")
    assert sorted(zip(chosen["round"], chosen["client"], strict=True)) == sorted(
        zip(tasks["round"], tasks["client"], strict=True)
    )
    explored = said(table, "explored")["value"].to_numpy() == 1
    assert np.array_equal(np.isnan(chosen["value"].to_numpy()), explored)
    assert 0 < explored.mean() < 1
    verdict = verify(tmp_path / "run")
    assert verdict.ok
    assert "the selector speaks of clients that it chose" in [check.name for check in verdict.checks]


@pytest.mark.parametrize("kind", ["{kind = 'power_of_choice', d = 30}", "{kind = 'power_of_choice_stale', d = 30}"])
def test_power_of_choice_says_the_losses_it_ranked(tmp_path: Path, kind: str) -> None:
    found = run(tmp_path, f"selection={kind}", "stop.server_steps=3")
    assert set(found.selections["name"]) == {"score"}
    assert len(found.selections) == (found.tasks["kind"] == "train").sum()
    assert np.isfinite(found.selections["value"]).any()


def test_nothing_is_recorded_unless_it_is_asked_for(tmp_path: Path) -> None:
    one = run(tmp_path, "selection.kind=oort", "record.selector=false")
    assert len(one.selections) == 0
    other = load_run(Simulation(Scenario.load("quickstart", [*SHORT, "selection.kind=oort"])).run(tmp_path / "other"))
    assert other.manifest["timeline_hash"] == one.manifest["timeline_hash"]
    assert len(run(tmp_path / "uniform").selections) == 0


def test_a_row_that_was_changed_is_found(tmp_path: Path) -> None:
    run(tmp_path, "selection.kind=oort", "stop.server_steps=2")
    path = tmp_path / "run" / "selections.parquet"
    table = pd.read_parquet(path)
    row = table["client"].first_valid_index()
    table.loc[row, "client"] = 119 - table.loc[row, "client"]
    table.to_parquet(path)
    wrong = [check for check in verify(tmp_path / "run").checks if not check.ok]
    assert [check.name for check in wrong] == ["the selector speaks of clients that it chose"]
    path.unlink()
    assert verify(tmp_path / "run").ok  # a folder from before there was the table


def test_what_is_said_must_be_a_number_or_one_for_each_client() -> None:
    class Talker(Selector[None]):
        def init(self, n_clients: int) -> None:
            return None

        def select(self, state: None, view: Any, n: int, key: int) -> Any:
            return view.idle[:n], state

        def feedback(self, state: None, reports: Any) -> None:
            return None

        def told(self, state: None, view: Any, chosen: Any) -> Any:
            return {"score": np.ones(len(chosen) + 1)}

    manager = ClientManager(Talker(), 9, 0, asks_why=True)
    manager.register_client(np.arange(9), 0)
    with pytest.raises(PolicyError, match=r"Talker.told: 'score': an array of shape \(4,\); expected a number, or an"):
        manager.select_clients(3, 0)
    assert make_manager(Oort()).told == {}
