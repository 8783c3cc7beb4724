"""What is not finite, or weighs nothing, pollutes no state: neither of the server nor of its clients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
import pytest
import torch

from evsim.algorithms import tree
from evsim.algorithms.adaptive import FedAdagrad, FedAdam, FedYogi
from evsim.algorithms.asynchronous import BufferMean
from evsim.algorithms.base import ReportMeta, Reports, StepInfo, SummingMerge, Weighting
from evsim.algorithms.fedavgm import FedAvgM
from evsim.algorithms.fednova import FedNova, NovaSgd
from evsim.algorithms.local_sgd import LocalSgd
from evsim.algorithms.mean import Mean
from evsim.algorithms.robust import Krum, Median, MultiKrum, TrimmedMean
from evsim.algorithms.scaffold import Scaffold, ScaffoldSgd, WithControl
from evsim.algorithms.server_sgd import ServerSgd
from evsim.algorithms.sgd import Sgd
from evsim.algorithms.staleness import ExponentialStaleness, PolynomialStaleness
from evsim.algorithms.top_k import TopK
from evsim.algorithms.weighting import EqualWeights, checked
from evsim.base.errors import TrainingError
from evsim.training.executors.batched import Batched
from evsim.training.executors.serial import Serial
from tests.algorithms.oracle import Drive, learning, parameters, problem

SGD = Sgd(learning_rate=0.2, batch_size=4)
SCAFFOLD = {
    "broadcast": WithControl(),
    "client_rule": ScaffoldSgd(learning_rate=0.2, batch_size=4),
    "server_optimizer": Scaffold(),
}
SLOTS = {
    "sgd": {"client_rule": SGD},
    "fedavgm": {"client_rule": SGD, "server_optimizer": FedAvgM()},
    "fedadagrad": {"client_rule": SGD, "server_optimizer": FedAdagrad()},
    "fedadam": {"client_rule": SGD, "server_optimizer": FedAdam()},
    "fedyogi": {"client_rule": SGD, "server_optimizer": FedYogi()},
    "fednova": {"client_rule": NovaSgd(learning_rate=0.2), "server_optimizer": FedNova(momentum=0.9)},
    "scaffold": SCAFFOLD,
    "top-k": {"client_rule": SGD, "upload": (TopK(share=0.5),)},
}


@final
@dataclass(frozen=True, kw_only=True)
class Overflows(SummingMerge):
    """The mean, but of four reports far too much of it: each update is finite, what they merge into is not."""

    style = "mean"
    minimum_updates = 1

    def finish(self, acc, server, info):
        means = acc.means()
        if info.n_reports != 4:
            return means
        return {name: tree.scale(tree.scale(leaves, 1e300), 1e300) for name, leaves in means.items()}


def _server_state(server):
    return {f"{name}.{leaf}": value.clone() for name, tree in server._server.items() for leaf, value in tree.items()}


@pytest.mark.parametrize("executor", [Serial(threads=1), Batched()])
@pytest.mark.parametrize("way", SLOTS)
def test_finite_updates_whose_sum_is_not_finite_are_invalid_together_and_change_nothing(way, executor):
    data = problem()
    drive, other = (Drive(learning(data, executor=executor, merge=Overflows(), **SLOTS[way])) for _ in range(2))
    for each in (drive, other):
        each.round((0, 1, 2))
    before = _server_state(drive.server)
    generations = [drive.server.client_states.generation(client) for client in range(6)]
    feedback = drive.server.apply(drive.dispatch((0, 2, 3, 3)))
    assert not feedback.valid.any()
    assert np.isfinite(feedback.utility).all()
    after = _server_state(drive.server)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert drive.server.version == other.server.version == 1
    assert [drive.server.client_states.generation(client) for client in range(6)] == generations
    other.nth = dict(drive.nth)
    np.testing.assert_array_equal(drive.round((0, 1, 3)), other.round((0, 1, 3)))


@final
@dataclass(frozen=True, kw_only=True)
class Long(LocalSgd):
    """Reports an update near the largest number there is."""

    def direction(self, grads, carry, received, state):
        return grads

    def report(self, delta, carry, received, state, steps):
        huge = {name: torch.full_like(leaf, 1.7e308) for name, leaf in delta.items()}
        return super().report(huge, carry, received, state, steps)


@pytest.mark.parametrize("merge", [Mean(), Median(), TrimmedMean(share=0.1), MultiKrum(attackers=0)])
def test_updates_too_long_to_be_added_up_are_invalid(merge):
    drive = Drive(learning(problem(), client_rule=Long(learning_rate=0.1), merge=merge, server_optimizer=FedAdam()))
    before = _server_state(drive.server)
    feedback = drive.server.apply(drive.dispatch((0, 1, 2, 4)))
    assert not feedback.valid.any()
    assert all(torch.equal(value, before[name]) for name, value in _server_state(drive.server).items())


def test_one_of_them_is_a_valid_update():
    drive = Drive(learning(problem(), client_rule=Long(learning_rate=0.1), merge=Krum(attackers=0)))
    assert drive.server.apply(drive.dispatch((0, 1, 2))).valid.all()
    assert np.isfinite(parameters(drive.server)).all()


# -- weights that underflow, and weights that are none -----------------------------------------------------------------


def _reports(*staleness):
    return Reports(np.arange(len(staleness)), np.full(len(staleness), 10), np.array(staleness))


@pytest.mark.parametrize("weighting", [ExponentialStaleness(), PolynomialStaleness(exponent=400.0)])
def test_reports_that_are_all_very_stale_still_have_a_mean(weighting):
    weights = weighting.weights(_reports(900, 900, 2000))[""]
    np.testing.assert_allclose(weights / weights.sum(), [1 / 3, 1 / 3, 1 / 3], rtol=1e-12)
    beside = weighting.weights(_reports(0, 900))[""]
    assert beside[0] == 1.0 == beside.sum()


SERVER = {"model": {"w": torch.zeros(2, dtype=torch.float64)}, "buffers": {"b": torch.ones(2)}}


@pytest.mark.parametrize("weights", [(0.0, 0.0), (1.0, 0.0), (0.5, 0.25)])
def test_buffer_mean_divides_updates_by_the_goal_and_buffers_by_their_weights_if_they_have_any(weights):
    rule, info = BufferMean(), StepInfo(3, 9, 4, 2, 0)
    acc = rule.init(SERVER, info)
    for task, weight in enumerate(weights):
        value = torch.tensor([1.0 + task, 5.0], dtype=torch.float64)
        acc = rule.add(
            acc, {"model": {"w": value}, "buffers": {"b": value}}, {"": weight}, ReportMeta(0, task, 1, 1, 0, 3)
        )
    merged = rule.finish(acc, SERVER, info)
    total = weights[0] * np.array([1.0, 5.0]) + weights[1] * np.array([2.0, 5.0])
    np.testing.assert_allclose(merged["model"]["w"].numpy(), total / 4, rtol=1e-15)
    if sum(weights) == 0:
        assert "buffers" not in merged
    else:
        np.testing.assert_allclose(merged["buffers"]["b"].numpy(), total / sum(weights), rtol=1e-15)


@final
@dataclass(frozen=True, kw_only=True)
class Given(Weighting):
    """Whatever a user's class may return."""

    columns: dict

    def weights(self, reports):
        return self.columns


@pytest.mark.parametrize("merge", [Mean(), BufferMean(), Median()])
@pytest.mark.parametrize("optimizer", [ServerSgd(), FedAvgM(momentum=0.0)])
def test_reports_that_weigh_nothing_are_a_step_that_changes_nothing(merge, optimizer):
    nothing = Given(columns={"": np.zeros(2)})
    drive = Drive(learning(problem(), client_rule=SGD, weighting=nothing, merge=merge, server_optimizer=optimizer))
    before = parameters(drive.server)
    np.testing.assert_array_equal(drive.round((0, 1)), before)
    assert drive.server.version == 1


def test_a_payload_that_weighs_nothing_beside_one_that_does_changes_nothing_either():
    weighting = Given(columns={"": np.ones(2), "control": np.zeros(2)})
    drive = Drive(learning(problem(), weighting=weighting, **SCAFFOLD))
    before = parameters(drive.server)
    np.testing.assert_array_equal(drive.round((0, 1)), before)


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"": np.array([1.0, -1.0])}, r"payload '' are \[1.0, -1.0\] for 2 reports; expected one number per report"),
        ({"": np.array([1.0, np.nan])}, r"\[1.0, nan\]"),
        ({"": np.ones(2), "model": np.array([np.inf, 1.0])}, r"payload 'model' are \[inf, 1.0\]"),
        ({"": np.array([1e308, 1e308])}, "a sum of at most 1e"),
        ({"": np.ones(3)}, r"\[1.0, 1.0, 1.0\] for 2 reports"),
        ({"model": np.ones(2)}, "payload '' are no entry"),
    ],
)
def test_weights_that_cannot_be_weights_are_refused_with_the_name_of_the_weighting(columns, said):
    with pytest.raises(TrainingError, match=f"weighting Given.*{said}"):
        checked(Given(columns=columns), _reports(0, 0))
    drive = Drive(learning(problem(), client_rule=SGD, weighting=Given(columns=columns)))
    with pytest.raises(TrainingError, match="weighting Given"):
        drive.round((0, 1))


def test_good_weights_pass_as_they_are():
    weights = EqualWeights().weights(_reports(0, 1))
    assert checked(EqualWeights(), _reports(0, 1))[""].tolist() == weights[""].tolist()
