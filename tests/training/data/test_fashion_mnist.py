"""Fashion-MNIST from where Debian puts it, or any folder of idx files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from evsim.base.errors import DataError
from evsim.training.data.fashion_mnist import DEBIAN, FashionMnist
from tests.training.data.test_importers import PIXELS, write_idx


def load(folder, **options):
    return FashionMnist(**options).load(n_clients=None, seed=0, folder=folder)


def test_images_stay_bytes_and_the_test_set_is_its_own(tmp_path):
    write_idx(tmp_path / "f")
    samples = load(tmp_path, path="f")
    assert (samples.x.dtype, samples.x.shape, samples.n_classes) == (np.uint8, (6, 1, 28, 28), 6)
    np.testing.assert_array_equal(samples.x[:, 0], PIXELS)
    assert samples.is_test.tolist() == [False] * 4 + [True] * 2


def test_its_absence_says_how_to_install_it(tmp_path):
    with pytest.raises(DataError, match="sudo apt install dataset-fashion-mnist; or set path"):
        load(tmp_path, path="nowhere")
    assert FashionMnist().path == DEBIAN


@pytest.mark.skipif(not Path(DEBIAN).is_dir(), reason="the package dataset-fashion-mnist is not installed")
def test_the_debian_package_is_read(tmp_path):
    samples = load(tmp_path)
    assert (samples.x.shape, samples.n_classes, int(samples.is_test.sum())) == ((70_000, 1, 28, 28), 10, 10_000)
