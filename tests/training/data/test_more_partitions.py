"""Laws of partitions: similarity, power law, natural clients cut and put together."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from evsim.base.errors import DataError, PolicyError
from evsim.training.data.base import federate
from evsim.training.data.digits import Digits
from evsim.training.data.grouped import Grouped
from evsim.training.data.partition import Natural, label_skew
from evsim.training.data.power_law import PowerLaw
from evsim.training.data.similarity import Similarity


def split(partition, y, groups=None, n=None, seed=0):
    index, offsets = partition.split(y, groups, 10, n, np.random.default_rng(seed))
    return [index[a:b] for a, b in pairwise(offsets)]


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("n", [1, 7, 10, 400])
def test_similarity_deals_every_sample_once_and_evenly(share, n):
    parts = split(Similarity(iid_share=share), np.arange(300) % 10, n=n)
    assert sorted(np.concatenate(parts)) == list(range(300))
    sizes = np.array(list(map(len, parts)))
    assert sizes.max() - sizes.min() <= 2  # both shares are dealt evenly up to one


def test_similarity_lies_between_sorted_and_iid():
    y = np.arange(2000) % 10
    skews = []
    for share in (0.0, 0.25, 0.75, 1.0):
        counts = [np.bincount(y[part], minlength=10) for part in split(Similarity(iid_share=share), y, n=10)]
        skews.append(label_skew(np.array(counts)))
    assert skews == sorted(skews, reverse=True)
    one_label = np.sqrt(0.5 * np.log2(2 / 1.1) + 0.05 * np.log2(1 / 5.5) + 0.45)  # P = e_1, Q = uniform over 10
    assert skews[0] == pytest.approx(one_label, abs=1e-9)
    assert skews[-1] < 0.1


def test_sizes_follow_the_power_law():
    sizes = np.array(
        list(map(len, split(PowerLaw(exponent=2.5, smallest=10, largest=None), np.zeros(5, int), n=20_000)))
    )
    assert sizes.min() == 10
    for size in (20, 50, 100):
        expected = (size / 10) ** -1.5
        assert (sizes >= size).mean() == pytest.approx(expected, abs=5 * (expected / 20_000) ** 0.5)
    assert max(map(len, split(PowerLaw(exponent=1.1, largest=50), np.zeros(5, int), n=500))) == 50


GROUPS = np.array([2, 0, -1, 0, 2, 3, 2, 1, 1])  # sizes 2, 2, 3, 1
Y = np.zeros(9, np.int64)


def test_natural_clients_with_few_samples_are_left_out_and_the_others_move_up():
    everyone = split(Natural(), Y, GROUPS)
    assert [part.tolist() for part in everyone] == [[1, 3], [7, 8], [0, 4, 6], [5]]
    assert [part.tolist() for part in split(Natural(min_samples=2), Y, GROUPS)] == [[1, 3], [7, 8], [0, 4, 6]]
    assert [part.tolist() for part in split(Natural(min_samples=3), Y, GROUPS, n=1)] == [[0, 4, 6]]
    assert [part.tolist() for part in split(Natural(max_samples=1), Y, GROUPS)] == [[1], [7], [0], [5]]
    with pytest.raises(
        DataError, match=r"population\.clients: 2; expected at most 1, the natural clients with 3 samples"
    ):
        split(Natural(min_samples=3), Y, GROUPS, n=2)


def test_the_number_of_clients_is_that_of_the_clients_kept():
    options = {"test_fraction": 0.2, "n_clients": None, "seed": 0, "folder": Path()}
    sizes = federate(Digits(), Natural(), **options).sizes
    least = int(np.sort(sizes)[4]) + 1
    kept = federate(Digits(), Natural(min_samples=least, max_samples=least), **options)
    np.testing.assert_array_equal(kept.sizes, [least] * int((sizes >= least).sum()))


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_grouped_clients_are_whole_natural_ones(n):
    parts = split(Grouped(), Y, GROUPS, n=n)
    owners = [set(GROUPS[part].tolist()) for part in parts]
    assert sorted(each for owner in owners for each in owner) == [0, 1, 2, 3]
    assert sorted(np.concatenate(parts)) == np.flatnonzero(GROUPS >= 0).tolist()
    assert max(map(len, owners)) - min(map(len, owners)) <= 1


def test_grouped_needs_natural_clients_enough():
    with pytest.raises(DataError, match="no natural clients"):
        split(Grouped(), Y, None, n=2)
    with pytest.raises(DataError, match="expected at most 4"):
        split(Grouped(), Y, GROUPS, n=5)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Similarity(iid_share=1.1),
        lambda: PowerLaw(exponent=1.0),
        lambda: PowerLaw(smallest=0),
        lambda: PowerLaw(smallest=10, largest=9),
        lambda: Natural(min_samples=-1),
        lambda: Natural(max_samples=0),
    ],
)
def test_impossible_values_are_refused(make):
    with pytest.raises(PolicyError, match="but got"):
        make()
