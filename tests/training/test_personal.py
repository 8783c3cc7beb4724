"""Models and leaves of one's own: Ditto and personal heads by textbook loops, in every executor, and evaluated."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from evsim.algorithms.base import Method
from evsim.algorithms.broadcast import FullModel
from evsim.algorithms.ditto import Ditto
from evsim.algorithms.fedrep import FedRep
from evsim.algorithms.mean import Mean
from evsim.algorithms.server_sgd import ServerSgd
from evsim.algorithms.sgd import Sgd
from evsim.algorithms.weighting import SampleWeights
from evsim.base import registry
from evsim.base.errors import ModelError, PolicyError, ScenarioError
from evsim.results import load_run
from evsim.run.simulation import Simulation
from evsim.scenario import Scenario
from evsim.training.executors.batched import Batched
from evsim.training.executors.serial import Serial
from evsim.training.executors.workers import Workers
from evsim.training.learning.kept import is_kept
from evsim.training.learning.learning import Learning, Setting
from evsim.verify import verify
from tests.algorithms.oracle import (
    CLASSES,
    INPUTS,
    SEED,
    SIZES,
    Drive,
    Vector,
    client_batches,
    client_rows,
    gradient,
    learning,
    local,
    loss,
    parameters,
    problem,
)

PAGE = Path(__file__).parents[2].joinpath("docs", "extending.md").read_text(encoding="utf-8")
RATE, LAM, N = 0.3, 0.7, len(SIZES)
ROUNDS = [((0, 2, 3), (2,)), ((1, 3, 4, 5), ()), ((2, 3), ()), ((0, 1, 2, 3, 4, 5), (1, 4)), ((3,), ())]
EXECUTORS = [Batched(threads=1), Batched(chunk=2, threads=1), Workers(workers=2)]


def checked(folder: Path) -> list[Any]:
    """The checks of a run that all hold, without those that were skipped."""
    verdict = verify(folder)
    assert verdict.ok, [check for check in verdict.checks if not check.ok]
    return [check for check in verdict.checks if not check.skipped]


def driven(server: Learning) -> Learning:
    drive = Drive(server)
    for asked, lost in ROUNDS:
        tasks = drive.dispatch(asked)
        gone = np.isin(asked, lost)
        server.discard(tasks[gone].tolist())
        server.apply(tasks[~gone])
    return server


def textbook_ditto(rule: Ditto) -> tuple[Vector, dict[int, Vector]]:
    """Algorithm 1: a lost client's personal model stays as it was."""
    data, nth, own = problem(), dict.fromkeys(range(N), 0), dict[int, Vector]()
    w = parameters(learning(data, client_rule=rule))
    for asked, lost in ROUNDS:
        total, weight = np.zeros_like(w), 0.0
        for client in asked:
            steps = client_batches(rule, data, client, nth[client])
            nth[client] += 1
            if client in lost:
                continue
            y, v = w.copy(), own.get(client, w).copy()
            y, v = local(w, steps, RATE, momentum=rule.momentum), _own(rule, w, v, steps)
            own[client] = v
            total, weight = total + SIZES[client] * (y - w), weight + SIZES[client]
        w = w + total / weight
    return w, own


def _own(rule: Ditto, w: Vector, v: Vector, steps: Any) -> Vector:
    speed = np.zeros_like(v)
    for x, labels in steps:
        speed = rule.momentum * speed + gradient(v, x, labels) + LAM * (v - w)
        v = v - RATE * speed
    return v


@pytest.mark.parametrize("momentum", [0.0, 0.6])
@pytest.mark.parametrize("executor", [Serial(threads=1), *EXECUTORS], ids=str)
def test_ditto_agrees_with_the_textbook_under_drop_outs(executor: Any, momentum: float) -> None:
    rule = Ditto(learning_rate=RATE, batch_size=4, epochs=2, lam=LAM, momentum=momentum)
    server = driven(learning(problem(), client_rule=rule, executor=executor))
    w, own = textbook_ditto(rule)
    np.testing.assert_allclose(parameters(server), w, rtol=0, atol=1e-9)
    found = server.evaluate_clients(64)
    for client in range(N):
        x, y = client_rows(problem(), client)
        assert found["loss"][client] == pytest.approx(loss(w, x, y), abs=1e-9)
        assert found["personal_loss"][client] == pytest.approx(loss(own.get(client, w), x, y), abs=1e-9)
    server.close()


def test_the_global_model_and_the_loss_that_the_server_hears_are_those_of_fedavg_even_where_gradients_are_cut() -> None:
    options: Any = {"learning_rate": RATE, "batch_size": 4, "epochs": 2, "clip_norm": 0.2, "weight_decay": 0.1}
    both = [learning(problem(), client_rule=rule) for rule in (Ditto(**options, lam=LAM), Sgd(**options))]
    drives = [Drive(server) for server in both]
    for asked, _ in ROUNDS:
        heard = [server.apply(drive.dispatch(asked)).utility for server, drive in zip(both, drives, strict=True)]
        np.testing.assert_allclose(heard[0], heard[1], rtol=1e-12)
    np.testing.assert_allclose(parameters(both[0]), parameters(both[1]), rtol=0, atol=1e-12)


def test_a_client_of_the_page_would_use_what_its_last_task_left(tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n([^`]*class FineTuned.*?)```", PAGE, flags=re.DOTALL)
    (tmp_path / "tuned.py").write_text(code, encoding="utf-8")
    rule = registry.load("client_rule", "tuned.py:FineTuned", tmp_path)(learning_rate=RATE, batch_size=4, epochs=2)
    server = learning(problem(), client_rule=rule)
    w = parameters(server)
    server.apply(Drive(server).dispatch((1, 4)))
    found, x_y = server.evaluate_clients(64), client_rows(problem(), 4)
    own = local(w, client_batches(rule, problem(), 4, 0), RATE)
    assert found["personal_loss"][4] == pytest.approx(loss(own, *x_y), abs=1e-9)
    assert found["personal_loss"][0] == found["loss"][0]


# -- kept leaves -------------------------------------------------------------------------------------------------------


def two_layers() -> torch.nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        body, norm, head = torch.nn.Linear(INPUTS, 5), torch.nn.BatchNorm1d(5), torch.nn.Linear(5, CLASSES)
        return torch.nn.Sequential(body, norm, torch.nn.Tanh(), head)


def keeping(keep: tuple[str, ...], executor: Any = None, data: Any = None, rule: Any = None) -> Learning:
    rule = rule or Sgd(**OPTIONS)
    method = Method(broadcast=FullModel(), client_rule=rule, upload=(), weighting=SampleWeights(), merge=Mean(),
                    server_optimizer=ServerSgd(), keep=keep)  # fmt: skip
    setting = Setting(seed=SEED, precision="float64", cohort_goal=3)
    return Learning(method, two_layers(), data or problem(), executor or Serial(threads=1), setting)


KEEP = ("3.*", "1.running_*")


OPTIONS: Any = {"learning_rate": RATE, "batch_size": 3, "epochs": 3, "drop_last": True}


def trained_alone(start: dict[str, torch.Tensor], steps: Any, head_steps: int) -> dict[str, torch.Tensor]:
    """The leaves after steps of SGD: on everything, or first on the head and then on the rest."""
    net = two_layers().double().train()
    net.load_state_dict(start)
    for place, (x, y) in enumerate(steps):
        net.zero_grad()
        torch.nn.functional.cross_entropy(net(torch.tensor(x)), torch.tensor(y)).backward()
        with torch.no_grad():
            for name, leaf in net.named_parameters():
                if not head_steps or (name[0] == "3") == (place < head_steps):
                    leaf.sub_(RATE * leaf.grad)
    return {name: leaf.detach().clone().double() for name, leaf in net.state_dict().items()}


def textbook_kept(
    keep: tuple[str, ...], head_epochs: int = 0
) -> tuple[dict[str, torch.Tensor], dict[int, dict[str, torch.Tensor]]]:
    """Every client trains the whole model, or its head and then the rest, and sends what it does not keep."""
    data, nth = problem(), dict.fromkeys(range(N), 0)
    rule = Sgd(**OPTIONS)
    whole = {name: leaf.detach().double() for name, leaf in two_layers().state_dict().items()}
    own: dict[int, dict[str, torch.Tensor]] = {}
    for asked, lost in ROUNDS:
        total = {name: torch.zeros_like(leaf) for name, leaf in whole.items()}
        weight = 0.0
        for client in asked:
            steps = client_batches(rule, data, client, nth[client])
            nth[client] += 1
            if client in lost:
                continue
            start = {**whole, **own.get(client, {})}
            after = trained_alone(start, steps, head_epochs * max(SIZES[client] // 3, 1))
            own[client] = {name: leaf for name, leaf in after.items() if is_kept(name, keep)}
            for name in whole:
                if name not in own[client]:
                    total[name] += SIZES[client] * (after[name] - start[name])
            weight += SIZES[client]
        whole = {name: leaf + total[name] / weight for name, leaf in whole.items()}
        if not is_kept("1.num_batches_tracked", keep):
            whole["1.num_batches_tracked"] = whole["1.num_batches_tracked"].round()
    return whole, own


METHODS = {
    "fedper": (("3.*",), None),
    "fedbn": (("1.*",), None),
    "heads and statistics": (KEEP, None),
    "fedrep": (("3.*",), FedRep(**OPTIONS, head=("3.*",), head_epochs=2)),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("executor", [Serial(threads=1), *EXECUTORS], ids=str)
def test_what_clients_keep_agrees_with_the_textbook_under_drop_outs(executor: Any, method: str) -> None:
    keep, rule = METHODS[method]
    server = driven(keeping(keep, executor, rule=rule))
    whole, own = textbook_kept(keep, rule.head_epochs if rule else 0)
    for name, leaf in server.tensors().items():
        np.testing.assert_allclose(leaf, whole[name].numpy(), rtol=0, atol=1e-9, err_msg=name)
    for name, leaf in two_layers().state_dict().items():
        if is_kept(name, keep):
            np.testing.assert_array_equal(server.tensors()[name], leaf.double().numpy())
    found, data = server.evaluate_clients(64), problem()
    for client in range(N):
        x, y = (torch.as_tensor(part) for part in client_rows(data, client))
        net = two_layers().double().eval()
        net.load_state_dict({**whole, **own.get(client, {})})
        expected = float(torch.nn.functional.cross_entropy(net(x), y).detach())
        assert found["personal_loss"][client] == pytest.approx(expected, abs=1e-9)
    assert (found["loss"] != found["personal_loss"]).all()
    server.close()


@pytest.mark.parametrize("executor", [Serial(threads=1), EXECUTORS[1]], ids=str)
def test_the_part_of_fedrep_that_rests_feels_neither_momentum_nor_decay_nor_the_bound_of_the_other(
    executor: Any,
) -> None:
    """One phase of momentum 0.9 and weight decay after the other, each with a fresh torch optimizer."""
    options = {**OPTIONS, "momentum": 0.9, "weight_decay": 0.05, "clip_norm": 0.1}
    server = keeping(("3.*",), executor, rule=FedRep(**options, head=("3.*",), head_epochs=1))
    server.apply(Drive(server).dispatch((1,)))
    net, steps = two_layers().double().train(), client_batches(Sgd(**options), problem(), 1, 0)
    per_pass = SIZES[1] // 3
    for part, batches in ((net[3], steps[:per_pass]), (net[:2], steps[per_pass:])):
        optimizer = torch.optim.SGD(part.parameters(), lr=RATE, momentum=0.9, weight_decay=0.05)
        for x, y in batches:
            net.zero_grad()
            torch.nn.functional.cross_entropy(net(torch.tensor(x)), torch.tensor(y)).backward()
            length = torch.linalg.vector_norm(torch.cat([leaf.grad.flatten() for leaf in part.parameters()]))
            for leaf in part.parameters():
                leaf.grad *= min(1.0, 0.1 / float(length))
            optimizer.step()
    for name in ("0.weight", "1.bias"):
        np.testing.assert_allclose(server.tensors()[name], net.state_dict()[name], rtol=0, atol=1e-9)
    x, y = (torch.as_tensor(part) for part in client_rows(problem(), 1))
    expected = float(torch.nn.functional.cross_entropy(net.eval()(x), y).detach())
    assert server.evaluate_clients(64)["personal_loss"][1] == pytest.approx(expected, abs=1e-9)


def test_fedrep_needs_its_head_kept_and_epochs_for_both(tmp_path: Path) -> None:
    rule = "client_rule={kind='fedrep', learning_rate=0.1, epochs=3, head=['3.*'], head_epochs=2}"
    with pytest.raises(ScenarioError, match=r"keep: \[\], without the head"):
        Scenario.load("quickstart", [rule])
    short = ["stop.server_steps=3", "stop.target_accuracy=", "executor.kind=serial", "evaluation.per_client=true"]
    run = load_run(Simulation(Scenario.load("quickstart", [rule, 'keep=["3.*"]', *short])).run(tmp_path / "run"))
    assert "personal_accuracy_mean" in set(run.evaluations["metric"])
    assert {"local steps", "compute prices"} <= {each.name for each in checked(tmp_path / "run")}
    for wrong in ({"head_epochs": 3}, {"head_epochs": 0}, {"head": ()}, {"epochs": 2.5}, {"epochs": None, "steps": 4}):
        with pytest.raises(PolicyError, match=r"head_epochs must|epochs must|head must"):
            FedRep(**{"learning_rate": 0.1, "epochs": 3, "head": ("3.*",), "head_epochs": 2, **wrong})


def test_nobody_who_keeps_nothing_is_slowed_or_changed() -> None:
    one, other = driven(keeping(())), driven(keeping(("1.num_batches_tracked",)))
    for name, leaf in one.tensors().items():
        if name != "1.num_batches_tracked":
            np.testing.assert_allclose(leaf, other.tensors()[name], rtol=0, atol=1e-12)
    assert not [name for name in one.evaluate_clients(64) if name.startswith("personal_")]


@pytest.mark.parametrize(
    ("keep", "words"),
    [
        (("4.*",), r"keep: '4.\*' names no leaf; expected patterns of names"),
        (("*",), "keep: every parameter; expected some that are sent"),
    ],
)
def test_patterns_that_name_nothing_or_everything_are_refused(keep: tuple[str, ...], words: str) -> None:
    with pytest.raises(ModelError, match=words):
        keeping(keep)


def test_a_run_with_a_personal_head_sends_less_and_is_better_for_each_client(tmp_path: Path) -> None:
    overrides = ["stop.server_steps=30", "stop.target_accuracy=", "executor.kind=serial", "population.clients=40"]
    overrides += ["aggregation.cohort_goal=10", "aggregation.minimum_cohort=6", "aggregation.minimum_reports=3"]
    overrides += ["evaluation.per_client=true", "evaluation.every=15", "data.partition.alpha=0.1", 'keep=["3.*"]']
    run = load_run(Simulation(Scenario.load("quickstart", overrides)).run(tmp_path / "run"))
    rows = run.client_evaluations
    last = rows[rows["version"] == 30]
    assert set(last["metric"]) == {"loss", "accuracy", "personal_loss", "personal_accuracy"}
    mean = last.groupby("metric", observed=True)["value"].mean()
    assert mean["personal_accuracy"] > mean["accuracy"] + 0.1
    body, head = 64 * 32 + 32, 32 * 10 + 10
    assert run.manifest["cost"]["bytes_up"] == round(40_000_000 * body / (body + head))
    verdict = verify(tmp_path / "run")
    assert verdict.ok, [check for check in verdict.checks if not check.ok]


def test_ditto_runs_and_pays_for_both_models(tmp_path: Path) -> None:
    overrides = ["stop.server_steps=6", "executor.kind=serial", "population.clients=40", "aggregation.cohort_goal=8"]
    overrides += ["aggregation.minimum_cohort=6", "aggregation.minimum_reports=3", "evaluation.per_client=true"]
    overrides += ["client_rule={kind='ditto', lam=0.5, learning_rate=0.05, batch_size=5}"]
    scenario = Scenario.load("quickstart", overrides)
    run = load_run(Simulation(scenario).run(tmp_path / "run"))
    assert "personal_accuracy_mean" in set(run.evaluations["metric"])
    done = run.tasks[run.tasks["outcome"] == "aggregated"]
    assert (done["planned_samples"] == 2 * 80 * done["samples"]).all()
    assert replace(scenario).keep == ()
    assert {"local steps", "compute prices"} <= {each.name for each in checked(tmp_path / "run")}
