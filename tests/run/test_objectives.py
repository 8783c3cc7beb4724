"""Whole runs that learn something else than one class per sample: they reach stated targets, and stop there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evsim import Scenario, Simulation, load_run
from evsim.results import Run
from evsim.run.assembly import learning_of, open_all
from evsim.verify import verify

BASE: dict[str, Any] = {
    "name": "small",
    "population": {
        "clients": 20,
        "availability": "always",
        "speed": {"compute_ms_per_sample": 5, "download_kbps": 20_000, "upload_kbps": 5_000},
    },
    "data": {"dataset": {"kind": "arrays", "path": "."}, "partition": "iid"},
    "model": {"kind": "softmax"},
    "client_rule": {"kind": "sgd", "learning_rate": 0.1, "batch_size": 10},
    "aggregation": {"kind": "synchronous", "cohort_goal": 10},
    "executor": {"kind": "serial", "threads": 1},
    "evaluation": {"every": 1},
}
RNG = np.random.default_rng(3)
X = RNG.normal(size=(600, 6)).astype(np.float32)
WEIGHTS = RNG.normal(size=(6, 3))


def tables(**changes: Any) -> dict[str, Any]:
    return {**BASE, **changes}


def run(folder: Path, y: np.ndarray, **changes: Any) -> Run:
    np.savez(folder / "samples.npz", x=X, y=y)
    scenario = Scenario.from_dict(tables(**changes), folder=folder)
    found = load_run(Simulation(scenario, device="cpu").run(folder / "run"))
    assert verify(found.folder).ok
    return found


def value(run: Run, metric: str) -> float:
    return float(run.curve(metric, final=True).value[-1])


def test_a_regression_reaches_its_target(tmp_path):
    y = (X @ WEIGHTS[:, :2] + 1.0 + 0.05 * RNG.normal(size=(600, 2))).astype(np.float32)
    goal = {"metric": "rmse", "at_most": 0.1}
    found = run(tmp_path, y, objective={"kind": "regression"}, stop={"target": goal, "rounds": 60})
    assert found.manifest["end"]["reason"] == "target"
    assert found.manifest["target"] == goal
    assert found.headline == "rmse"
    assert value(found, "rmse") <= 0.1 < found.curve("rmse").value[-2]
    assert value(found, "r2") > 0.99
    assert value(found, "loss") == pytest.approx(value(found, "rmse") ** 2, rel=1e-12)
    assert found.time_to("rmse", at_most=0.1).total_seconds() * 1000 == found.end_ms


def test_hubers_loss_learns_one_number_in_spite_of_outliers(tmp_path):
    y = X @ WEIGHTS[:, 0]
    y[::15] += 100.0
    folder = {"dataset": {"kind": "arrays", "path": ".", "labels": "numbers"}, "partition": "iid"}
    found = {}
    for error in ("huber", "squared"):
        (tmp_path / error).mkdir()
        found[error] = run(
            tmp_path / error, y, data=folder, objective={"kind": "regression", "error": error}, stop={"rounds": 12}
        )
    assert value(found["huber"], "mae") < 0.9 * value(found["squared"], "mae")
    assert found["huber"].curve("mae").value[0] > value(found["huber"], "mae")


def test_a_multi_label_task_reaches_its_target(tmp_path):
    y = X @ WEIGHTS > 0.3
    goal = {"metric": "f1", "at_least": 0.93}
    found = run(tmp_path, y, objective={"kind": "multi_label"}, stop={"target": goal, "rounds": 60})
    assert found.manifest["end"]["reason"] == "target"
    assert value(found, "f1") >= 0.93
    assert value(found, "auc") > 0.97


def test_a_binary_task_reaches_its_target_by_the_short_form(tmp_path):
    y = (X @ WEIGHTS[:, 0] > 0).astype(np.int64)
    objective = {"kind": "binary", "metrics": ["auc", "accuracy", "f1"]}
    found = run(tmp_path, y, objective=objective, stop={"target_accuracy": 0.95, "rounds": 60})
    assert found.manifest["end"]["reason"] == "target_accuracy"
    assert found.headline == "accuracy"
    assert value(found, "accuracy") >= 0.95
    assert value(found, "auc") > 0.99


LANGUAGE = {
    "data": {
        "dataset": {"kind": "shakespeare", "window": 20, "stride": 20, "labels": "every", "most_test_samples": 200},
        "partition": {"kind": "natural", "max_samples": 40},
    },
    "model": {"kind": "gru", "predicts": "every", "hidden": 32},
    "client_rule": {"kind": "adam", "learning_rate": 0.01, "batch_size": 10},
    "objective": {"kind": "next_token", "metrics": ["perplexity", "accuracy", {"kind": "top_k", "k": 3}]},
}


def test_a_language_model_reaches_its_target(tmp_path):
    goal = {"metric": "perplexity", "at_most": 20}
    scenario = Scenario.from_dict(tables(**LANGUAGE, stop={"target": goal, "rounds": 40}))
    found = load_run(Simulation(scenario, device="cpu").run(tmp_path / "run"))
    assert verify(found.folder).ok
    assert found.manifest["end"]["reason"] == "target"
    perplexity = found.curve("perplexity").value
    assert perplexity[0] > 70  # of 80 characters
    np.testing.assert_allclose(np.log(perplexity), found.curve("loss").value, rtol=1e-9)  # no window is padded
    assert value(found, "accuracy") < value(found, "top3_accuracy")


STEPS = np.where(np.arange(4) < 1 + np.arange(600)[:, None] % 4, (X[:, :4] > 0).astype(np.int64), -1)
LABELS = {
    "classification": (X @ WEIGHTS).argmax(1),
    "binary": (X @ WEIGHTS[:, 0] > 0).astype(np.int64),
    "multi_label": X @ WEIGHTS > 0,
    "regression": X @ WEIGHTS,
    "next_token": np.concatenate([STEPS, STEPS], 1),
}
READER = """
import torch


class Reader(torch.nn.Module):
    def __init__(self, shape, n_classes):
        super().__init__()
        self.out = torch.nn.Linear(shape[0], 8 * n_classes)

    def forward(self, x):
        return self.out(x).reshape(len(x), 8, -1)
"""


@pytest.mark.parametrize("kind", sorted(LABELS))
def test_queries_evaluations_and_utilities_mean_the_same_loss(tmp_path, kind):
    """Of a client's samples: asked for before a selection, evaluated, and seen by a step of all its samples."""
    np.savez(tmp_path / "samples.npz", x=X, y=LABELS[kind])
    (tmp_path / "reader.py").write_text(READER)
    model = "reader.py:Reader" if kind == "next_token" else "softmax"
    rule = {"kind": "sgd", "learning_rate": 0.1, "batch_size": 600}
    made = tables(model={"kind": model}, client_rule=rule, precision="float64", objective=kind, stop={"rounds": 2})
    scenario = Scenario.from_dict(made, folder=tmp_path)
    learning = learning_of(scenario, open_all(scenario, "cpu"), scenario.executor)
    clients = np.arange(20)
    evaluated = learning.evaluate_clients(7)
    np.testing.assert_allclose(learning.losses(clients), evaluated["loss"], rtol=1e-12)
    np.testing.assert_allclose(
        learning.evaluate_clients(1000, clients[5:9])["loss"], evaluated["loss"][5:9], rtol=1e-12
    )
    learning.dispatched(clients, clients, np.zeros_like(clients))
    each = learning._judged((learning._data.x, learning._data.y), 0, 1000)["loss"].numpy()
    own = [each[learning._data.of_client(client)] for client in clients.tolist()]
    oorts = [np.sqrt((losses**2).mean()) for losses in own]  # per sample (Lai et al. 2021), of one step of all
    np.testing.assert_allclose(learning.apply(clients).utility, oorts, rtol=1e-12)
    learning.close()
