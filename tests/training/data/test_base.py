"""The join of data set and partition."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from evsim.base.errors import DataError, PolicyError
from evsim.training.data.base import DataSet, Samples, federate
from evsim.training.data.digits import WRITER_STARTS, Digits
from evsim.training.data.partition import Dirichlet, Iid, Natural


@dataclass(frozen=True)
class Fixed(DataSet):
    samples: Samples

    def load(self, *, n_clients, seed, folder):
        return self.samples


def fixed(y, groups=None, is_test=None):
    y = np.array(y, np.int64)
    x = np.arange(len(y), dtype=np.float32)[:, None]
    groups = None if groups is None else np.array(groups, np.int64)
    return Fixed(Samples(x, y, int(y.max()) + 1, groups, "fixed", None, is_test))


def join(dataset, partition=None, *, fraction=0.2, n=None, seed=0):
    partition = partition or Natural()
    return federate(dataset, partition, test_fraction=fraction, n_clients=n, seed=seed, folder=Path())


def test_the_test_set_has_the_same_share_of_every_label_and_no_client_sees_it():
    y = np.repeat([0, 1, 2], [50, 100, 10])
    data = join(fixed(y), Iid(), n=4)
    np.testing.assert_array_equal(np.bincount(data.y_test), [10, 20, 2])
    assert len(np.union1d(data.x, data.x_test)) == 160
    assert len(np.intersect1d(data.x, data.x_test)) == 0
    np.testing.assert_array_equal(y[data.x[:, 0].astype(int)], data.y)
    np.testing.assert_array_equal(y[data.x_test[:, 0].astype(int)], data.y_test)


def test_the_test_set_depends_on_the_seed_and_not_on_the_partition():
    dataset = fixed(np.arange(100) % 4)
    one, other = join(dataset, Iid(), n=5), join(dataset, Dirichlet(alpha=0.1, samples_per_client=3), n=50)
    np.testing.assert_array_equal(one.x_test, other.x_test)
    assert not np.array_equal(one.x_test, join(dataset, Iid(), n=5, seed=1).x_test)


def test_what_a_client_has_can_be_counted():
    data = join(Digits())
    assert data.n_clients == 14
    assert data.sizes.sum() == len(data.y) == 1797 - len(data.y_test)
    held = data.label_counts()
    for client in range(14):
        np.testing.assert_array_equal(np.bincount(data.y[data.samples_of(client)], minlength=10), held[client])


def test_digits_come_writer_after_writer_each_starting_with_the_same_dictation():
    samples = Digits().load(n_clients=None, seed=0, folder=Path())
    assert samples.x.shape == (1797, 1, 8, 8)
    assert samples.x.dtype == np.float32
    assert (samples.x.min(), samples.x.max()) == (0.0, 1.0)
    sizes = np.bincount(samples.groups)
    assert len(sizes) == 14
    assert (sizes.min(), sizes.max()) == (114, 139)
    opening = samples.y[:42]
    np.testing.assert_array_equal(opening[:30], np.tile(np.arange(10), 3))
    same = [np.array_equal(samples.y[start : start + 42], opening) for start in WRITER_STARTS]
    assert np.flatnonzero(~np.array(same)).tolist() == [7, 12]  # these lack a few digits of the dictation
    for start in WRITER_STARTS:
        np.testing.assert_array_equal(samples.y[start : start + 16], opening[:16])


def test_without_a_number_there_are_as_many_clients_as_natural_ones():
    assert join(Digits(), Iid()).n_clients == 14
    with pytest.raises(DataError, match=r"population\.clients: missing; fixed has no natural clients"):
        join(fixed([0, 1] * 10), Iid())


def test_the_natural_partition_serves_fewer_clients_but_never_more_than_there_are():
    assert join(Digits(), n=3).n_clients == 3
    with pytest.raises(DataError, match=r"population\.clients: 15; expected at most 14"):
        join(Digits(), n=15)
    with pytest.raises(DataError, match="fixed has no natural clients"):
        join(fixed([0, 1] * 10), n=2)


def test_a_client_whose_only_sample_is_in_the_test_set_stays_a_client():
    dataset = fixed(np.zeros(10, np.int64), groups=np.arange(10))
    for asked in (None, 10):
        data = join(dataset, fraction=0.5, n=asked)
        assert data.n_clients == 10
        np.testing.assert_array_equal(np.flatnonzero(data.sizes), data.x[:, 0])


def test_a_test_set_of_the_data_sets_own_is_kept():
    data = join(fixed([0, 1, 0, 1], is_test=np.array([False, True, False, True])), Iid(), n=1)
    np.testing.assert_array_equal(data.x_test[:, 0], [1, 3])
    np.testing.assert_array_equal(data.x[:, 0], [0, 2])


def test_nobody_with_data_is_an_error():
    with pytest.raises(DataError, match="no client has data"):
        join(fixed([0] * 10, groups=[-1] * 10), n=None)


def test_too_few_samples_for_a_test_set_is_an_error():
    with pytest.raises(DataError, match=r"2 samples are too few for test_fraction 0\.1"):
        join(fixed([0, 1]), Iid(), fraction=0.1, n=1)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, float("nan")])
def test_the_test_fraction_lies_between_0_and_1(fraction):
    with pytest.raises(PolicyError, match="0 < test_fraction < 1"):
        join(Digits(), fraction=fraction)


@pytest.mark.parametrize(
    ("x", "y", "groups", "said"),
    [
        (np.zeros((2, 1), np.float32), [0], None, "2 inputs and 1 labels"),
        (np.zeros((0, 1), np.float32), [], None, "at least one"),
        (np.zeros((2, 1), np.float32), [0, 3], None, r"label 3 of sample 1 is not in 0\.\.2"),
        (np.zeros((2, 1), np.float32), [-1, 0], None, "label -1 of sample 0"),
        (np.array([[0.0], [np.nan]], np.float32), [0, 1], None, "not finite"),
        (np.zeros((2, 1), np.float32), [0, 1], [0], "1 client ids for 2 samples"),
    ],
)
def test_samples_that_do_not_fit_together_are_refused(x, y, groups, said):
    groups = None if groups is None else np.array(groups)
    with pytest.raises(DataError, match=said):
        Samples(x, np.array(y, np.int64), 3, groups, "bad")


def test_the_share_of_a_label_is_that_of_the_counts():
    x, y = np.zeros((60, 1), np.float32), np.arange(60) % 3
    data = federate(
        Fixed(Samples(x, y, 3, None, "mine")), Iid(), test_fraction=0.2, n_clients=50, seed=0, folder=Path()
    )
    counts = data.label_counts()
    assert (data.sizes == 0).any()
    for label in range(3):
        expected = counts[:, label] / np.maximum(counts.sum(axis=1), 1)
        np.testing.assert_allclose(data.label_share(label), expected)
    with pytest.raises(DataError, match="label 3 of mine; expected 0 to 2"):
        data.label_share(3)
