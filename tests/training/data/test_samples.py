"""How samples are kept, and what a model gets."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from evsim.base.errors import DataError
from evsim.training.data import samples
from evsim.training.data.base import FederatedData
from evsim.training.data.gathered import Gathered, Pages, select
from evsim.training.data.label_flip import LabelFlip
from evsim.training.data.samples import Inputs, TrainingData, ready
from evsim.training.data.transforms.images import Flip

CPU = torch.device("cpu")


def federated(x, *, tokens=None):
    n = len(x)
    y = np.arange(n) % 2
    return FederatedData(x, y, np.arange(n), np.array([0, n // 2, n]), x, y, 2, tokens, "test")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_byte_becomes_what_dividing_by_255_gives(dtype):
    pixels = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(ready(pixels, dtype), torch.arange(256, dtype=dtype) / 255)


def test_images_stay_bytes_and_batches_are_numbers():
    pixels = np.arange(8 * 4, dtype=np.uint8).reshape(8, 1, 2, 2) * 8
    data = TrainingData.of(federated(pixels), torch.float64, CPU)
    assert isinstance(data.x, Inputs)
    assert (data.x.raw.dtype, data.x.nbytes) == (torch.uint8, 32)
    x, y = data.take(data.rows(np.array([[5, 0], [1, 1]])))
    np.testing.assert_array_equal(x.numpy(), pixels[[[5, 0], [1, 1]]] / 255)
    assert y.tolist() == [[1, 0], [1, 1]]
    assert torch.equal(data.x[2:4], data.x[torch.tensor([2, 3])])


def test_token_ids_of_any_integer_type_are_int64_for_the_model_and_never_divided():
    ids = np.array([[0, 200], [3, 4]], np.uint8)
    for x in (ids, Gathered(ids), *(Gathered(ids.astype(kind)) for kind in (np.uint16, np.uint32, np.int64))):
        data = TrainingData.of(federated(x, tokens=201), torch.float32, CPU)
        batch, _ = data.take(data.rows(np.array([0])))
        assert (batch.dtype, batch.tolist()) == (torch.int64, [[0, 200]])
        assert data.x[:1].tolist() == [[0, 200]]


@pytest.mark.parametrize("kind", [np.int64, np.int32, np.uint16])
def test_whole_numbers_that_are_no_bytes_are_never_divided(kind):
    x = np.array([[1, 300]], kind)
    for values in (x, Gathered(x)):
        assert TrainingData.of(federated(values), torch.float32, CPU).x[:].tolist() == [[1, 300]]


def test_floats_in_memory_are_a_plain_tensor():
    data = TrainingData.of(federated(np.zeros((4, 2), np.float32)), torch.float32, CPU)
    assert isinstance(data.x, torch.Tensor)


def test_rows_that_are_read_later_are_those_of_the_array():
    base = np.arange(20).reshape(10, 2)
    rows = Gathered(base).select(np.array([9, 1, 4])).select(np.array([2, 0]))
    assert (rows.shape, len(rows), rows.nbytes, rows.dtype) == ((2, 2), 2, 32, base.dtype)
    np.testing.assert_array_equal(rows[:], base[[4, 9]])
    np.testing.assert_array_equal(rows[np.array([[1], [0]])], base[[[9], [4]]])
    np.testing.assert_array_equal(select(base, np.array([3])), base[[3]])


@pytest.mark.parametrize("posix", [True, False])
def test_rows_of_a_file_are_read_in_any_order_and_shape(tmp_path, monkeypatch, posix):
    if not posix:
        monkeypatch.delattr("os.preadv")
    content = np.arange(300 * 6, dtype=np.int32).reshape(300, 2, 3)
    np.save(tmp_path / "x.npy", content)
    pages = Pages(tmp_path / "x.npy")
    rows = Gathered(pages.array, pages=pages)
    lists = [np.array(each, np.int64) for each in ([200, 3, 4, 5, 299, 0], [[1, 2], [2, 1]], [], [-1])]
    for key in (*lists, slice(10, 20), slice(None), slice(5, 5)):
        np.testing.assert_array_equal(rows[key], content[key])
        np.testing.assert_array_equal(rows.select(np.arange(300)[::-1])[key], content[::-1][key])


def test_a_file_that_was_cut_after_it_was_opened_is_said(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((100, 100)))
    pages = Pages(tmp_path / "x.npy")
    with (tmp_path / "x.npy").open("r+b") as file:
        file.truncate(4096)
    with pytest.raises(DataError, match=r"x\.npy: ends at byte .*import it again"):
        pages.read(np.array([3, 50]))


def test_flipped_labels_copy_no_rows_that_are_read_later():
    base = np.arange(20, dtype=np.float32).reshape(10, 2)
    flipped = LabelFlip(share=1.0).transform(federated(Gathered(base)), 0)
    plain = LabelFlip(share=1.0).transform(federated(base), 0)
    assert isinstance(flipped.x, Gathered)
    assert flipped.x.base is base
    np.testing.assert_array_equal(flipped.x[:], plain.x)
    np.testing.assert_array_equal(flipped.y, plain.y)


@pytest.mark.parametrize("block", [1, 3 * 4 * 12, 1 << 22], ids=["a step", "three steps", "all"])
@pytest.mark.parametrize("kind", ["memory", "file"])
def test_the_steps_of_a_task_are_gathered_together_as_they_are_alone(tmp_path, monkeypatch, kind, block):
    monkeypatch.setattr(samples, "_BLOCK", block)
    content = np.random.default_rng(0).integers(0, 256, (50, 3, 2, 2), np.uint8)
    np.save(tmp_path / "x.npy", content)
    pages = Pages(tmp_path / "x.npy")
    stored = Gathered(pages.array, pages=pages) if kind == "file" else Gathered(content)
    x = Inputs(stored, torch.float32, (Flip(),))
    data = TrainingData(x, torch.arange(50), np.arange(50), np.array([0, 50]))
    rows, keys = np.random.default_rng(1).integers(0, 50, (7, 4)), np.arange(7)
    found = [batch for some in data.blocks(rows, keys) for batch in zip(*some, strict=True)]
    near, places = data.near(rows)
    assert (near is data) == (kind == "memory")
    assert len(found) == 7
    for step, (inputs, labels) in enumerate(found):
        for expected in (data.take(data.rows(rows[step]), keys[step]), near.take(near.rows(places[step]), keys[step])):
            assert torch.equal(inputs, expected[0])
            assert torch.equal(labels, expected[1])


def test_rows_of_a_client_are_one_call_whatever_their_order(tmp_path, monkeypatch):
    np.save(tmp_path / "x.npy", np.arange(60).reshape(20, 3))
    pages, calls = Pages(tmp_path / "x.npy"), []
    fill = pages._fill
    monkeypatch.setattr(pages, "_fill", lambda content, at: (calls.append(at), fill(content, at)))
    rows = np.random.default_rng(0).permutation(np.arange(5, 15))
    np.testing.assert_array_equal(pages.read(rows), pages.array[rows])
    assert len(calls) == 1
