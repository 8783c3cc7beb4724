"""Laws of partitions."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evsim.base.errors import DataError, PolicyError
from evsim.training.data.base import Partition
from evsim.training.data.partition import Classes, Dirichlet, Iid, Natural, Quantity, Shards, label_skew

few = settings(max_examples=50, derandomize=True, deadline=None)
labels = st.lists(st.integers(0, 4), min_size=1, max_size=80).map(lambda y: np.array(y, np.int64))
clients = st.integers(1, 12)
seeds = st.integers(0, 2**32)


def split(partition: Partition, y: np.ndarray, n: int | None, seed: int = 0, n_classes: int = 5):
    return partition.split(y, None, n_classes, n, np.random.default_rng(seed))


def counts(y, index, offsets, n_classes=5):
    return np.array([np.bincount(y[index[a:b]], minlength=n_classes) for a, b in pairwise(offsets)])


@few
@given(y=labels, n=clients, seed=seeds, partition=st.sampled_from([Iid(), Dirichlet(alpha=0.3), Dirichlet(alpha=1e-4)]))
def test_without_replacement_every_sample_goes_to_exactly_one_client(y, n, seed, partition):
    index, offsets = split(partition, y, n, seed)
    assert sorted(index) == list(range(len(y)))
    assert len(offsets) == n + 1
    assert (offsets[0], offsets[-1]) == (0, len(y))
    assert (np.diff(offsets) >= 0).all()


@few
@given(
    y=labels,
    n=clients,
    seed=seeds,
    partition=st.sampled_from(
        [
            Iid(samples_per_client=7),
            Dirichlet(alpha=0.5, samples_per_client=7),
            Dirichlet(alpha=1e-5, samples_per_client=7),
            Classes(classes_per_client=1, samples_per_client=7),
        ]
    ),
)
def test_with_replacement_every_client_has_exactly_the_samples_asked_for(y, n, seed, partition):
    index, offsets = split(partition, y, n, seed)
    np.testing.assert_array_equal(offsets, 7 * np.arange(n + 1))
    assert len(index) == 7 * n
    assert index.min() >= 0
    assert index.max() < len(y)


@few
@given(y=labels, seed=seeds, k=st.integers(1, 3), n=clients)
def test_shards_deal_all_samples_and_a_shard_is_a_run_of_sorted_labels(y, seed, k, n):
    if n * k > len(y):
        with pytest.raises(DataError, match="at most one per sample"):
            split(Shards(shards_per_client=k), y, n, seed)
        return
    index, offsets = split(Shards(shards_per_client=k), y, n, seed)
    assert sorted(index) == list(range(len(y)))
    smallest = len(y) // (n * k)
    assert (np.diff(offsets) >= k * smallest).all()
    assert (np.diff(offsets) <= k * (smallest + 1)).all()


def test_two_shards_of_equal_classes_give_at_most_two_labels_and_equal_sizes():
    y = np.repeat(np.arange(5), 40)
    index, offsets = split(Shards(), y, 10)
    held = counts(y, index, offsets)
    assert (held.sum(axis=1) == 20).all()
    assert ((held > 0).sum(axis=1) <= 2).all()


@few
@given(seed=seeds, k=st.integers(1, 5), n=clients)
def test_classes_gives_k_different_labels(seed, k, n):
    y = np.arange(100) % 5
    index, offsets = split(Classes(classes_per_client=k, samples_per_client=200), y, n, seed)
    assert ((counts(y, index, offsets) > 0).sum(axis=1) == k).all()  # misses one with (1 - 1/5)^200 < 1e-19


def test_classes_takes_only_labels_that_occur_and_refuses_more_than_there_are():
    y = np.array([1, 1, 4])
    index, offsets = split(Classes(classes_per_client=2), y, 30)
    assert counts(y, index, offsets)[:, [0, 2, 3]].sum() == 0
    with pytest.raises(DataError, match="classes_per_client = 3; the data has 2 labels"):
        split(Classes(classes_per_client=3), y, 30)


def test_natural_clients_have_their_own_samples_and_samples_of_nobody_stay_unused():
    y, groups = np.zeros(6, np.int64), np.array([2, 0, -1, 0, 2, -1])
    index, offsets = Natural().split(y, groups, 1, None, np.random.default_rng(0))
    assert [list(index[a:b]) for a, b in pairwise(offsets)] == [[1, 3], [], [0, 4]]
    index, offsets = Natural().split(y, groups, 1, 2, np.random.default_rng(0))
    assert [list(index[a:b]) for a, b in pairwise(offsets)] == [[1, 3], []]
    with pytest.raises(DataError, match="no natural clients"):
        Natural().split(y, None, 1, None, np.random.default_rng(0))


def test_a_large_dirichlet_concentration_gives_every_client_the_prior():
    y = np.repeat(np.arange(5), [10, 20, 30, 40, 0])
    index, offsets = split(Dirichlet(alpha=1e6, samples_per_client=10_000), y, 20)
    shares = counts(y, index, offsets) / 10_000
    assert np.abs(shares - [0.1, 0.2, 0.3, 0.4, 0]).max() < 0.025  # 5 sigma of a share of 0.4


def test_a_small_dirichlet_concentration_gives_every_client_one_label_in_the_shares_of_the_prior():
    y = np.repeat(np.arange(5), [10, 20, 30, 40, 0])
    index, offsets = split(Dirichlet(alpha=1e-4, samples_per_client=20), y, 4000)
    held = counts(y, index, offsets)
    assert (held.max(axis=1) == 20).mean() > 0.99
    assert np.abs(held.sum(axis=0) / held.sum() - [0.1, 0.2, 0.3, 0.4, 0]).max() < 0.04  # 5 sigma


def test_dirichlet_shares_have_the_mean_and_variance_of_the_law():
    y = np.repeat(np.arange(2), 50)  # Dirichlet(alpha, alpha): a share has variance 1 / (4 (2 alpha + 1))
    index, offsets = split(Dirichlet(alpha=0.5, samples_per_client=500), y, 20_000, n_classes=2)
    share = counts(y, index, offsets, 2)[:, 0] / 500
    assert share.mean() == pytest.approx(0.5, abs=0.0125)  # 5 sigma
    assert share.var() == pytest.approx(1 / 8 + 1 / 8 / 500, abs=0.005)  # its own and that of 500 draws; > 5 sigma


def test_the_split_of_labels_over_clients_follows_alpha():
    y = np.repeat(np.arange(5), 2000)
    even = counts(y, *split(Dirichlet(alpha=1e6), y, 10))
    assert np.abs(even - 200).max() <= 2
    skewed = counts(y, *split(Dirichlet(alpha=1e-4), y, 10))
    assert (skewed.max(axis=0) > 1990).all()


def test_quantity_has_the_log_normal_sizes_asked_for():
    y = np.arange(100) % 5
    index, offsets = split(Quantity(mean=50.0, sigma=0.5), y, 20_000)
    sizes = np.diff(offsets)
    assert sizes.mean() == pytest.approx(50, abs=1)  # 5 sigma = 0.94
    assert np.log(sizes).std() == pytest.approx(0.5, abs=0.015)
    assert sizes.min() >= 1
    np.testing.assert_array_equal(np.unique(index), np.arange(100))
    assert (np.diff(split(Quantity(mean=1.0, sigma=3.0), y, 500)[1]) >= 1).all()


@pytest.mark.parametrize(
    "partition",
    [
        Iid(),
        Iid(samples_per_client=3),
        Dirichlet(alpha=0.5),
        Dirichlet(alpha=0.5, samples_per_client=3),
        Shards(),
        Classes(classes_per_client=2),
        Quantity(),
    ],
)
def test_a_split_is_a_function_of_its_generator(partition):
    y = np.arange(200) % 5
    once, again, other = (split(partition, y, 10, seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(once[0], again[0])
    np.testing.assert_array_equal(once[1], again[1])
    assert not np.array_equal(once[0], other[0])
    with pytest.raises(DataError, match=r"population\.clients: missing"):
        split(partition, y, None)


def test_the_skew_is_0_for_equal_shares_and_known_for_disjoint_ones():
    assert label_skew(np.array([[5, 5], [1, 1], [0, 0]])) == 0.0
    # P = (1, 0), Q = (1/2, 1/2), M = (3/4, 1/4): divergence = H(M) - H(Q) / 2 bits
    expected = np.sqrt(-(0.75 * np.log2(0.75) + 0.25 * np.log2(0.25)) - 0.5)
    assert label_skew(np.array([[8, 0], [0, 8]])) == pytest.approx(expected, abs=1e-12)


def test_a_smaller_alpha_is_more_skewed():
    y = np.arange(1000) % 5
    skews = [
        label_skew(counts(y, *split(Dirichlet(alpha=alpha, samples_per_client=50), y, 100)))
        for alpha in (0.1, 0.5, 2.0, 100.0)
    ]
    assert skews == sorted(skews, reverse=True)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Iid(samples_per_client=0),
        lambda: Dirichlet(alpha=0.0),
        lambda: Dirichlet(alpha=float("nan")),
        lambda: Dirichlet(alpha=1.0, samples_per_client=-1),
        lambda: Shards(shards_per_client=0),
        lambda: Classes(classes_per_client=0),
        lambda: Quantity(mean=0.0),
        lambda: Quantity(sigma=float("inf")),
    ],
)
def test_impossible_values_are_refused(make):
    with pytest.raises(PolicyError, match="but got"):
        make()
