"""Server optimizers against literal transcriptions, on random merged updates."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from evsim.algorithms.adaptive import FedAdagrad, FedAdam, FedYogi
from evsim.algorithms.base import StepInfo
from evsim.algorithms.fedavgm import FedAvgM
from evsim.algorithms.fednova import FedNova
from evsim.algorithms.server_sgd import ServerSgd
from evsim.base.errors import PolicyError

SHAPES = {"a": (4, 3), "b": (5,)}


def _run(optimizer, updates):
    """The models after each update, as one flat array per step."""
    model = {name: torch.zeros(shape, dtype=torch.float64) for name, shape in SHAPES.items()}
    server = {"model": model, "buffers": {"n": torch.tensor(7)}, **optimizer.init(model)}
    seen = []
    for version, update in enumerate(updates):
        merged = {"model": _tree(update), "buffers": {"n": torch.tensor(1.0)}}
        before = {name: leaf.clone() for name, leaf in server["model"].items()}
        after = optimizer.apply(server, merged, StepInfo(version, 10, 5, 5, 0))
        assert all(torch.equal(server["model"][name], before[name]) for name in SHAPES), "changed in place"
        assert after["buffers"] is server["buffers"], "buffers are the caller's business"
        assert set(after) == {"model", "buffers"} | optimizer.keeps
        server = after
        seen.append(np.concatenate([server["model"][name].numpy().ravel() for name in SHAPES]))
    return np.array(seen)


def _tree(flat):
    return {"a": torch.tensor(flat[:12].reshape(4, 3)), "b": torch.tensor(flat[12:])}


UPDATES = np.random.default_rng(0).normal(0, [[1.0], [0.3], [2.0], [0.01], [0.5], [1.0]], (6, 17))


@pytest.mark.parametrize("nesterov", [False, True])
def test_fedavgm_is_momentum_without_dampening(nesterov):
    w, m, expected = np.zeros(17), np.zeros(17), []
    for d in UPDATES:
        m = 0.8 * m + d
        w = w + 0.5 * ((d + 0.8 * m) if nesterov else m)
        expected.append(w)
    found = _run(FedAvgM(learning_rate=0.5, momentum=0.8, nesterov=nesterov), UPDATES)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-14)


def test_fedavgm_without_momentum_is_fedavg():
    np.testing.assert_array_equal(_run(FedAvgM(momentum=0.0), UPDATES), _run(ServerSgd(), UPDATES))


RATE, B1, B2, TAU = 0.05, 0.8, 0.95, 0.02


def _adaptive(second, start, beta1=B1, rate=lambda t: RATE):
    """Algorithm 2 of Reddi et al. 2021; t counts from 1."""
    w, m, v, seen = np.zeros(17), np.zeros(17), np.full(17, start), []
    for t, d in enumerate(UPDATES, start=1):
        m = beta1 * m + (1 - beta1) * d
        v = second(v, d)
        w = w + rate(t) * m / (np.sqrt(v) + TAU)
        seen.append(w)
    return seen


def _adam(v, d):
    return B2 * v + (1 - B2) * d**2


def _yogi(v, d):
    return v - (1 - B2) * d**2 * np.sign(v - d**2)


CASES = {
    "adagrad": (FedAdagrad(learning_rate=RATE, tau=TAU), _adaptive(lambda v, d: v + d**2, TAU**2, beta1=0.0)),
    "adagrad flower": (
        FedAdagrad(learning_rate=RATE, tau=TAU, beta1=B1, preset="flower"),
        _adaptive(lambda v, d: v + d**2, 0.0),
    ),
    "adam": (FedAdam(learning_rate=RATE, beta1=B1, beta2=B2, tau=TAU), _adaptive(_adam, TAU**2)),
    "adam flower": (
        FedAdam(learning_rate=RATE, beta1=B1, beta2=B2, tau=TAU, preset="flower"),
        _adaptive(_adam, 0.0, rate=lambda t: RATE * np.sqrt(1 - B2 ** (t + 1)) / (1 - B1 ** (t + 1))),
    ),
    "yogi": (FedYogi(learning_rate=RATE, beta1=B1, beta2=B2, tau=TAU), _adaptive(_yogi, TAU**2)),
    "yogi flower": (
        FedYogi(learning_rate=RATE, beta1=B1, beta2=B2, tau=TAU, preset="flower"),
        _adaptive(_yogi, 0.0),
    ),
    "yogi fedscale": (
        FedYogi(learning_rate=RATE, beta1=B1, beta2=B2, tau=TAU, preset="fedscale"),
        _adaptive(_yogi, TAU),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_adaptive_optimizers_equal_algorithm_two_with_each_preset(name):
    optimizer, expected = CASES[name]
    np.testing.assert_allclose(_run(optimizer, UPDATES), expected, rtol=0, atol=1e-13)


def test_fednova_restores_the_scale_and_may_have_momentum():
    optimizer = FedNova(learning_rate=0.5, momentum=0.6)
    model = {"a": torch.zeros(2, dtype=torch.float64)}
    server = {"model": model, "buffers": {}, **optimizer.init(model)}
    expected, v = np.zeros(2), np.zeros(2)
    for d, tau in ((np.array([1.0, -2.0]), 3.0), (np.array([0.5, 0.5]), 7.0)):
        merged = {"model": {"a": torch.tensor(d)}, "nova": {"norm1": torch.tensor(tau, dtype=torch.float64)}}
        server = optimizer.apply(server, merged, StepInfo(0, 1, 1, 1, 0))
        v = 0.6 * v + tau * d
        expected = expected + 0.5 * v
        np.testing.assert_allclose(server["model"]["a"], expected, rtol=1e-15)


@pytest.mark.parametrize(
    ("policy", "options"),
    [
        (ServerSgd, {"learning_rate": -1.0}),
        (FedAvgM, {"momentum": 1.0}),
        (FedAdam, {"tau": 0.0}),
        (FedAdam, {"beta2": 1.0}),
        (FedYogi, {"learning_rate": float("inf")}),
        (FedAdagrad, {"tau": float("nan")}),
        (FedNova, {"momentum": -0.1}),
    ],
)
def test_impossible_hyper_parameters_are_refused_with_their_values(policy, options):
    with pytest.raises(PolicyError, match="but got"):
        policy(**options)
