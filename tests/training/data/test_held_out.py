"""A part of every client's samples that is evaluated on and never trained on."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from evsim.algorithms.sgd import Sgd
from evsim.base.errors import DataError
from evsim.training.data.base import federate
from evsim.training.data.digits import Digits
from evsim.training.data.grouped import Grouped
from evsim.training.data.held_out import hold_out
from evsim.training.data.partition import Classes, Dirichlet, Iid, Natural, Quantity, Shards
from evsim.training.data.power_law import PowerLaw
from evsim.training.data.samples import TrainingData
from evsim.training.data.similarity import Similarity
from evsim.training.data.skew import Noise, Rotation, skewed
from evsim.training.learning.evaluation import Some, evaluate
from evsim.training.models.leaves import averaged, trained
from evsim.training.objectives.base import Groups
from evsim.training.objectives.classification import Classification
from tests.algorithms.oracle import ROUNDS, Drive, learning, problem

DEALT_ONCE = [Iid(), Natural(), Dirichlet(alpha=0.3), Shards(), Similarity(iid_share=0.3), Grouped()]
SHARED = [
    Iid(samples_per_client=20),
    Dirichlet(alpha=0.3, samples_per_client=20),
    Classes(classes_per_client=2),
    Quantity(mean=40.0, sigma=0.5),
    PowerLaw(largest=100),
]


def join(partition, share=None, n=10, seed=3):
    return federate(
        Digits(),
        partition,
        test_fraction=0.2,
        n_clients=n,
        seed=seed,
        folder=Path(),
        client_test_fraction=share,
    )


def clients(index, offsets):
    return [index[a:b].tolist() for a, b in pairwise(offsets)]


@pytest.mark.parametrize("n", [3, 10])
@pytest.mark.parametrize("share", [0.05, 0.29, 0.5])
@pytest.mark.parametrize("partition", DEALT_ONCE + SHARED, ids=str)
def test_no_sample_is_in_both_and_together_they_are_what_the_client_has(partition, share, n):
    whole, data = join(partition, n=n), join(partition, share, n)
    assert not set(data.index.tolist()) & set(data.held.index.tolist())
    both = zip(clients(data.index, data.offsets), clients(data.held.index, data.held.offsets), strict=True)
    for (train, held), own in zip(both, clients(whole.index, whole.offsets), strict=True):
        assert sorted(train + held) == sorted(own)
        if partition in DEALT_ONCE:
            assert len(held) == round(round(share * len(own), 9))
        assert train == [row for row in own if row in set(train)]  # the order stays


def test_of_shared_samples_the_share_is_held_out_on_average():
    data = join(Iid(samples_per_client=20), 0.25, n=200)
    distinct = len(np.unique(data.index)), len(np.unique(data.held.index))
    assert 0.2 < distinct[1] / sum(distinct) < 0.3
    assert 0.2 < len(data.held.index) / 4_000 < 0.3


def test_nothing_changes_where_nothing_is_held_out_and_the_test_set_never_does():
    plain, data = join(Iid()), join(Iid(), 0.3)
    assert plain.held is None
    np.testing.assert_array_equal(plain.x_test, data.x_test)
    np.testing.assert_array_equal(plain.y, data.y)
    assert data.held.index.tolist() == join(Iid(), 0.3).held.index.tolist()
    assert data.held.index.tolist() != join(Iid(), 0.3, seed=4).held.index.tolist()


@pytest.mark.parametrize(("share", "what"), [(1e-6, "be evaluated on"), (1 - 1e-6, "train on")])
def test_a_share_that_leaves_nothing_is_refused(share, what):
    with pytest.raises(DataError, match=f"client_test_fraction: .*; it leaves no client a sample to {what}"):
        join(Iid(), share)


@pytest.mark.parametrize("skew", [Noise(level=0.5), Rotation()], ids=str)
def test_held_out_samples_are_skewed_as_those_in_training(skew):
    data = join(Dirichlet(alpha=1, samples_per_client=20), 0.3)
    made, whole = skewed(data, skew, 7), skewed(join(Dirichlet(alpha=1, samples_per_client=20)), skew, 7)
    np.testing.assert_array_equal(made.y[made.held.index], data.y[data.held.index])
    np.testing.assert_array_equal(made.sources[made.held.index], data.held.index)
    for client in range(10):
        places = whole.samples_of(client)
        seen = {int(whole.sources[at]): whole.x[at] for at in places.tolist()}
        own = made.held.index[made.held.offsets[client] : made.held.offsets[client + 1]]
        for at in own.tolist():
            np.testing.assert_array_equal(made.x[at], seen[int(made.sources[at])])


def test_clients_are_evaluated_on_what_is_held_out_alone():
    data = join(Dirichlet(alpha=0.3, samples_per_client=20), 0.3)
    placed = TrainingData.of(data, torch.float64, torch.device("cpu"))
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10)).double()
    state = dict(trained(model)), dict(averaged(model))
    rows = np.unique(placed.held.index)
    only = placed.rows(rows)
    objective = Classification()
    kept = evaluate(model, state, (Some(placed.x, only), placed.y[only]), objective.keep, batch_size=7, key=0)
    assert len(kept["loss"]) == len(rows)
    means = objective.measure(kept, Groups(np.searchsorted(rows, data.held.index), data.held.offsets))
    for client, own in enumerate(clients(data.held.index, data.held.offsets)):
        logits = model(torch.as_tensor(data.x[own], dtype=torch.float64)).detach()
        labels = torch.as_tensor(data.y[own])
        loss = torch.nn.functional.cross_entropy(logits, labels) if own else torch.tensor(torch.nan)
        np.testing.assert_allclose(means["loss"][client], loss, rtol=1e-12)


@pytest.fixture(scope="module")
def parted():
    """The written-out problem with a part held out, and the same without anything of that part."""
    whole = problem()
    index, offsets, held = hold_out(whole.index, whole.offsets, 0.3, 1)
    return replace(whole, index=index, offsets=offsets, held=held)


def server(data):
    return learning(data, client_rule=Sgd(learning_rate=0.1, batch_size=4))


def test_training_is_that_on_the_rest(parted):
    one, other = Drive(server(parted)), Drive(server(replace(parted, held=None)))
    for cohort in ROUNDS:
        np.testing.assert_array_equal(one.round(cohort), other.round(cohort))


def test_learning_evaluates_clients_on_what_is_held_out(parted):
    held = replace(parted, index=parted.held.index, offsets=parted.held.offsets, held=None)
    found, expected = (server(data).evaluate_clients(4) for data in (parted, held))
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-12)
    assert not np.allclose(found["loss"], server(replace(parted, held=None)).evaluate_clients(4)["loss"])
