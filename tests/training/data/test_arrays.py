"""Data of the user's own, good and bad."""

from __future__ import annotations

import zipfile

import numpy as np
import pytest

from evsim.base.errors import DataError
from evsim.training.data import gathered
from evsim.training.data.arrays import Arrays
from evsim.training.data.base import federate
from evsim.training.data.partition import Iid, Natural


def save(tmp_path, name="a.npz", **arrays):
    folder = tmp_path / "mine"
    folder.mkdir(exist_ok=True)
    np.savez(folder / name, **arrays)
    return folder


def load(tmp_path, **options):
    return Arrays(path="mine", **options).load(n_clients=None, seed=0, folder=tmp_path)


def test_files_are_joined_in_the_order_of_their_names(tmp_path):
    save(tmp_path, "b.npz", x=np.full((1, 2), 2.0), y=np.array([2]), client=np.array(["ann"]))
    save(tmp_path, "a.npz", x=np.zeros((2, 2)), y=np.array([0, 1]), client=np.array(["bob", "ann"]))
    samples = load(tmp_path)
    assert samples.x.dtype == np.float32
    np.testing.assert_array_equal(samples.x[:, 0], [0, 0, 2])
    np.testing.assert_array_equal(samples.y, [0, 1, 2])
    np.testing.assert_array_equal(samples.groups, [1, 0, 0])
    assert (samples.n_classes, samples.n_tokens, samples.name) == (3, None, "mine")


def test_integers_are_token_ids_and_the_client_column_is_optional(tmp_path):
    save(tmp_path, x=np.array([[0, 7], [1, 2]], np.uint8), y=np.array([0, 1]))
    samples = load(tmp_path)
    assert (samples.x.dtype, samples.n_tokens, samples.groups) == (np.int64, 8, None)


def test_one_file_may_be_the_test_set(tmp_path):
    save(tmp_path, "test.npz", x=np.full((2, 1), 9.0), y=np.array([0, 1]))
    save(tmp_path, "train.npz", x=np.zeros((4, 1)), y=np.array([0, 1, 0, 1]), client=np.array([5, 3, 3, 3]))
    dataset = Arrays(path="mine", test="test.npz")
    data = federate(dataset, Natural(), test_fraction=0.5, n_clients=None, seed=0, folder=tmp_path)
    np.testing.assert_array_equal(data.x_test[:, 0], [9, 9])
    np.testing.assert_array_equal(data.sizes, [3, 1])
    assert federate(dataset, Iid(), test_fraction=0.5, n_clients=3, seed=0, folder=tmp_path).sizes.sum() == 4
    with pytest.raises(DataError, match=r"no file 'other\.npz'; expected one of test\.npz, train\.npz"):
        load(tmp_path, test="other.npz")


x, y = np.zeros((2, 1)), np.array([0, 1])


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"x": x}, "has no array 'y'"),
        ({"y": y}, "has no array 'x'"),
        ({"x": x, "label": y}, r"has no array 'y'; expected x, y .*known: label, x"),
        ({"x": x, "y": y, "client": y, "clients": y}, "both arrays 'client' and 'clients'"),
        ({"x": np.zeros((2, 4, 4), int), "y": y}, "expected images in uint8 or floats; if these are token ids, say"),
        ({"x": x, "y": y[:1]}, r"arrays differ in length \(x: 2, y: 1\)"),
        ({"x": x, "y": y + 0.5}, r"y holds 0\.5 at sample 0; expected whole numbers"),
        ({"x": x, "y": np.array([0, np.nan])}, "y holds nan at sample 1; expected whole numbers"),
        ({"x": x, "y": np.array(["a", "b"])}, "y holds <U1 of shape .*expected whole numbers from 0, the labels"),
        ({"x": x, "y": y[:, None]}, r"y holds int64 of shape \(2, 1\)"),
        ({"x": np.array(["a", "b"]), "y": y}, "x holds <U1"),
        ({"x": x + 0j, "y": y}, "x holds complex128"),
        ({"x": np.float64(1), "y": y}, r"x holds float64 of shape \(\)"),
        ({"x": x, "y": y, "client": x[:, 0] + 0.5}, r"client holds 0\.5 at sample 0; expected whole numbers"),
        ({"x": x, "y": y - 1}, "label -1 of sample 0; expected labels 0, 1, 2"),
        ({"x": x, "y": y * 10**9}, "label 1000000000 among 2 samples"),
        ({"x": x + np.inf, "y": y}, "not finite"),
        ({"x": x + 1e300, "y": y}, "not finite"),
        ({"x": x.astype(int) - 1, "y": y}, "token id -1"),
        ({"x": x[:0], "y": y[:0]}, "at least one"),
        ({"x": np.array([{}, {}]), "y": y}, "without pickles"),
    ],
)
def test_arrays_that_do_not_serve_are_refused(tmp_path, arrays, said):
    save(tmp_path, **arrays)
    with pytest.raises(DataError, match=said):
        load(tmp_path)


def test_files_that_do_not_fit_together_are_refused(tmp_path):
    save(tmp_path, "a.npz", x=x, y=y)
    save(tmp_path, "b.npz", x=np.zeros((2, 3)), y=y)
    with pytest.raises(DataError, match="do not fit together"):
        load(tmp_path)
    save(tmp_path, "b.npz", x=x, y=y, client=y)
    with pytest.raises(DataError, match="some files have an array 'client'"):
        load(tmp_path)
    save(tmp_path, "a.npz", x=x, y=y, client=np.array(["1", "2"]))
    with pytest.raises(DataError, match="integers in some files and texts in others"):
        load(tmp_path)


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04 cut short"])
def test_a_broken_file_is_named(tmp_path, content):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a.npz").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.npz: is no \.npz archive"):
        load(tmp_path)


def test_a_damaged_array_and_a_single_array_are_refused(tmp_path):
    folder = save(tmp_path, x=np.arange(1000.0), y=np.zeros(1000, int))
    whole = bytearray((folder / "a.npz").read_bytes())
    whole[2000] ^= 0xFF
    (folder / "a.npz").write_bytes(whole)
    assert zipfile.is_zipfile(folder / "a.npz")
    with pytest.raises(DataError, match=r"a\.npz: cannot be read"):
        load(tmp_path)
    with (folder / "a.npz").open("wb") as file:
        np.save(file, x)
    with pytest.raises(DataError, match=r"is no \.npz archive"):
        load(tmp_path)


def test_a_missing_or_empty_folder_is_named(tmp_path):
    with pytest.raises(DataError, match="'mine' is no folder"):
        load(tmp_path)
    (tmp_path / "mine").mkdir()
    with pytest.raises(DataError, match=r"'mine' holds no \.npz file"):
        load(tmp_path)


def test_the_path_may_lead_anywhere(tmp_path):
    folder = save(tmp_path, x=x, y=y)
    (tmp_path / "scenarios").mkdir()
    for path in ("../mine", str(folder)):
        assert len(Arrays(path=path).load(n_clients=None, seed=0, folder=tmp_path / "scenarios").y) == 2


@pytest.mark.parametrize("name", ["client", "clients"])
@pytest.mark.parametrize("kind", [np.int64, np.uint8, np.float32, np.float64])
def test_labels_and_clients_may_be_whole_numbers_of_any_type(tmp_path, name, kind):
    save(tmp_path, x=np.zeros((4, 2)), y=np.array([0, 2, 1, 2], kind), **{name: np.array([5, 3, 3, 5], kind)})
    samples = load(tmp_path)
    assert samples.y.dtype == np.int64
    np.testing.assert_array_equal(samples.y, [0, 2, 1, 2])
    np.testing.assert_array_equal(samples.groups, [1, 0, 0, 1])


@pytest.mark.parametrize(
    ("shape", "kept"), [((5, 6), (1, 5, 6)), ((5, 6, 3), (3, 5, 6)), ((3, 5, 6), (3, 5, 6)), ((6, 5, 1), (1, 6, 5))]
)
def test_images_in_bytes_stay_bytes_and_get_channels_first(tmp_path, shape, kept):
    images = np.arange(2 * np.prod(shape)).astype(np.uint8).reshape(2, *shape)
    save(tmp_path, x=images, y=y)
    samples = load(tmp_path)
    assert (samples.x.dtype, samples.x.shape, samples.n_tokens) == (np.uint8, (2, *kept), None)
    assert sorted(samples.x.ravel()) == sorted(images.ravel())


def test_what_integers_are_can_be_said(tmp_path):
    pixels = np.array([[0, 7], [1, 2]], np.uint8)
    save(tmp_path, x=pixels, y=y)
    assert load(tmp_path, inputs="numbers").x.dtype == np.uint8
    assert load(tmp_path, inputs="tokens").n_tokens == 8
    save(tmp_path, x=pixels.astype(float), y=y)
    assert load(tmp_path, inputs="tokens").n_tokens == 8
    save(tmp_path, x=pixels.astype(int), y=y)
    with pytest.raises(DataError, match="x holds int64; expected uint8"):
        load(tmp_path, inputs="numbers")


# -- large arrays that are not packed are mapped -----------------------------------------------------------------------


def big(tmp_path, save_as=np.savez):
    (tmp_path / "mine").mkdir()
    x = np.random.default_rng(0).integers(0, 256, (600, 3, 32, 32), np.uint8)  # 1.8 MB
    save_as(tmp_path / "mine" / "a.npz", x=x, y=np.arange(600) % 3)
    return x


@pytest.mark.parametrize(("save_as", "mapped"), [(np.savez, True), (np.savez_compressed, False)])
def test_a_large_array_is_mapped_where_it_is_not_packed(tmp_path, save_as, mapped):
    x = big(tmp_path, save_as)
    samples = load(tmp_path)
    np.testing.assert_array_equal(samples.x, x)
    assert samples.x.flags.writeable != mapped


def test_a_mapped_array_in_fortrans_order_is_read(tmp_path):
    (tmp_path / "mine").mkdir()
    x = np.asfortranarray(np.random.default_rng(0).random((2_000, 200), np.float32))
    np.savez(tmp_path / "mine" / "a.npz", x=x, y=np.arange(2_000) % 3)
    np.testing.assert_array_equal(load(tmp_path).x, x)


def test_a_mapped_array_that_was_damaged_is_refused(tmp_path):
    big(tmp_path)
    file = tmp_path / "mine" / "a.npz"
    content = bytearray(file.read_bytes())
    content[900_000] ^= 1
    file.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.npz: cannot be read as \.npz without pickles: Bad CRC-32 for file 'x"):
        load(tmp_path)


def test_large_arrays_are_dealt_without_a_copy(tmp_path, monkeypatch):
    x = big(tmp_path)
    plain = federate(Arrays(path="mine"), Iid(), test_fraction=0.2, n_clients=5, seed=0, folder=tmp_path)
    monkeypatch.setattr(gathered, "_COPIED", 1 << 20)
    later = federate(Arrays(path="mine"), Iid(), test_fraction=0.2, n_clients=5, seed=0, folder=tmp_path)
    assert isinstance(later.x, gathered.Gathered)
    assert later.digest() == plain.digest()
    np.testing.assert_array_equal(later.x[later.samples_of(3)], plain.x[plain.samples_of(3)])
    assert later.x.nbytes + later.x_test.nbytes == x.nbytes
