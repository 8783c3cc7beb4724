"""Feature skew: the same inputs wherever they are read, and the laws of each kind."""

from __future__ import annotations

from dataclasses import replace
from math import sqrt
from pathlib import Path

import numpy as np
import pytest
import torch

from evsim.base.errors import DataError, PolicyError
from evsim.training.data import skew as module
from evsim.training.data.base import FederatedData, Samples, federate
from evsim.training.data.gathered import Gathered
from evsim.training.data.label_flip import LabelFlip
from evsim.training.data.partition import Dirichlet, Iid
from evsim.training.data.samples import TrainingData
from evsim.training.data.skew import Noise, Rotation, skewed
from tests.training.data.test_base import Fixed

N, SIDE = 60, 6
KINDS = [Noise(level=0.5), Rotation(), Rotation(angles=(0.0, 30.0, 180.0, -45.0))]


def images(dtype=np.float32, side=(SIDE, SIDE), n=N):
    draw = np.random.default_rng(0)
    x = draw.integers(0, 256, (n, 2, *side), np.uint8)
    return x if dtype == np.uint8 else (x / 255).astype(dtype)


def data_of(x, partition=None, n=5, tokens=None) -> FederatedData:
    samples = Samples(x, np.arange(len(x)) % 3, 3, None, "mine", tokens)
    partition = partition or Dirichlet(alpha=1, samples_per_client=20)  # clients share samples
    return federate(Fixed(samples), partition, test_fraction=0.2, n_clients=n, seed=1, folder=Path())


@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
@pytest.mark.parametrize("skew", KINDS, ids=str)
def test_rows_are_the_same_at_once_later_in_any_order_and_after_a_selection(skew, dtype, monkeypatch):
    data = data_of(images(dtype))
    made = skewed(data, skew, seed=7)
    monkeypatch.setattr(module, "_KEPT", 0)
    later = skewed(data, skew, seed=7)
    assert isinstance(later.x, Gathered)
    assert later.x.dtype == made.x.dtype
    np.testing.assert_array_equal(later.x[:], made.x)
    rows = np.random.default_rng(0).permutation(len(made.y))[:30]
    np.testing.assert_array_equal(later.x[rows], made.x[rows])
    np.testing.assert_array_equal(later.x[rows[:, None]], made.x[rows[:, None]])
    np.testing.assert_array_equal(later.x.select(rows)[3:9], made.x[rows[3:9]])
    training = [TrainingData.of(each, torch.float64, torch.device("cpu")) for each in (made, later)]
    one, other = (each.take(each.rows(rows))[0] for each in training)
    assert torch.equal(one, other)


@pytest.mark.parametrize("skew", KINDS, ids=str)
def test_labels_sizes_and_the_test_set_stay_and_sources_say_whose_they_were(skew):
    data = data_of(images())
    made = skewed(data, skew, seed=7)
    np.testing.assert_array_equal(made.sizes, data.sizes)
    np.testing.assert_array_equal(made.label_counts(), data.label_counts())
    np.testing.assert_array_equal(made.x_test, data.x_test)
    np.testing.assert_array_equal(made.sources[made.index], data.index)
    flipped = LabelFlip(share=0.5).transform(made, seed=1)
    np.testing.assert_array_equal(flipped.sources[flipped.index], data.index)
    np.testing.assert_array_equal(flipped.x[flipped.index], made.x[made.index])


def test_noise_rises_from_client_to_client_and_is_a_function_of_the_sample():
    n, clients, level = 2_000, 4, 0.4
    data = data_of(np.zeros((n, 10), np.float32), Iid(), clients)
    made = skewed(data, Noise(level=level), seed=7)
    for client in range(clients):
        noise = made.x[made.samples_of(client)]
        sigma, count = level * (client + 1) / clients, noise.size
        assert abs(noise.mean()) < 5 * sigma / sqrt(count)  # five standard errors: a false alarm in 6e-7
        assert abs(noise.var() - sigma**2) < 5 * sigma**2 * sqrt(2 / count)
    assert not np.array_equal(made.x, skewed(data, Noise(level=level), seed=8).x)
    twice = skewed(replace(data, index=np.array([3, 3, 3]), offsets=np.array([0, 2, 2, 2, 3])), Noise(level=1.0), 7).x
    assert np.array_equal(twice[0], twice[1])
    assert not np.array_equal(twice[0] * 4, twice[2])


def test_bytes_count_as_numbers_from_0_to_1():
    plain, raw = images(), images(np.uint8)
    np.testing.assert_allclose(
        skewed(data_of(plain), Noise(level=0.1), 7).x, skewed(data_of(raw), Noise(level=0.1), 7).x, atol=1e-6
    )
    assert np.array_equal(skewed(data_of(plain), Noise(level=0.0), 7).x, plain[_rows(plain)])


def _rows(x):
    """The numbers of the samples in all clients' rows."""
    numbers = np.arange(len(x), dtype=np.float32)[:, None]
    data = data_of(numbers)
    return data.x[data.index][:, 0].astype(int)


def test_client_i_sees_the_ith_angle_and_quarter_turns_are_those_of_numpy():
    x = images(np.uint8)
    data = data_of(x)
    made = skewed(data, Rotation(), 7)
    for client in range(5):
        expected = np.rot90(data.x[data.samples_of(client)], client % 4, axes=(2, 3))
        np.testing.assert_array_equal(made.x[made.samples_of(client)], expected)


@pytest.mark.parametrize("side", [(6, 6), (5, 5)])
def test_interpolation_turns_the_same_way_and_back(side):
    x = images(np.float32, side)
    almost = module._turned(x, 90 + 1e-4)
    np.testing.assert_allclose(almost[..., 1:-1, 1:-1], np.rot90(x, axes=(2, 3))[..., 1:-1, 1:-1], atol=1e-4)
    smooth = np.tile(np.linspace(0, 1, 21, dtype=np.float32), (1, 1, 21, 1))
    back = module._turned(module._turned(smooth, 20.0), -20.0)
    np.testing.assert_allclose(back[..., 7:14, 7:14], smooth[..., 7:14, 7:14], atol=1e-6)


@pytest.mark.parametrize(
    ("skew", "x", "tokens", "message"),
    [
        (Noise(level=1.0), np.zeros((N, 5), np.int64), 9, "data.skew: the inputs of mine are token ids; expected num"),
        (Rotation(), np.zeros((N, 5), np.float32), None, r"have the shape \(5,\); expected images \(channels"),
        (Rotation(), images(side=(4, 6)), None, "are 4x6 pixels; a quarter turn needs square ones"),
    ],
)
def test_inputs_that_cannot_be_skewed_so_are_refused(skew, x, tokens, message):
    with pytest.raises(DataError, match=message):
        skewed(data_of(x, tokens=tokens), skew, 7)


def test_half_turns_and_other_angles_take_any_image():
    data = data_of(images(side=(4, 6)))
    made = skewed(data, Rotation(angles=(180.0, 10.0)), 7)
    np.testing.assert_array_equal(made.x[made.samples_of(0)], data.x[data.samples_of(0)][..., ::-1, ::-1])


@pytest.mark.parametrize(
    "make", [lambda: Noise(level=-1.0), lambda: Noise(level=float("nan")), lambda: Rotation(angles=())]
)
def test_impossible_values_are_refused(make):
    with pytest.raises(PolicyError):
        make()
