"""Any importer, given any content under the names that it looks for: a store, or one sentence."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import warnings
from itertools import product

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from evsim.base.errors import DataError, EvsimError
from evsim.training.data.importing import import_data
from evsim.training.data.store import open_store, verify

NAMES = {
    "leaf": ["a.json"],
    "cifar": ["data_batch_1", "test_batch"],
    "idx": [f"{part}-{what}-ubyte" for part in ("train", "t10k") for what in ("images-idx3", "labels-idx1")],
    "image_folder": ["c/a.png"],
    "fedscale": ["client_data_mapping/train.csv", "a.png", "a.npy"],
    "huggingface": ["train.parquet"],
    "table": ["a.csv"],
    "numpy": ["x.npy", "y.npy", "client.npy"],
    "speech_commands": ["yes/ab_nohash_0.wav"],
}


def npy(array):
    held = io.BytesIO()
    np.save(held, array, allow_pickle=True)
    return held.getvalue()


def parquet(**columns):
    held = io.BytesIO()
    pq.write_table(pa.table(columns), held)
    return held.getvalue()


def users(**data):
    content = {user: {"x": x, "y": y} for user, (x, y) in data.items()}
    return json.dumps({"users": list(data), "num_samples": [], "user_data": content}).encode()


HEADER = b"client_id,sample_path,label_name,label_id\n"
CONTENTS = [
    *(b"", b"hello\nworld\n", bytes(range(256)), b"[1, 2]", b"{}", b"null"),
    *(gzip.compress(bytes(50), mtime=0), gzip.compress(bytes(50), mtime=0)[:-6]),
    *(users(), users(a=([None], [0])), users(a=([[1.0]], [None])), users(a=(["ab"], ["cd"])), users(a=([""], ["c"]))),
    *(users(a=(["ab", 3], ["c", 1])), users(a=([["1", "t"]], ["c"])), users(a=([[1.0]], [[0, 1]]))),
    *(pickle.dumps(each, 2) for each in ([1], {"data": [1], "labels": [0]})),
    pickle.dumps({"data": np.zeros((2, 3072), np.uint8), "labels": [0]}, 2),
    *(b"label,a\n0,x\n", b"label,a\n0,\n", b"label\n1\n", b"1,2,3\n4,5,6\n", b"label,a\n0,2020-01-01\n"),
    *(b"label;a\n0;1\n", b"label,a\n", b"label,a,a\n0,1,2\n", b"label,a\n0,inf\n", b"label,a\n-1,1\n"),
    *(HEADER + row for row in (b"", b"1,a.png,x,0\n", b"1,a.npy,x\n", b"1,,x,0\n")),
    *(npy(each) for each in (np.float64(3), np.arange(3), np.array([{}]), np.array(["a", "b"]), np.zeros((0, 3)))),
    *(npy(np.zeros(3, kind)) for kind in (complex, "M8[s]", [("a", "i4")], "S2")),
    *(npy(np.zeros((3, 2), kind)) for kind in (float, bool)),
    *(parquet(label=[0, 1], x=x) for x in ([{"a": 1}] * 2, [b"ab", b"cd"], [[1, 2], None], [[[1, 2]], [[3]]])),
    *(parquet(label=[[0], [1]], x=[1.0, 2.0]), parquet(label=[0.5, None], x=[1.0, 2.0])),
]


@pytest.mark.parametrize("kind", NAMES)
def test_any_content_becomes_a_store_or_a_sentence(tmp_path, kind):
    for number, content in enumerate(CONTENTS):
        folder, out = tmp_path / str(number), tmp_path / f"{number}-out"
        for name in NAMES[kind]:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
        for source in (folder, folder / NAMES[kind][0]):
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # of libraries, about what they were given
                    import_data(kind, str(source), out)
            except EvsimError:
                assert not out.exists()
                continue
            verify(out)
            store = open_store(out)
            assert store.y.min() >= 0
            assert store.y.max() < store.n_classes
            out.rename(tmp_path / f"{number}-{source.name}-done")


@pytest.mark.parametrize("shape", [(), (3,), (2,), (3, 2)])
def test_numpy_columns_of_any_type_and_shape_become_a_store_or_a_sentence(tmp_path, shape):
    kinds = ("f4", "i8", "u1", "?", "c16", "M8[s]", "S1", "U1", "i4,i4")
    for number, (x, y) in enumerate(product(kinds, kinds)):
        held = {"x": np.zeros((3, 2), x), "y": np.zeros(3, "i8"), "client": np.zeros(shape, y)}
        if number % 2:
            held = {"x": np.zeros((3, 2), x), "y": np.zeros(shape, y)}
        np.savez(tmp_path / "a.npz", **held)
        good = (
            shape == (3,) and x in ("f4", "i8", "u1", "?") and y in ("f4", "i8", "u1", "S1", "U1", *"?"[: number % 2])
        )
        several = number % 2 and shape == (3, 2) and x in ("f4", "i8", "u1", "?") and y in ("f4", "i8", "u1", "?")
        if good or several:  # several labels of a sample are flags, steps or numbers
            import_data("numpy", str(tmp_path / "a.npz"), tmp_path / str(number))
            verify(tmp_path / str(number))
        else:
            with pytest.raises(DataError):
                import_data("numpy", str(tmp_path / "a.npz"), tmp_path / str(number))
