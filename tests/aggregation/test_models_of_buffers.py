"""The model after each step of an asynchronous run, against a NumPy loop with closed-form gradients, in float64."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file

from evsim import Scenario, Simulation
from evsim.base import rng
from evsim.training.data.base import federate
from evsim.training.executors.batches import batches

RATE, STEPS = 0.3, 7
TABLES = {
    "name": "dozen",
    "seed": 5,
    "precision": "float64",
    "population": {
        "clients": 12,
        "availability": "always",
        "speed": {"compute_ms_per_sample": 40, "download_kbps": 5000, "upload_kbps": 2000},
    },
    "data": {"dataset": "digits", "partition": {"kind": "quantity", "mean": 25, "sigma": 1.2}},
    "cost": {"sample_scale": 3},
    "model": {"kind": "softmax"},
    "client_rule": {"kind": "sgd", "learning_rate": RATE, "batch_size": 8},
    "executor": {"kind": "serial"},
}

Weights = dict[str, np.ndarray]


def softmax_sgd(start: Weights, x: np.ndarray, y: np.ndarray, orders: list[np.ndarray], pull: float) -> Weights:
    """Local steps of multinomial logistic regression, with an optional proximal pull towards the start."""
    w, b = start["1.weight"].copy(), start["1.bias"].copy()
    for batch in orders:
        logits = x[batch] @ w.T + b
        p = np.exp(logits - logits.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        p[np.arange(len(batch)), y[batch]] -= 1.0
        grad_w, grad_b = p.T @ x[batch] / len(batch), p.mean(axis=0)
        w = w - RATE * (grad_w + pull * (w - start["1.weight"]))
        b = b - RATE * (grad_b + pull * (b - start["1.bias"]))
    return {"1.weight": w - start["1.weight"], "1.bias": b - start["1.bias"]}


def replayed(scenario: Scenario, tasks: pd.DataFrame, step: Callable[..., Weights], pull: float = 0.0) -> list[Weights]:
    """All model versions, from the log of the run and the rule of one server step."""
    table = scenario.data
    data = federate(
        table.dataset, table.partition, test_fraction=table.test_fraction, n_clients=12, seed=5, folder=Path()
    )
    first = scenario.model.build(shape=data.x.shape[1:], n_classes=10, n_tokens=None, seed=5)
    versions = [{name: p.detach().numpy().astype(np.float64) for name, p in first.named_parameters()}]
    x, y = data.x.reshape(len(data.x), -1).astype(np.float64), data.y
    nth = tasks.groupby("client").cumcount()
    for number in range(1, STEPS + 1):
        used = tasks[tasks["server_step"] == number]
        updates = []
        for row in used.itertuples():
            rows = data.samples_of(row.client)
            orders = batches(
                scenario.client_rule.schedule, len(rows), rng.key(5, "local"), row.client, int(nth[row.Index])
            )
            delta = softmax_sgd(versions[row.version], x[rows], y[rows], orders, pull)
            updates.append((number - 1 - row.version, len(rows), versions[row.version], delta))
        versions.append(step(versions[-1], updates))
    return versions


def run(tmp_path: Path, **tables: object) -> tuple[Scenario, pd.DataFrame, Weights]:
    scenario = Scenario.from_dict({**TABLES, "stop": {"server_steps": STEPS}, **tables})
    folder = Simulation(scenario, device="cpu").run(tmp_path / "run")
    return scenario, pd.read_parquet(folder / "tasks.parquet"), load_file(folder / "model.safetensors")


def assert_equal(model: Weights, expected: Weights) -> None:
    for name, value in expected.items():
        np.testing.assert_allclose(model[name], value, rtol=0, atol=1e-12)


def fedbuff(model: Weights, updates: list, size: int = 3, rate: float = 0.7) -> Weights:
    """Nguyen et al. 2022, algorithm 1: w + eta / K sum_k (1 + tau_k)^-0.5 Delta_k."""
    total = {name: sum((1 + tau) ** -0.5 * delta[name] for tau, _, _, delta in updates) for name in model}
    return {name: model[name] + rate * total[name] / size for name in model}


def convex(model: Weights, updates: list) -> Weights:
    """The documented variant: divided by the sum of the weights."""
    weights = [(1 + tau) ** -0.5 * samples for tau, samples, _, _ in updates]
    return {
        name: model[name] + sum(w * u[3][name] for w, u in zip(weights, updates, strict=True)) / sum(weights)
        for name in model
    }


def fedasync(model: Weights, updates: list) -> Weights:
    """Xie et al. 2019, algorithm 1: w <- (1 - a_t) w + a_t y with a_t = 0.6 (1 + tau)^-0.5."""
    ((tau, _, base, delta),) = updates
    share = 0.6 * (1 + tau) ** -0.5
    return {name: (1 - share) * model[name] + share * (base[name] + delta[name]) for name in model}


BUFFERED = {"kind": "buffered", "concurrency": 6, "buffer_size": 3}


def test_fedbuff_as_printed(tmp_path: Path) -> None:
    server = {"kind": "sgd", "learning_rate": 0.7}
    tables = {"algorithm": "fedbuff", "aggregation": BUFFERED, "server_optimizer": server}
    scenario, tasks, model = run(tmp_path, **tables)
    assert tasks["staleness"].max() >= 2
    assert_equal(model, replayed(scenario, tasks, fedbuff)[-1])


def test_the_variant_that_divides_by_the_sum_of_weights(tmp_path: Path) -> None:
    weighting = {"kind": "polynomial_staleness", "exponent": 0.5, "base": "samples"}
    scenario, tasks, model = run(tmp_path, aggregation=BUFFERED, weighting=weighting)
    assert_equal(model, replayed(scenario, tasks, convex)[-1])


def test_fedasync_as_printed(tmp_path: Path) -> None:
    aggregation = {"kind": "buffered", "concurrency": 4, "buffer_size": 1}
    rule = {"learning_rate": RATE, "batch_size": 8}  # the algorithm's own rule: FedProx with mu = 0.005
    scenario, tasks, model = run(tmp_path, algorithm="fedasync", aggregation=aggregation, client_rule=rule)
    assert tasks["staleness"].max() >= 2
    assert_equal(model, replayed(scenario, tasks, fedasync, pull=0.005)[-1])


def test_late_reports_kept_join_the_next_step_and_never_count_towards_its_goal(tmp_path: Path) -> None:
    aggregation = {"kind": "synchronous", "cohort_goal": 2, "over_commitment": 3.0, "late_reports": "keep"}
    weighting = {"kind": "polynomial_staleness", "exponent": 1.0, "base": "samples"}  # DynSGD

    def dynsgd(model: Weights, updates: list) -> Weights:
        weights = [samples / (1 + tau) for tau, samples, _, _ in updates]
        return {
            name: model[name] + sum(w * u[3][name] for w, u in zip(weights, updates, strict=True)) / sum(weights)
            for name in model
        }

    scenario, tasks, model = run(tmp_path, aggregation=aggregation, weighting=weighting)
    used = tasks[tasks["outcome"] == "aggregated"]
    assert (used[used["staleness"] == 0].groupby("server_step").size() == 2).all()
    assert (used["staleness"] > 0).sum() > 5
    assert_equal(model, replayed(scenario, tasks, dynsgd)[-1])


@pytest.mark.parametrize("most", [1, 2])
def test_kept_reports_that_are_too_stale_are_wasted(tmp_path: Path, most: int) -> None:
    aggregation = {"kind": "synchronous", "cohort_goal": 1, "over_commitment": 6.0, "late_reports": "keep"}
    _, tasks, _ = run(tmp_path, aggregation={**aggregation, "max_staleness": most})
    assert tasks.loc[tasks["outcome"] == "aggregated", "staleness"].max() <= most
    assert (tasks.loc[tasks["outcome"] == "stale", "staleness"] > most).all()


def test_a_period_steps_with_whatever_the_buffer_holds(tmp_path: Path) -> None:
    aggregation = {"kind": "buffered", "concurrency": 6, "buffer_size": 1000, "period": "20s"}
    scenario, tasks, _ = run(tmp_path, aggregation=aggregation)
    steps = pd.read_parquet(tmp_path / "run" / "server_steps.parquet")
    assert (steps["reason"] == "period").all()
    assert (steps["closed_at"] % 20_000 == 0).all()
    for row in steps.itertuples():
        used = tasks[tasks["server_step"] == row.version]
        assert used["ended_at"].between(row.closed_at - 20_000, row.closed_at).all()
    assert scenario.aggregation.reports_per_step == 1000
