"""DP-FTRL against its printed form, w_0 + eta M with M <- gamma M + S + Z; its noise, its account, its separation."""

from __future__ import annotations

import json
from math import sqrt
from typing import Any

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.stats import norm

from evsim.algorithms.base import ReportMeta, StepInfo
from evsim.algorithms.dp_ftrl import DpFtrl
from evsim.algorithms.fedavgm import FedAvgM
from evsim.algorithms.privacy import Sampling
from evsim.algorithms.server_sgd import ServerSgd
from evsim.algorithms.sgd import Sgd
from evsim.algorithms.weighting import EqualWeights
from evsim.base import rng
from evsim.base.errors import PolicyError, TrainingError
from evsim.run.simulation import Simulation
from evsim.scenario import Scenario
from evsim.training.executors.batched import Batched
from evsim.training.executors.serial import Serial
from tests.algorithms.oracle import ROUNDS, SEED, Drive, client_batches, learning, local, parameters, problem

RATE, BOUND, COHORT = 0.2, 0.15, 4
RULE = Sgd(learning_rate=RATE, batch_size=4, epochs=2)
COHORTS = (*ROUNDS, (0, 1), (2, 3, 5), (0, 4), (1, 2, 3))


def nodes(step: int) -> list[tuple[int, int]]:
    """The nodes that make up 1 ... step, as (level, where it ends in units of 2^level)."""
    return [(level, step >> level) for level in range(step.bit_length()) if step >> level & 1]


def noise(rule: DpFtrl, number: int, step: int, shapes: Any) -> Any:
    """Z of a step of a tree, in units of the sum."""
    total = np.zeros(sum(int(np.prod(shape)) for shape in shapes))
    for level, index in nodes(step):
        stream = rng.stream(SEED, "dp-ftrl", number, level, index)
        draws = [stream.standard_normal(shape).ravel() for shape in shapes]
        total = total + rule.noise_multiplier * rule.max_norm * np.concatenate(draws)
    return total


def textbook(rule: DpFtrl, momentum: float, may_be_used: Any) -> list[Any]:
    """The model after every round."""
    data, nth, last = problem(), dict.fromkeys(range(6), 0), dict[int, int]()
    w = first = parameters(learning(data, client_rule=RULE))
    total, moment, found = np.zeros_like(w), np.zeros_like(w), []
    for now, cohort in enumerate(COHORTS):
        number, before = divmod(now, rule.restart_every or len(COHORTS))
        if before == 0:
            first, total, moment = w, np.zeros_like(w), np.zeros_like(w)
        for client in cohort:
            gained = local(w, client_batches(RULE, data, client, nth[client]), RATE) - w
            nth[client] += 1
            if client not in last or may_be_used(last[client], now):
                total = total + gained * min(1, BOUND / np.linalg.norm(gained)) / COHORT
                last[client] = now
        z = noise(rule, number, before + 1, ((3, 3), (3,))) / COHORT
        moment = momentum * moment + total + z
        w = first + 0.7 * moment
        found.append(w)
    return found


CASES = {
    "once": ({}, 0.0, lambda last, now: False),
    "momentum": ({}, 0.9, lambda last, now: False),
    "apart": ({"separation": 3}, 0.5, lambda last, now: now - last >= 3),
    "restarts": ({"restart_every": 4}, 0.0, lambda last, now: last // 4 < now // 4),
    "both": ({"restart_every": 4, "separation": 2}, 0.0, lambda last, now: now - last >= 2),
}


@pytest.mark.parametrize("executor", [Serial(threads=1), Batched(threads=1)], ids=str)
@pytest.mark.parametrize("case", CASES)
def test_the_model_is_the_start_and_the_noised_prefix_sum(case: str, executor: Any) -> None:
    options, momentum, may_be_used = CASES[case]
    rule = DpFtrl(max_norm=BOUND, noise_multiplier=0.8, cohort=COHORT, **options)
    optimizer = FedAvgM(learning_rate=0.7, momentum=momentum) if momentum else ServerSgd(learning_rate=0.7)
    slots: Any = {"merge": rule, "weighting": EqualWeights(), "server_optimizer": optimizer, "executor": executor}
    drive = Drive(learning(problem(), client_rule=RULE, **slots))
    for cohort, expected in zip(COHORTS, textbook(rule, momentum, may_be_used), strict=True):
        np.testing.assert_allclose(drive.round(cohort), expected, rtol=0, atol=1e-9)
    drive.server.close()


def test_a_checkpoint_remembers_who_was_used() -> None:
    slots: Any = {"client_rule": RULE, "weighting": EqualWeights()}
    rule = DpFtrl(max_norm=BOUND, noise_multiplier=0.8, separation=3)
    one, other = (Drive(learning(problem(), merge=rule, **slots)) for _ in range(2))
    for cohort in COHORTS[:4]:
        one.round(cohort)
    other.server.restore(one.server.checkpoint())
    other.n_tasks, other.nth = one.n_tasks, dict(one.nth)
    for cohort in COHORTS[4:]:
        np.testing.assert_array_equal(one.round(cohort), other.round(cohort))


# -- noise -------------------------------------------------------------------------------------------------------------

WIDE = 4000


def step(rule: DpFtrl, version: int, clients: tuple[int, ...] = (0,), server: Any = None) -> tuple[Any, Any]:
    """What a step makes of updates of ones, and the next state."""
    model = {"w": torch.zeros(WIDE, dtype=torch.float64)}
    server = {"model": model, "buffers": {}, **rule.init_state(model), **(server or {})}
    info = StepInfo(version, 50, 5, len(clients), SEED)
    acc = rule.init(server, info)
    for task, client in enumerate(clients):
        meta = ReportMeta(client=client, task=task, samples=1, steps=1, version=version, staleness=0)
        acc = rule.add(acc, {"model": {"w": torch.ones(WIDE, dtype=torch.float64)}, "buffers": {}}, {"": 1.0}, meta)
    return rule.finish(acc, server, info)["model"]["w"].numpy(), rule.next_state(acc, server, info)


def test_the_noise_of_a_prefix_is_that_of_its_binary_digits_and_no_more() -> None:
    rule = DpFtrl(max_norm=2.0, noise_multiplier=1.5, cohort=5)
    total, sd = np.zeros(WIDE), 1.5 * 2.0 / 5
    for version in range(40):
        total = total + step(rule, version, clients=())[0]
        expected = noise(rule, 0, version + 1, ((WIDE,),)) / 5
        np.testing.assert_allclose(total, expected, rtol=0, atol=1e-12)
        nodes_in = (version + 1).bit_count()
        # sd of a sample variance is variance sqrt(2 / n): 5 of those
        assert abs(total.var() - nodes_in * sd**2) < 5 * nodes_in * sd**2 * sqrt(2 / WIDE)


# -- who is used -------------------------------------------------------------------------------------------------------


def test_reports_of_a_client_in_one_step_are_clipped_as_one_and_too_early_ones_are_left_out() -> None:
    rule = DpFtrl(max_norm=1.0, noise_multiplier=0.0, cohort=1, separation=2)
    state: Any = {}
    lengths = []
    for version, clients in enumerate(((3, 3, 7), (3, 9, 9), (3, 7), (7, 9), (1,))):
        found, state = step(rule, version, clients, state)
        lengths.append(np.linalg.norm(found))
    np.testing.assert_allclose(lengths, [2, 1, 2, 1, 1], atol=1e-12)  # 9 waits until 3, 7 until 2 and then until 4
    last = state["dp_ftrl"]["last"].tolist()
    assert [last[client] for client in (3, 7, 9, 1, 0)] == [2, 2, 3, 4, -1]


def test_buffers_of_a_model_are_refused() -> None:
    rule = DpFtrl(max_norm=1.0, noise_multiplier=1.0)
    with pytest.raises(TrainingError, match="DpFtrl: the model has buffers"):
        step(rule, 0, server={"buffers": {"mean": torch.zeros(2)}})


@pytest.mark.parametrize("wrong", [{"restart_every": 0}, {"separation": 0}, {"max_norm": 0.0}, {"delta": 1.0}])
def test_what_cannot_be_is_refused(wrong: Any) -> None:
    with pytest.raises(PolicyError, match=f"{next(iter(wrong))}.* must"):
        DpFtrl(**{"max_norm": 1.0, "noise_multiplier": 1.0, **wrong})


# -- the account -------------------------------------------------------------------------------------------------------


def rule(**options: Any) -> DpFtrl:
    return DpFtrl(max_norm=1.0, noise_multiplier=4.0, **options)


@pytest.mark.parametrize(("steps", "expected"), [(1024, 11), (1000, 10), (100, 7), (1, 1), (0, 0)])
def test_a_client_that_is_used_once_is_in_one_node_of_each_level(steps: int, expected: int) -> None:
    assert rule().squared_occurrences(steps) == expected
    assert rule(separation=max(steps, 1)).squared_occurrences(steps) == expected
    assert rule(restart_every=max(steps, 1)).squared_occurrences(3 * steps) == 3 * expected


def occurrences(used: Any, steps: int, every: int | None) -> int:
    """Of a pattern of use, over all whole nodes of all trees."""
    total, size = 0, every or steps
    for begin in range(0, steps, size):
        own = used[begin : begin + size]
        for level in range(len(own).bit_length()):
            whole = own[: len(own) >> level << level].reshape(-1, 1 << level)
            total += int((whole.sum(1) ** 2).sum())
    return total


@pytest.mark.parametrize("every", [None, 4, 7, 16])
@pytest.mark.parametrize("separation", [None, 1, 2, 3, 5, 20])
def test_no_pattern_of_use_that_is_allowed_occurs_more_often_than_is_accounted(every: Any, separation: Any) -> None:
    draw, one = np.random.default_rng(3), rule(restart_every=every, separation=separation)
    for steps in (1, 5, 16, 31, 32, 45):
        most, size = one.squared_occurrences(steps), every or steps
        for _ in range(40):
            used, last, lazy = np.zeros(steps, np.int64), -1000, draw.choice([0.0, 0.3, 0.9])
            for now in range(steps):
                free = now - last >= separation if separation else last // size < now // size
                if free and draw.random() >= lazy:
                    used[now], last = 1, now
            assert occurrences(used, steps, every) <= most
        if separation == 1:
            assert occurrences(np.ones(steps, np.int64), steps, every) == most


def test_epsilon_is_that_of_one_gaussian_mechanism_and_below_what_renyi_orders_give() -> None:
    anything = Sampling(n_clients=9, cohort=5, always_available=False, uniform=False, synchronous=False)
    for steps, squared, renyi in ((1024, 11, 3.82), (1000, 10, 3.62), (100, 7, 2.96)):
        found = rule().privacy(anything, steps)
        mu = sqrt(squared) / 4.0
        cut = found.epsilon / mu + mu / 2  # where the loss exceeds epsilon
        beyond = lambda x, e=found.epsilon, mu=mu: norm.pdf(x, mu) - np.exp(e) * norm.pdf(x)  # noqa: E731
        assert quad(beyond, cut, cut + 40, epsabs=1e-15)[0] == pytest.approx(1e-5, rel=1e-6)
        assert 0.9 * renyi < found.epsilon < renyi
        assert (found.sampling_rate, found.warnings, found.epsilon_if_poisson) == (1.0, (), None)
    assert rule().privacy(anything, 0).epsilon == 0.0
    assert DpFtrl(max_norm=1.0, noise_multiplier=0.0).privacy(anything, 3).epsilon == float("inf")


def test_a_run_on_a_trace_says_its_epsilon_without_the_extra(tmp_path: Any) -> None:
    short = ["stop.server_steps=6", "stop.target_accuracy=", "executor.kind=serial", "algorithm=dp_ftrl"]
    scenario = Scenario.load("quickstart", [*short, "merge.noise_multiplier=4"])
    folder = Simulation(scenario).run(tmp_path / "run")
    privacy = json.loads((folder / "manifest.json").read_text())["privacy"]
    expected = rule().privacy(
        Sampling(n_clients=9, cohort=5, always_available=False, uniform=False, synchronous=False), 6
    )
    assert privacy["epsilon"] == expected.epsilon
    assert (privacy["steps"], privacy["sampling_rate"], privacy["warnings"]) == (6, 1.0, [])
