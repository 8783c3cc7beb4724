"""Several server models: IFCA of the page against the textbook, every executor, prices, K = 1."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evsim.algorithms.sgd import Sgd
from evsim.algorithms.weighting import EqualWeights, SampleWeights
from evsim.base import registry
from evsim.results import load_run
from evsim.run.simulation import Simulation
from evsim.scenario import Scenario
from evsim.training.executors.batched import Batched
from evsim.training.executors.serial import Serial
from evsim.training.executors.workers import Workers
from evsim.training.learning.learning import Learning
from evsim.verify import verify
from tests.algorithms.oracle import (
    SIZES,
    Drive,
    Vector,
    client_batches,
    client_rows,
    learning,
    local,
    loss,
    parameters,
    problem,
)

PAGE = Path(__file__).parents[2].joinpath("docs", "extending.md").read_text(encoding="utf-8")
RATE, N = 0.3, len(SIZES)
ROUNDS = [((0, 2, 3), (2,)), ((1, 3, 4, 5), ()), ((2, 3), ()), ((0, 1, 2, 3, 4, 5), (1, 4)), ((3,), ())]
OPTIONS: Any = {"learning_rate": RATE, "batch_size": 4, "epochs": 2}
EXECUTORS = [Serial(threads=1), Batched(threads=1), Batched(chunk=2, threads=1), Workers(workers=2)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("user")
    (code,) = re.findall(r"```python\n([^`]*class Ifca.*?)```", PAGE, flags=re.DOTALL)
    (toml,) = re.findall(r"```toml\n(extends[^`]*ifca.py.*?)```", PAGE, flags=re.DOTALL)
    (found / "ifca.py").write_text(code, encoding="utf-8")
    (found / "s.toml").write_text(toml, encoding="utf-8")
    return found


def ifca(folder: Path, n: int, executor: Any = None, weighting: Any = None) -> Learning:
    slots = {"broadcast": "SendAll", "client_rule": "Ifca", "server_optimizer": "PerCluster"}
    made = {slot: registry.load(slot, f"ifca.py:{name}", folder) for slot, name in slots.items()}
    own: Any = {"client_rule": OPTIONS}
    parts = {slot: cls(n_clusters=n, **own.get(slot, {})) for slot, cls in made.items()}
    return learning(problem(), executor=executor, weighting=weighting or EqualWeights(), **parts)


def vectors(server: Learning, n: int) -> list[Vector]:
    """The model of each cluster."""
    found = [parameters(server)]
    for k in range(1, n):
        leaves = server._server["clusters"]
        found.append(np.concatenate([leaves[f"{k}.weight"].numpy().ravel(), leaves[f"{k}.bias"].numpy()]))
    return found


def driven(server: Learning) -> Learning:
    drive = Drive(server)
    for asked, lost in ROUNDS:
        tasks = drive.dispatch(asked)
        gone = np.isin(asked, lost)
        server.discard(tasks[gone].tolist())
        server.apply(tasks[~gone])
    return server


def textbook(models: list[Vector], weigh: Any) -> tuple[list[Vector], dict[int, int], int]:
    """Algorithm 1, model averaging; a lost client changes nothing, a cluster that nobody chose stays."""
    data, nth, last, empty = problem(), dict.fromkeys(range(N), 0), dict[int, int](), 0
    for asked, lost in ROUNDS:
        updates: list[list[tuple[float, Vector]]] = [[] for _ in models]
        for client in asked:
            steps = client_batches(Sgd(**OPTIONS), data, client, nth[client])
            nth[client] += 1
            if client in lost:
                continue
            x, y = client_rows(data, client)
            last[client] = k = int(np.argmin([loss(w, x, y) for w in models]))
            updates[k].append((weigh(client), local(models[k], steps, RATE)))
        empty += sum(not some for some in updates)
        models = [
            sum(p * y for p, y in some) / sum(p for p, _ in some) if some else w
            for w, some in zip(models, updates, strict=True)
        ]
    return models, last, empty


@pytest.mark.parametrize("executor", EXECUTORS, ids=str)
@pytest.mark.parametrize("n", [2, 3])
def test_ifca_of_the_page_agrees_with_the_textbook_under_drop_outs(folder: Path, n: int, executor: Any) -> None:
    server = ifca(folder, n, executor)
    expected, last, empty = textbook(vectors(server, n), lambda _: 1.0)
    driven(server)
    for found, wanted in zip(vectors(server, n), expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-9)
    assert len(set(last.values())) > 1
    assert empty > 0
    own = server.evaluate_clients(64)["personal_loss"]
    for client in range(N):
        wanted = loss(expected[last.get(client, 0)], *client_rows(problem(), client))
        assert own[client] == pytest.approx(wanted, abs=1e-9)
    server.close()


def test_sample_weights_count_within_each_cluster(folder: Path) -> None:
    server = ifca(folder, 2, weighting=SampleWeights())
    expected, *_ = textbook(vectors(server, 2), lambda client: float(SIZES[client]))
    for found, wanted in zip(vectors(driven(server), 2), expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-9)


def test_one_cluster_is_fedavg(folder: Path) -> None:
    plain = learning(problem(), client_rule=Sgd(**OPTIONS), weighting=EqualWeights())
    np.testing.assert_allclose(parameters(driven(ifca(folder, 1))), parameters(driven(plain)), rtol=0, atol=1e-12)


def test_a_checkpoint_keeps_every_cluster(folder: Path) -> None:
    one, other = driven(ifca(folder, 3)), ifca(folder, 3)
    other.restore(one.checkpoint())
    for first, second in zip(vectors(one, 3), vectors(other, 3), strict=True):
        np.testing.assert_array_equal(first, second)


@pytest.mark.filterwarnings("ignore::evsim.base.caveat.CaveatWarning")
def test_ifca_pays_for_all_models_down_one_up_and_every_loss(folder: Path, tmp_path: Path) -> None:
    overrides = [
        "stop.server_steps=3",
        "executor.kind=serial",
        "population.clients=60",
        "aggregation.minimum_cohort=10",
    ]
    run = load_run(Simulation(Scenario.load(folder / "s.toml", overrides)).run(tmp_path / "run"))
    cost = run.manifest["cost"]
    assert cost["bytes_down"] == 2 * 40_000_000
    assert 40_000_000 < cost["bytes_up"] < 1.001 * 40_000_000  # and which
    tasks = run.tasks
    assert (tasks["planned_samples"] == (20 + 2 * 20) * 80).all()
    exact = run.clients["compute_ms_per_sample"].to_numpy()[tasks["client"]] * tasks["compute_factor"]
    near = np.abs(tasks["planned_compute_ms"] - np.rint(exact * (3 * 20 + 2 * 20) * 80))
    assert (near <= 1).all()
    assert {"accuracy", "personal_accuracy"} <= set(run.client_evaluations["metric"])
    verdict = verify(tmp_path / "run")
    assert verdict.ok, [check for check in verdict.checks if not check.ok]
