"""Client rules against literal transcriptions of their papers, over several rounds with unequal work."""

from __future__ import annotations

from itertools import count, pairwise

import numpy as np
import pytest
import torch

from evsim.algorithms.adam import Adam
from evsim.algorithms.decay import Decay
from evsim.algorithms.feddyn import FedDyn, FedDynSgd
from evsim.algorithms.fednova import FedNova, NovaSgd
from evsim.algorithms.fedprox import FedProx
from evsim.algorithms.local_sgd import effective_steps
from evsim.algorithms.qfedavg import FairSgd, QFedAvg
from evsim.algorithms.scaffold import Scaffold, ScaffoldSgd, WithControl
from evsim.algorithms.sgd import Sgd
from evsim.algorithms.weighting import EqualWeights
from evsim.base.errors import PolicyError
from tests.algorithms.oracle import (
    ROUNDS,
    SIZES,
    Drive,
    client_batches,
    client_rows,
    gradient,
    learning,
    local,
    loss,
    parameters,
    problem,
)

TOLERANCE = {"rtol": 0, "atol": 1e-12}


def _shares(cohort):
    sizes = np.array([SIZES[k] for k in cohort], float)
    return sizes / sizes.sum()


@pytest.mark.parametrize(
    ("mu", "momentum", "weight_decay"), [(0.0, 0.0, 0.0), (0.0, 0.9, 0.01), (0.7, 0.0, 0.0), (0.7, 0.5, 0.1)]
)
def test_sgd_and_fedprox_equal_the_textbook_over_rounds(mu, momentum, weight_decay):
    options = {"learning_rate": 0.2, "batch_size": 4, "epochs": 2, "momentum": momentum, "weight_decay": weight_decay}
    rule = FedProx(mu=mu, **options) if mu else Sgd(**options)
    data = problem()
    drive = Drive(learning(data, client_rule=rule))
    w, nth = parameters(drive.server), dict.fromkeys(range(6), 0)
    for cohort in ROUNDS:
        ys = []
        for k in cohort:
            steps = client_batches(rule, data, k, nth[k])
            pull = lambda g, y, w=w: g + weight_decay * y + mu * (y - w)  # noqa: E731
            ys.append(local(w, steps, 0.2, pull, momentum))
            nth[k] += 1
        w = sum(p * y for p, y in zip(_shares(cohort), ys, strict=True))
        np.testing.assert_allclose(drive.round(cohort), w, **TOLERANCE)


@pytest.mark.parametrize("decay", [None, Decay(factor=0.9, every=1)])
@pytest.mark.parametrize(("clip", "nesterov"), [(0.3, False), (None, True), (0.3, True)])
def test_clipped_gradients_and_nesterov_momentum_equal_torch_optim(clip, nesterov, decay):
    options = {"learning_rate": 0.2, "batch_size": 4, "epochs": 2, "momentum": 0.8, "weight_decay": 0.05}
    rule = Sgd(clip_norm=clip, nesterov=nesterov, decay=decay, **options)
    data = problem()
    drive = Drive(learning(data, client_rule=rule))
    w, nth = parameters(drive.server), dict.fromkeys(range(6), 0)
    for version, cohort in enumerate(ROUNDS):
        ys, clipped = [], 0
        for k in cohort:
            y = torch.tensor(w, requires_grad=True)
            rate = 0.2 * (0.9**version if decay else 1.0)
            optimizer = torch.optim.SGD([y], lr=rate, momentum=0.8, weight_decay=0.05, nesterov=nesterov)
            for batch in client_batches(rule, data, k, nth[k]):
                g = gradient(y.detach().numpy(), *batch)
                clipped += clip is not None and np.linalg.norm(g) > clip
                y.grad = torch.tensor(g if clip is None else g * min(1.0, clip / np.linalg.norm(g)))
                optimizer.step()
            ys.append(y.detach().numpy())
            nth[k] += 1
        w = sum(p * y for p, y in zip(_shares(cohort), ys, strict=True))
        np.testing.assert_allclose(drive.round(cohort), w, **TOLERANCE)
        assert clipped > 0 or clip is None


def test_the_learning_rate_follows_the_version_that_was_received():
    rule = Sgd(learning_rate=0.4, batch_size=100, decay=Decay(factor=0.5, every=2, floor=0.15))
    data = problem()
    drive = Drive(learning(data, client_rule=rule))
    w = parameters(drive.server)
    for rate in (0.4, 0.4, 0.2, 0.2, 0.15):
        w = w - rate * gradient(w, *client_rows(data, 3))
        np.testing.assert_allclose(drive.round((3,)), w, **TOLERANCE)


def test_decay_shapes_follow_their_formulas():
    v = torch.arange(40)
    n = v.numpy()
    np.testing.assert_allclose(
        Decay(shape="exponential", every=7, factor=0.9).rate(2.0, v), 2 * 0.9 ** (n / 7), rtol=1e-12
    )
    np.testing.assert_allclose(Decay(shape="inverse_sqrt", every=5).rate(2.0, v), 2 / np.sqrt(1 + n / 5), rtol=1e-12)
    cosine = np.maximum(2 * 0.5 * (1 + np.cos(np.pi * np.minimum(n / 20, 1))), 0.01)
    np.testing.assert_allclose(Decay(shape="cosine", every=20, floor=0.01).rate(2.0, v), cosine, rtol=1e-12)


def test_local_adam_equals_torch_optim():
    rule = Adam(learning_rate=0.05, batch_size=4, epochs=3, beta1=0.8, beta2=0.95, epsilon=1e-4, weight_decay=0.1)
    data = problem()
    drive = Drive(learning(data, client_rule=rule))
    w = parameters(drive.server)
    for nth, k in zip(count(), (3, 3), strict=False):
        y = torch.tensor(w, requires_grad=True)
        optimizer = torch.optim.Adam([y], lr=0.05, betas=(0.8, 0.95), eps=1e-4, weight_decay=0.1)
        for batch in client_batches(rule, data, k, nth):
            y.grad = torch.tensor(gradient(y.detach().numpy(), *batch))
            optimizer.step()
        w = y.detach().numpy()
        np.testing.assert_allclose(drive.round((k,)), w, **TOLERANCE)


def test_the_update_of_fedprox_shrinks_as_mu_grows():
    data, lengths = problem(), []
    for mu in (0.0, 0.1, 0.5, 1.0, 3.0):
        drive = Drive(learning(data, client_rule=FedProx(learning_rate=0.2, batch_size=5, epochs=5, mu=mu)))
        before = parameters(drive.server)
        lengths.append(np.linalg.norm(drive.round((0, 1, 2, 3, 4, 5)) - before))
    assert all(longer > shorter for longer, shorter in pairwise(lengths))


def test_fedprox_does_not_report_its_pull_as_loss():
    data = problem()
    reported = []
    for mu in (0.0, 50.0):
        drive = Drive(learning(data, client_rule=FedProx(learning_rate=1e-9, batch_size=100, epochs=2, mu=mu)))
        drive.round((3,))
        tasks = drive.dispatch((3,))
        reported.append(drive.server.apply(tasks).utility[0])
    assert reported[0] == pytest.approx(reported[1], abs=1e-7)


# -- FedNova -----------------------------------------------------------------------------------------------------------


def _norm1(tau, rate, momentum, mu):
    """The vectors a as printed: section 3 (momentum) and section 4.1 (proximal) of Wang et al. 2020."""
    s = np.arange(tau)
    return float(((1 - momentum ** (tau - s)) / (1 - momentum)).sum() if momentum else ((1 - rate * mu) ** s).sum())


@pytest.mark.parametrize(("momentum", "mu"), [(0.0, 0.0), (0.6, 0.0), (0.0, 1.5)])
def test_fednova_equals_equation_nine_with_unequal_steps(momentum, mu):
    rate = 0.1
    rule = NovaSgd(learning_rate=rate, batch_size=4, epochs=3, momentum=momentum, mu=mu)
    data = problem()
    drive = Drive(learning(data, client_rule=rule, server_optimizer=FedNova()))
    w, nth = parameters(drive.server), dict.fromkeys(range(6), 0)
    for cohort in ROUNDS:
        p, d, norms = _shares(cohort), [], []
        for k in cohort:
            steps = client_batches(rule, data, k, nth[k])
            y = local(w, steps, rate, lambda g, y, w=w: g + mu * (y - w), momentum)
            norms.append(_norm1(len(steps), rate, momentum, mu))
            d.append((w - y) / (rate * norms[-1]))
            nth[k] += 1
        tau_eff = float(p @ norms)
        w = w - tau_eff * rate * sum(pk * dk for pk, dk in zip(p, d, strict=True))
        np.testing.assert_allclose(drive.round(cohort), w, **TOLERANCE)


def test_effective_steps_equal_the_impulse_responses_of_momentum_and_pull_together():
    momentum, pull, tau = 0.7, 0.2, 9
    total = 0.0
    for s in range(tau):  # a unit gradient in step s only
        v = d = 0.0
        for step in range(tau):
            v = momentum * v + (step == s) - pull * d
            d += v
        total += d
    found = effective_steps(torch.tensor([0, 1, tau]), momentum, pull)
    np.testing.assert_allclose(found, [0.0, 1.0, total], rtol=1e-13)


@pytest.mark.parametrize("tau", [1, 2, 9])
def test_effective_steps_with_nesterov_are_what_unit_gradients_move(tau):
    y = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.SGD([y], lr=1.0, momentum=0.7, nesterov=True)
    for _ in range(tau):
        y.grad = torch.ones_like(y)
        optimizer.step()
    found = effective_steps(torch.tensor([tau]), 0.7, nesterov=True)
    np.testing.assert_allclose(found, -y.detach(), rtol=1e-13)


@pytest.mark.parametrize("options", [{"nesterov": True}, {"clip_norm": 0.0}, {"clip_norm": float("inf")}])
def test_impossible_momentum_and_bounds_are_refused(options):
    with pytest.raises(PolicyError, match="but got"):
        Sgd(learning_rate=0.1, **options)


def test_fednova_with_equal_steps_is_fedavg():
    data = problem((6, 6, 6))
    nova = NovaSgd(learning_rate=0.3, batch_size=2, epochs=2)
    a = Drive(learning(data, client_rule=nova, server_optimizer=FedNova()))
    b = Drive(learning(data, client_rule=Sgd(learning_rate=0.3, batch_size=2, epochs=2)))
    for _ in range(3):
        np.testing.assert_allclose(a.round((0, 1, 2)), b.round((0, 1, 2)), **TOLERANCE)


# -- q-FedAvg ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("q", [0.0, 0.3, 1.0, 2.0])
def test_qfedavg_equals_algorithm_two(q):
    rate = 0.15
    rule = FairSgd(learning_rate=rate, batch_size=4, epochs=2, q=q)
    data = problem()
    drive = Drive(learning(data, client_rule=rule, weighting=EqualWeights(), server_optimizer=QFedAvg()))
    w, nth, lipschitz = parameters(drive.server), dict.fromkeys(range(6), 0), 1 / rate
    for cohort in ROUNDS:
        deltas, hs = [], []
        for k in cohort:
            y = local(w, client_batches(rule, data, k, nth[k]), rate)
            f = loss(w, *client_rows(data, k))  # of the received model, before training
            d = lipschitz * (w - y)
            deltas.append(f**q * d)
            hs.append(q * f ** (q - 1) * (d @ d) + lipschitz * f**q)
            nth[k] += 1
        w = w - sum(deltas) / sum(hs)
        np.testing.assert_allclose(drive.round(cohort), w, rtol=0, atol=1e-9)  # the floor on F is 1e-10


def test_qfedavg_pays_for_the_pass_that_finds_the_loss():
    sizes = np.array([3, 20])
    work = FairSgd(learning_rate=0.1, q=1.0, epochs=2).work(sizes)
    assert work.samples.tolist() == [6, 40]
    assert work.forward_samples.tolist() == [3, 20]


# -- FedDyn ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("alpha", "momentum"), [(0.05, 0.0), (0.7, 0.0), (0.3, 0.8)])
def test_feddyn_equals_algorithm_one_with_partial_participation_and_unequal_steps(alpha, momentum):
    rule = FedDynSgd(learning_rate=0.1, batch_size=4, epochs=2, momentum=momentum, alpha=alpha)
    data = problem()
    slots = {"client_rule": rule, "weighting": EqualWeights(), "server_optimizer": FedDyn(alpha=alpha)}
    drive = Drive(learning(data, **slots))
    w, nth = parameters(drive.server), dict.fromkeys(range(6), 0)
    h, local_h = np.zeros_like(w), {k: np.zeros_like(w) for k in range(6)}
    for cohort in ROUNDS:
        ys = []
        for k in cohort:
            pull = lambda g, y, w=w, k=k: g - local_h[k] + alpha * (y - w)  # noqa: E731
            y = local(w, client_batches(rule, data, k, nth[k]), 0.1, pull, momentum)
            local_h[k] = local_h[k] - alpha * (y - w)
            nth[k] += 1
            ys.append(y)
        h = h - alpha / 6 * sum(y - w for y in ys)
        w = np.mean(ys, axis=0) - h / alpha
        np.testing.assert_allclose(drive.round(cohort), w, **TOLERANCE)


def test_feddyn_reaches_the_optimum_that_fedavg_misses():
    data = problem((10, 10, 10), skew=2.0)
    everyone, rate = (0, 1, 2), 0.3
    dyn = FedDynSgd(learning_rate=rate, batch_size=100, epochs=30, alpha=0.5, weight_decay=0.1)
    slots = {"client_rule": dyn, "weighting": EqualWeights(), "server_optimizer": FedDyn(alpha=0.5)}
    a = Drive(learning(data, **slots))
    b = Drive(learning(data, client_rule=Sgd(learning_rate=rate, batch_size=100, epochs=30, weight_decay=0.1)))
    for _ in range(150):
        found, average = a.round(everyone), b.round(everyone)
    full = lambda w: np.mean([gradient(w, *client_rows(data, k)) for k in everyone], axis=0) + 0.1 * w  # noqa: E731
    assert np.linalg.norm(full(found)) < 1e-5
    assert np.linalg.norm(full(average)) > 1e-2


# -- SCAFFOLD ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("option", "momentum"), [(1, 0.0), (2, 0.0), (2, 0.5)])
def test_scaffold_equals_algorithm_one_with_partial_participation(option, momentum):
    rate, global_rate, n = 0.1, 0.8, len(SIZES)
    rule = ScaffoldSgd(learning_rate=rate, batch_size=4, epochs=2, option=option, momentum=momentum)
    data = problem()
    slots = {
        "broadcast": WithControl(),
        "weighting": EqualWeights(),
        "server_optimizer": Scaffold(learning_rate=global_rate),
    }
    drive = Drive(learning(data, client_rule=rule, **slots))
    x, nth = parameters(drive.server), dict.fromkeys(range(n), 0)
    c, ci = np.zeros_like(x), {k: np.zeros_like(x) for k in range(n)}
    for cohort in ROUNDS:
        dys, dcs = [], []
        for k in cohort:
            steps = client_batches(rule, data, k, nth[k])
            y = local(x, steps, rate, lambda g, _, k=k, c=c: g - ci[k] + c, momentum)
            effective = _norm1(len(steps), rate, momentum, 0.0) if momentum else len(steps)
            plus = gradient(x, *client_rows(data, k)) if option == 1 else ci[k] - c + (x - y) / (effective * rate)
            dys.append(y - x)
            dcs.append(plus - ci[k])
            ci[k] = plus
            nth[k] += 1
        x = x + global_rate * np.mean(dys, 0)
        c = c + len(cohort) / n * np.mean(dcs, 0)
        np.testing.assert_allclose(drive.round(cohort), x, **TOLERANCE)


def test_the_control_is_merged_uniformly_even_when_the_model_is_weighted_by_samples():
    rate = 0.1
    rule = ScaffoldSgd(learning_rate=rate, batch_size=100)
    data = problem()
    drive = Drive(learning(data, client_rule=rule, broadcast=WithControl(), server_optimizer=Scaffold()))
    x = parameters(drive.server)
    g = [gradient(x, *client_rows(data, k)) for k in (0, 3)]
    p = _shares((0, 3))
    x = x - rate * (p[0] * g[0] + p[1] * g[1])
    np.testing.assert_allclose(drive.round((0, 3)), x, **TOLERANCE)
    c = 2 / 6 * (g[0] + g[1]) / 2  # of six clients, one full-batch step each: c_k+ is the gradient
    x = x - rate * (gradient(x, *client_rows(data, 0)) - g[0] + c)
    np.testing.assert_allclose(drive.round((0,)), x, **TOLERANCE)


def test_scaffold_sends_twice_the_model_both_ways_and_option_one_pays_for_its_gradient():
    from evsim.algorithms.base import Wire, total_bytes

    model = {"model": {"w": Wire(100, 100)}, "buffers": {"b": Wire(3, 3)}}
    assert total_bytes(WithControl().wires(model)) == 812
    assert total_bytes(ScaffoldSgd(learning_rate=0.1).wires(model)) == 812
    sizes = np.array([30])
    assert ScaffoldSgd(learning_rate=0.1, option=1).work(sizes).samples.tolist() == [60]
    assert ScaffoldSgd(learning_rate=0.1, option=2).work(sizes).samples.tolist() == [30]


# -- limits ------------------------------------------------------------------------------------------------------------


def _optimum(data, weights, decay):
    """Newton's method on sum_k weights_k F_k(w) + decay/2 ||w||^2, derivatives by autograd: independent of `oracle`."""
    clients = [client_rows(data, k) for k in range(len(weights))]

    def objective(w):
        weight, bias = w[:9].reshape(3, 3), w[9:]
        each = [
            torch.nn.functional.cross_entropy(torch.as_tensor(x) @ weight.T + bias, torch.as_tensor(y))
            for x, y in clients
        ]
        return sum(p * f for p, f in zip(weights, each, strict=True)) + decay / 2 * (w @ w)

    w = torch.zeros(12, dtype=torch.float64)
    for _ in range(30):
        hessian = torch.autograd.functional.hessian(objective, w)
        slope = torch.autograd.functional.jacobian(objective, w)
        step = torch.linalg.solve(hessian, slope)
        w = w - step
    return w.numpy()


def _distance(rule, optimum, rounds, **slots):
    data = problem((4, 30, 8, 60))
    drive = Drive(learning(data, client_rule=rule, **slots))
    for _ in range(rounds):
        w = drive.round((0, 1, 2, 3))
    return np.linalg.norm(w - optimum)


def test_fednova_comes_nearer_to_the_optimum_than_fedavg_when_work_is_unequal():
    data = problem((4, 30, 8, 60))
    options = {"learning_rate": 0.05, "batch_size": 4, "epochs": 1, "weight_decay": 0.2}  # 1, 8, 2 and 15 steps
    optimum = _optimum(data, np.full(4, 0.25), 0.2)
    stalled = _distance(Sgd(**options), optimum, 60, weighting=EqualWeights())
    nova = _distance(NovaSgd(**options), optimum, 60, weighting=EqualWeights(), server_optimizer=FedNova())
    assert stalled > 0.4
    assert nova < stalled / 4


def test_scaffold_reaches_the_optimum_where_fedavg_stalls():
    data = problem((4, 30, 8, 60))
    options = {"learning_rate": 0.3, "batch_size": 100, "epochs": 5, "weight_decay": 0.2}  # full gradients
    optimum = _optimum(data, np.full(4, 0.25), 0.2)
    stalled = _distance(Sgd(**options), optimum, 60, weighting=EqualWeights())
    slots = {"weighting": EqualWeights(), "broadcast": WithControl(), "server_optimizer": Scaffold()}
    exact = _distance(ScaffoldSgd(**options), optimum, 60, **slots)
    assert stalled > 0.1
    assert exact < 1e-7


# -- bad input ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "options"),
    [
        (Sgd, {"learning_rate": 0.0}),
        (Sgd, {"learning_rate": float("nan")}),
        (Sgd, {"learning_rate": 0.1, "momentum": 1.0}),
        (Sgd, {"learning_rate": 0.1, "weight_decay": -1.0}),
        (Sgd, {"learning_rate": 0.1, "epochs": 1, "steps": 3}),
        (Sgd, {"learning_rate": 0.1, "batch_size": 0}),
        (FedProx, {"learning_rate": 0.1, "mu": -0.1}),
        (NovaSgd, {"learning_rate": 0.5, "mu": 3.0}),
        (FairSgd, {"learning_rate": 0.5, "q": float("inf")}),
        (Adam, {"learning_rate": 0.1, "beta2": 1.0}),
        (Decay, {"factor": 0.0}),
        (Decay, {"shape": "cosine"}),
    ],
)
def test_impossible_hyper_parameters_are_refused_with_their_values(policy, options):
    with pytest.raises(PolicyError, match=r"must|either|needs") as caught:
        policy(**options)
    assert "but got" in str(caught.value)
