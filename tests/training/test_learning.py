"""The learning side: chains of client states, invalid updates, empty rounds, buffers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
import pytest
import torch

from evsim.algorithms.adaptive import FedAdam
from evsim.algorithms.base import Method
from evsim.algorithms.broadcast import FullModel
from evsim.algorithms.dp import DpMean
from evsim.algorithms.fedavgm import FedAvgM
from evsim.algorithms.local_sgd import LocalSgd
from evsim.algorithms.mean import Mean
from evsim.algorithms.robust import Krum, Median
from evsim.algorithms.scaffold import Scaffold, ScaffoldSgd, WithControl
from evsim.algorithms.server_sgd import ServerSgd
from evsim.algorithms.sgd import Sgd
from evsim.algorithms.top_k import TopK
from evsim.algorithms.weighting import EqualWeights, SampleWeights
from evsim.base.errors import TrainingError
from evsim.training.executors.serial import Serial
from evsim.training.learning.learning import Learning, Setting
from tests.algorithms.oracle import (
    CLASSES,
    INPUTS,
    SEED,
    Drive,
    client_rows,
    gradient,
    learning,
    loss,
    parameters,
    problem,
)

SGD = Sgd(learning_rate=0.2, batch_size=4, epochs=2)
SCAFFOLD = {
    "broadcast": WithControl(),
    "client_rule": ScaffoldSgd(learning_rate=0.2, batch_size=4),
    "weighting": EqualWeights(),
    "server_optimizer": Scaffold(),
}


@final
@dataclass(frozen=True, kw_only=True)
class Poisoned(LocalSgd):
    """Diverges on clients with at least so many samples in the batch."""

    limit: int

    def direction(self, grads, carry, received, state):
        return grads

    def report(self, delta, carry, received, state, steps):
        bad = torch.where(steps >= self.limit, torch.nan, 0.0)
        return super().report({name: leaf + bad for name, leaf in delta.items()}, carry, received, state, steps)


def test_a_non_finite_update_is_invalid_and_left_out_of_the_merge():
    data = problem()
    rule = Poisoned(learning_rate=0.2, batch_size=4, limit=5)  # client 3 has 20 samples: 5 steps
    drive = Drive(learning(data, client_rule=rule))
    tasks = drive.dispatch((5, 3, 0))
    feedback = drive.server.apply(tasks)
    assert feedback.tasks.tolist() == tasks.tolist()
    assert feedback.valid.tolist() == [True, False, True]
    assert np.isfinite(feedback.utility).all()
    honest = Drive(learning(data, client_rule=Sgd(learning_rate=0.2, batch_size=4)))
    np.testing.assert_allclose(parameters(drive.server), honest.round((0, 5)), rtol=0, atol=1e-15)


def test_a_client_whose_training_diverges_is_invalid():
    drive = Drive(learning(problem(), client_rule=Sgd(learning_rate=1e308, batch_size=4, epochs=5)))
    before = parameters(drive.server)
    feedback = drive.server.apply(drive.dispatch((0, 1)))
    assert not feedback.valid.any()
    np.testing.assert_array_equal(parameters(drive.server), before)
    assert drive.server.version == 0


@pytest.mark.parametrize("slots", [{"client_rule": SGD, "server_optimizer": FedAvgM()}, SCAFFOLD])
def test_an_empty_round_leaves_model_and_all_state_untouched(slots):
    data = problem()
    with_gap, without = Drive(learning(data, **slots)), Drive(learning(data, **slots))
    for drive in (with_gap, without):
        drive.round((0, 1))
    feedback = with_gap.server.apply(np.empty(0, np.int64))
    assert len(feedback.valid) == 0
    assert with_gap.server.version == 1
    np.testing.assert_array_equal(with_gap.round((1, 2)), without.round((1, 2)))


def test_utility_is_over_all_samples_of_the_pass_not_over_the_last_batch():
    data = problem()
    drive = Drive(learning(data, client_rule=Sgd(learning_rate=1e-12, batch_size=3)))
    w = parameters(drive.server)
    x, y = client_rows(data, 3)
    logits = x @ w[:9].reshape(3, 3).T + w[9:]
    losses = np.log(np.exp(logits).sum(1)) - logits[np.arange(len(y)), y]
    feedback = drive.server.apply(drive.dispatch((3,)))
    assert feedback.utility[0] == pytest.approx(np.sqrt((losses**2).mean()), rel=1e-9)


# -- chains of client states -------------------------------------------------------------------------------------------


def test_rejected_tasks_leave_the_state_as_it_was():
    drive, other = (Drive(learning(problem(), **SCAFFOLD)) for _ in range(2))
    for server in (drive, other):
        server.round((0, 1))
    lost = drive.dispatch((0,))
    other.nth[0] += 1  # the batches of a client's tasks are named by their number
    drive.server.discard(lost.tolist())
    np.testing.assert_array_equal(drive.round((0, 1)), other.round((0, 1)))


def test_an_invalid_update_leaves_the_state_as_it_was():
    server = learning(
        problem(), client_rule=Poisoned(learning_rate=0.2, batch_size=4, limit=5), upload=(TopK(share=0.2),)
    )
    Drive(server).round((0, 3))
    assert server.client_states.generation(0) == 1
    assert server.client_states.generation(3) == 0


def test_two_tasks_of_one_client_in_one_step_are_chained():
    """A buffer may hold several: the later one starts from the state that the earlier one left."""
    data = problem()
    drive = Drive(learning(data, **{**SCAFFOLD, "client_rule": ScaffoldSgd(learning_rate=0.2, batch_size=100)}))
    w = parameters(drive.server)
    first, other, second = (drive.dispatch((k,)) for k in (0, 2, 0))
    drive.server.apply(np.concatenate([second, other, first]))
    g = {k: gradient(w, *client_rows(data, k)) for k in (0, 2)}
    # full-batch steps: the first task's direction is g and leaves c_0 = g, so the second's direction is g - g + 0
    expected = w - 0.2 * (g[0] + g[2] + 0 * w) / 3
    np.testing.assert_allclose(parameters(drive.server), expected, rtol=0, atol=1e-15)
    assert drive.server.client_states.generation(0) == 2


@pytest.mark.parametrize("slots", [{"client_rule": SGD}, SCAFFOLD, {"client_rule": SGD, "upload": (TopK(share=0.1),)}])
def test_training_early_for_a_selector_changes_nothing(slots):
    data = problem()
    early, late = Drive(learning(data, **slots)), Drive(learning(data, **slots))
    for cohort in ((0, 1, 3), (1, 3, 4)):
        a, b = early.dispatch(cohort), late.dispatch(cohort)
        told = [early.server.train(a[place : place + 1]) for place in (2, 0, 1)]
        again, feedback = early.server.apply(a), late.server.apply(b)
        np.testing.assert_array_equal(again.utility, feedback.utility)
        np.testing.assert_array_equal([told[i].utility[0] for i in (1, 2, 0)], feedback.utility)
        np.testing.assert_array_equal(parameters(early.server), parameters(late.server))


def test_states_on_disk_give_the_same_model(tmp_path):
    data, found = problem(), []
    for budget in (1 << 30, 0):
        setting = Setting(seed=SEED, precision="float64", state_budget=budget, state_folder=tmp_path / str(budget))
        with torch.random.fork_rng():
            torch.manual_seed(3)
            model = torch.nn.Linear(INPUTS, CLASSES)
        method = Method(**{"upload": (TopK(share=0.3),), "merge": Mean(), **SCAFFOLD})
        drive = Drive(Learning(method, model, data, Serial(), setting))
        found.append([drive.round(cohort) for cohort in ((0, 1, 2), (2, 3), (0, 2), (1, 2, 3))])
    np.testing.assert_array_equal(found[0], found[1])
    assert len(list((tmp_path / "0").iterdir())) == 4  # one current generation per client
    assert not (tmp_path / str(1 << 30)).exists()


# -- the server --------------------------------------------------------------------------------------------------------


def _with_batch_norm(optimizer, **slots):
    parts = {
        "broadcast": FullModel(),
        "client_rule": Sgd(learning_rate=0.1, batch_size=5),  # BatchNorm refuses a batch of one sample
        "upload": (),
        "weighting": SampleWeights(),
        "merge": Mean(),
        **slots,
    }
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = torch.nn.Sequential(torch.nn.Linear(INPUTS, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, CLASSES))
    method = Method(**parts, server_optimizer=optimizer)
    return Drive(Learning(method, model, problem(), Serial(), Setting(seed=SEED, precision="float64", cohort_goal=3)))


def _buffers(server):
    return {name: value for name, value in server.tensors().items() if "running" in name or "num_batches" in name}


def test_buffers_are_averaged_and_never_touched_by_an_optimizer():
    plain, adaptive, none = _with_batch_norm(ServerSgd()), _with_batch_norm(FedAdam()), _with_batch_norm(ServerSgd())
    clients = (0, 1, 4)  # 2, 3 and 2 steps
    for drive in (plain, adaptive):
        drive.server.apply(drive.dispatch(clients))
    averaged = _buffers(plain.server)
    for name, value in _buffers(adaptive.server).items():
        np.testing.assert_array_equal(value, averaged[name])
    assert averaged["1.num_batches_tracked"] == round((7 * 2 + 12 * 3 + 9 * 2) / 28)
    own = []
    for client in clients:
        alone = _with_batch_norm(ServerSgd())
        alone.server.apply(alone.dispatch((client,)))
        own.append(_buffers(alone.server)["1.running_mean"])
    expected = np.average(own, axis=0, weights=[7, 12, 9])
    np.testing.assert_allclose(averaged["1.running_mean"], expected, rtol=0, atol=1e-15)
    assert not np.array_equal(averaged["1.running_mean"], _buffers(none.server)["1.running_mean"])


def test_the_median_of_buffers_survives_an_attacker_that_a_mean_would_not():
    drive = _with_batch_norm(ServerSgd(), merge=Median())
    drive.server.apply(drive.dispatch((0, 1, 4)))
    own = []
    for client in (0, 1, 4):
        alone = _with_batch_norm(ServerSgd())
        alone.server.apply(alone.dispatch((client,)))
        own.append(_buffers(alone.server)["1.running_mean"])
    np.testing.assert_allclose(_buffers(drive.server)["1.running_mean"], np.median(own, axis=0), rtol=0, atol=1e-15)


def test_dp_refuses_a_model_with_batch_norm():
    drive = _with_batch_norm(ServerSgd(), merge=DpMean(max_norm=1.0, noise_multiplier=1.0), weighting=EqualWeights())
    with pytest.raises(TrainingError, match=r"1\.running_mean"):
        drive.round((0, 1))


def test_too_few_updates_for_the_merge_is_an_error_that_leaves_the_model_as_it_was():
    drive = Drive(learning(problem(), client_rule=SGD, merge=Krum(attackers=1)))
    before = parameters(drive.server)
    with pytest.raises(TrainingError, match=r"4 usable updates arrived.*at least 5"):
        drive.round((0, 1, 2, 3))
    np.testing.assert_array_equal(parameters(drive.server), before)
    assert drive.server.version == 0


def test_one_wild_update_does_not_count_for_the_merge_but_a_finite_few_do():
    data = problem((4, 4, 4, 4, 4, 40))
    rule = Poisoned(learning_rate=0.2, batch_size=4, limit=10)
    drive = Drive(learning(data, client_rule=rule, merge=Krum(attackers=1)))
    feedback = drive.server.apply(drive.dispatch((0, 1, 2, 3, 4, 5)))
    assert feedback.valid.tolist() == [True] * 5 + [False]


def test_dp_fedavg_through_a_run_equals_the_formula():
    data = problem()
    merge = DpMean(max_norm=0.05, noise_multiplier=0.0, cohort=10)
    drive = Drive(
        learning(data, client_rule=Sgd(learning_rate=0.2, batch_size=100), merge=merge, weighting=EqualWeights())
    )
    w = parameters(drive.server)
    for cohort in ((0, 1, 2), (3, 4)):
        total = 0
        for k in cohort:
            u = -0.2 * gradient(w, *client_rows(data, k))
            total = total + u * min(1, 0.05 / np.linalg.norm(u))
        w = w + total / 10
        np.testing.assert_allclose(drive.round(cohort), w, rtol=0, atol=1e-13)


# -- queries -----------------------------------------------------------------------------------------------------------


def test_the_losses_of_a_query_are_those_of_the_current_model_on_each_clients_samples():
    data = problem()
    drive = Drive(learning(data, client_rule=SGD))
    w = drive.round((0, 1, 2))
    found = drive.server.losses(np.array([4, 0, 3]))
    np.testing.assert_allclose(found, [loss(w, *client_rows(data, k)) for k in (4, 0, 3)], rtol=1e-12)
    x, y = client_rows(data, 3)
    each = [loss(w, x[i : i + 1], y[i : i + 1]) for i in range(len(y))]
    (one,) = drive.server.losses(np.array([3]), max_samples=1)
    assert np.isclose(each, one, rtol=1e-12).sum() == 1


def test_a_client_without_samples_has_no_loss():
    server = learning(problem((4, 0, 3)), client_rule=SGD)
    assert np.isnan(server.losses(np.array([0, 1]))).tolist() == [False, True]
    assert np.isnan(server.losses(np.array([1]))).all()
