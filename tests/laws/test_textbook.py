"""With everybody online, equally fast, and no deadline, a run is textbook FedAvg."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from evsim import Scenario, Simulation
from evsim.base import rng
from evsim.scenario import DataTable
from evsim.training.data.base import FederatedData, federate
from evsim.training.executors.batches import batches

ROUNDS = 20

TABLES = {
    "name": "textbook",
    "seed": 3,
    "precision": "float64",
    "stop": {"server_steps": ROUNDS},
    "population": {
        "clients": 7,
        "availability": "always",
        "speed": {"compute_ms_per_sample": 20, "download_kbps": 5000, "upload_kbps": 2000},
    },
    "data": {"dataset": "digits", "partition": {"kind": "quantity", "mean": 15}},
    "model": {"kind": "mlp", "hidden": [8]},
    "client_rule": {"kind": "sgd", "learning_rate": 0.2, "batch_size": 4, "epochs": 2},
    "executor": {"kind": "serial"},
}
SYNCHRONOUS = {"kind": "synchronous", "cohort_goal": 7}


def load_data(scenario: Scenario) -> FederatedData:
    table = scenario.data
    assert isinstance(table, DataTable)
    return federate(
        table.dataset,
        table.partition,
        test_fraction=table.test_fraction,
        n_clients=scenario.population.clients,
        seed=scenario.seed,
        folder=Path(),
    )


def textbook_fedavg(scenario: Scenario, rounds: int) -> dict[str, torch.Tensor]:
    """McMahan et al. 2017, algorithm 1, as one would write it on a slide; batch orders are those of the run."""
    data = load_data(scenario)
    model = scenario.model.build(shape=data.x.shape[1:], n_classes=10, n_tokens=None, seed=scenario.seed).double()
    x, y = torch.as_tensor(data.x).double(), torch.as_tensor(data.y)
    weights = data.sizes / data.sizes.sum()
    key = rng.key(scenario.seed, "local")
    for round_ in range(rounds):
        start = {name: p.detach().clone() for name, p in model.named_parameters()}
        average = {name: torch.zeros_like(p) for name, p in start.items()}
        for client in range(data.n_clients):
            model.load_state_dict(start)
            rows = data.samples_of(client)
            for batch in batches(scenario.client_rule.schedule, len(rows), key, client, round_):
                loss = torch.nn.functional.cross_entropy(model(x[rows[batch]]), y[rows[batch]])
                model.zero_grad()
                loss.backward()
                with torch.no_grad():
                    for p in model.parameters():
                        p.sub_(0.2 * p.grad)
            for name, p in model.named_parameters():
                average[name] += weights[client] * p.detach()
        model.load_state_dict(average)
    return {name: p.detach() for name, p in model.named_parameters()}


@pytest.mark.parametrize(
    "aggregation",
    [
        SYNCHRONOUS,
        {"kind": "buffered", "concurrency": 7, "buffer_size": 7},  # equal speeds: a buffer of everybody is a round
    ],
    ids=["synchronous", "buffered"],
)
def test_full_participation_of_equal_clients_is_textbook_fedavg(tmp_path: Path, aggregation: dict[str, object]) -> None:
    tables = {**TABLES, "aggregation": aggregation}
    if aggregation["kind"] == "buffered":  # equal sizes too, so that all reports of a round arrive at one instant
        tables["data"] = {"dataset": "digits", "partition": {"kind": "iid", "samples_per_client": 9}}
    scenario = Scenario.from_dict(tables)
    folder = Simulation(scenario, device="cpu").run(tmp_path / "run")
    model = load_file(folder / "model.safetensors")
    expected = textbook_fedavg(scenario, ROUNDS)
    assert set(model) == set(expected)
    for name, parameter in expected.items():
        np.testing.assert_allclose(model[name], parameter.numpy(), rtol=0, atol=1e-10)


def test_a_buffer_of_one_with_constant_weight_is_the_sequential_recursion(tmp_path: Path) -> None:
    """One client after the other, each from the newest model: w <- w + delta(w)."""
    tables = {**TABLES, "aggregation": {"kind": "buffered", "concurrency": 1, "buffer_size": 1}}
    scenario = Scenario.from_dict({**tables, "stop": {"server_steps": 12}, "weighting": {"kind": "uniform"}})
    folder = Simulation(scenario, device="cpu").run(tmp_path / "run")
    import pandas as pd

    order = pd.read_parquet(folder / "tasks.parquet").sort_values("server_step")
    data = load_data(scenario)
    model = scenario.model.build(shape=data.x.shape[1:], n_classes=10, n_tokens=None, seed=scenario.seed).double()
    x, y = torch.as_tensor(data.x).double(), torch.as_tensor(data.y)
    key, count = rng.key(scenario.seed, "local"), dict.fromkeys(range(7), 0)
    for client in order.loc[order["outcome"] == "aggregated", "client"]:
        rows = data.samples_of(client)
        for batch in batches(scenario.client_rule.schedule, len(rows), key, client, count[client]):
            grads = torch.autograd.grad(
                torch.nn.functional.cross_entropy(model(x[rows[batch]]), y[rows[batch]]), list(model.parameters())
            )
            with torch.no_grad():
                for p, g in zip(model.parameters(), grads, strict=True):
                    p.sub_(0.2 * g)
        count[client] += 1
    saved = load_file(folder / "model.safetensors")
    for name, p in model.named_parameters():
        np.testing.assert_allclose(saved[name], p.detach().numpy(), rtol=0, atol=1e-10)
