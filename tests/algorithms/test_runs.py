"""Every named algorithm runs from a scenario, and its bytes are on the clock."""

from __future__ import annotations

import dataclasses
import json
from typing import final

import pytest
import torch

from evsim.algorithms.compositions import COMPOSITIONS
from evsim.algorithms.local_sgd import LocalSgd
from evsim.base.errors import TrainingError
from evsim.results import load_run
from evsim.run.simulation import Simulation
from evsim.scenario import Scenario

BASE = """
name = "short"
[stop]
server_steps = 2
[population]
clients = 40
availability = "always"
[data]
dataset = "digits"
partition = { kind = "dirichlet", alpha = 0.5, samples_per_client = 20 }
[cost]
model_bytes = 241000
[model]
kind = "mlp"
hidden = [32]
[aggregation]
kind = "synchronous"
cohort_goal = 10
[client_rule]
kind = "sgd"
learning_rate = 0.1
batch_size = 5
[executor]
kind = "serial"
threads = 1
"""


def _scenario(tmp_path, *overrides):
    (tmp_path / "short.toml").write_text(BASE)
    return Scenario.load(tmp_path / "short.toml", overrides)


def _run(tmp_path, *overrides):
    folder = Simulation(_scenario(tmp_path, *overrides)).run(tmp_path / f"run{len(list(tmp_path.iterdir()))}", None)
    return load_run(folder), json.loads((folder / "manifest.json").read_text())


@pytest.mark.filterwarnings("ignore::UserWarning")  # methods of buffers run in rounds here: said, and tested elsewhere
@pytest.mark.parametrize("name", COMPOSITIONS)
def test_a_named_algorithm_runs_and_charges_its_messages(name, tmp_path):
    run, manifest = _run(tmp_path, f'algorithm="{name}"')
    assert manifest["end"]["reason"] == "server_steps"
    assert set(run.tasks["outcome"]) == {"aggregated"}
    factor = 2 if name == "scaffold" else 1
    scalar = 4 * 241_000 / manifest["cost"]["true_model_bytes"] if name in {"fednova", "qfedavg"} else 0
    assert set(run.tasks["bytes_down"]) == {factor * 241_000}
    up = {"fedpaq": 8 / 32, "signsgd": 1 / 32}.get(name, factor)
    assert run.tasks["bytes_up"].unique() == pytest.approx([up * 241_000 + scalar], abs=100 if up < 1 else 0.5)
    assert (manifest["privacy"] is None) == (name not in {"dp_fedavg", "dp_ftrl"})


def test_a_run_under_dp_says_its_epsilon_and_counts_sampling_only_where_it_holds(tmp_path):
    _, manifest = _run(tmp_path, 'algorithm="dp_fedavg"')
    assert manifest["privacy"]["sampling_rate"] == 0.25
    assert manifest["privacy"]["warnings"] == []
    overrides = ['algorithm="dp_fedavg"', "population.availability=phones", "population.clients=300"]
    with pytest.warns(UserWarning, match="not amplified by sampling.*not always available"):
        _, manifest = _run(tmp_path, *overrides)
    assert manifest["privacy"]["sampling_rate"] == 1.0
    assert "not always available" in manifest["privacy"]["warnings"][0]


def test_too_few_updates_stop_the_run_with_everything_so_far_on_disk(tmp_path):
    scenario = _scenario(tmp_path, "merge={kind='krum',attackers=3}", "upload=[{kind='clip',max_norm=1.0}]")
    poisoned = dataclasses.replace(scenario, client_rule=OftenDivergent(learning_rate=0.1, batch_size=5))
    with pytest.raises(TrainingError, match=r"usable updates arrived.*at least 9; raise minimum_reports"):
        Simulation(poisoned).run(tmp_path / "run", None)
    run = load_run(tmp_path / "run")
    assert "at least 9; raise minimum_reports" in run.manifest["end"]["reason"]
    assert len(run.tasks) >= 10
    assert (tmp_path / "run" / "model.safetensors").exists()


@final
@dataclasses.dataclass(frozen=True, kw_only=True)
class OftenDivergent(LocalSgd):
    """Half of the clients, by the sign of one number of their update, send NaN."""

    def direction(self, grads, carry, received, state):
        return grads

    def report(self, delta, carry, received, state, steps):
        one = next(iter(delta.values()))[0, 20]  # of one pixel; the sum over all classes is 0 but for rounding
        bad = torch.where(one > 0, torch.nan, 0.0)
        return super().report({name: leaf + bad for name, leaf in delta.items()}, carry, received, state, steps)
