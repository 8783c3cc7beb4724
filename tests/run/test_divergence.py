"""A run that diverges says so, where it stands, and ends by default."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import pytest
from safetensors.numpy import load_file

from evsim import Run, Scenario, Simulation, load_run
from evsim.algorithms import tree
from evsim.algorithms.base import ServerOptimizer
from evsim.results.summary import summary_table

TABLES: dict[str, Any] = {
    "name": "wild",
    "stop": {"server_steps": 12},
    "population": {"clients": 12, "availability": "always"},
    "data": {"dataset": "digits", "partition": {"kind": "iid", "samples_per_client": 12}},
    "model": {"kind": "mlp", "hidden": [8]},
    "aggregation": {"kind": "synchronous", "cohort_goal": 4},
    "client_rule": {"kind": "sgd", "learning_rate": 0.1, "batch_size": 4},
    "executor": {"kind": "serial", "threads": 1},
}
BUFFERED = {"kind": "buffered", "concurrency": 6, "buffer_size": 2}
ASYNCHRONOUS = {"kind": "buffered", "concurrency": 4, "buffer_size": 1}


@final
@dataclass(frozen=True, kw_only=True)
class TooLarge(ServerOptimizer):
    """A step no number can hold: rates of that size are refused by evsim's own."""

    def init(self, model):
        return {}

    def apply(self, server, merged, info):
        return {**server, "model": tree.add_scaled(server["model"], merged["model"], 1e308)}


def run(folder: Path, **tables: Any) -> Run:
    scenario = Scenario.from_dict({**TABLES, **tables})
    return load_run(Simulation(scenario, device="cpu").run(folder / "run"))


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("aggregation", [TABLES["aggregation"], BUFFERED, ASYNCHRONOUS])
def test_a_server_step_that_is_too_large_ends_the_run(tmp_path: Path, aggregation: dict[str, Any]) -> None:
    found = run(tmp_path, server_optimizer={"kind": f"{__name__}:TooLarge"}, aggregation=aggregation)
    assert found.manifest["end"]["reason"] == "diverged"
    assert found.manifest["diverged_at_version"] == found.manifest["server_steps"] < 12
    assert not (found.folder / "model.safetensors").exists()
    weights = load_file(found.folder / "model.diverged.safetensors")
    assert not all(np.isfinite(leaf).all() for leaf in weights.values())
    assert "diverged" in {caveat.key for caveat in found.caveats}
    assert "diverged" in str(summary_table(found))


@pytest.mark.parametrize("aggregation", [TABLES["aggregation"], BUFFERED, ASYNCHRONOUS])
def test_updates_of_which_none_is_finite_end_the_run(tmp_path: Path, aggregation: dict[str, Any]) -> None:
    found = run(
        tmp_path,
        client_rule={"kind": "sgd", "learning_rate": 1e15, "weight_decay": 1e15, "batch_size": 4},
        aggregation=aggregation,
    )
    assert found.manifest["end"]["reason"] == "diverged"
    assert (found.server_steps["reason"] == "invalid").all()
    assert found.server_steps["reports"].sum() <= 4
    assert found.manifest["diverged_at_version"] is None  # the model itself stayed as it was
    assert (found.folder / "model.safetensors").exists()
    assert "diverged" in {caveat.key for caveat in found.caveats}


def test_who_wants_to_see_what_follows_may_go_on(tmp_path: Path) -> None:
    rule = {"kind": "sgd", "learning_rate": 1e15, "weight_decay": 1e15, "batch_size": 4}
    stop = {"rounds": 6, "on_divergence": False}
    found = run(tmp_path, client_rule=rule, stop=stop)
    assert (found.manifest["end"]["reason"], len(found.server_steps)) == ("rounds", 6)
