"""Importers, on small files of the true format that the tests make."""

from __future__ import annotations

import gzip
import json
import pickle
import struct
import sys

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from evsim.base import registry
from evsim.base.errors import DataError, MissingExtraError
from evsim.training.data.importing import import_data
from evsim.training.data.store import Store, open_store

DRAW = np.random.default_rng(0)
PIXELS = DRAW.integers(0, 256, (6, 28, 28)).astype(np.uint8)


def imported(kind, source, tmp_path, **options):
    import_data(kind, str(source), tmp_path / "out", options=options)
    return open_store(tmp_path / "out")


def refused(kind, source, tmp_path, said, **options):
    with pytest.raises(DataError, match=said):
        imported(kind, source, tmp_path, **options)
    assert not (tmp_path / "out").exists()


def shape_of(store):
    return store.manifest["inputs"], tuple(store.manifest["shape"]), store.n_classes, store.n_test


def write_json(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def write_png(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.mark.parametrize("kind", registry.built_in("data_format"))
def test_every_format_says_when_there_is_nothing(tmp_path, kind):
    said = "cannot load 'no_such_module:x'" if kind == "torch" else r"nowhere: no such file or folder; expected"
    refused(kind, "no_such_module:x" if kind == "torch" else tmp_path / "nowhere", tmp_path, said)


def test_formats_and_options_that_are_not_known_are_told_together(tmp_path):
    refused("leef", tmp_path, tmp_path, "'leef' is no format of data; did you mean 'leaf'")
    said = (
        r"2 problems\n.*-o lenght: no option of this format; did you mean 'length'.*\n.*-o drop_empty: 1; expected bool"
    )
    refused("leaf", tmp_path, tmp_path, said, lenght=3, drop_empty=1)


# -- LEAF ------------------------------------------------------------------------------------------------------------


def leaf(users):
    return {
        "users": list(users),
        "num_samples": [len(x) for x, _ in users.values()],
        "user_data": {user: {"x": x, "y": y} for user, (x, y) in users.items()},
        "hierarchies": ["" for _ in users],
    }


def test_leaf_images_are_bytes_and_clients_are_users(tmp_path):
    floats = (PIXELS.reshape(6, 784) / 255.0).tolist()
    write_json(tmp_path / "f/data/train/a.json", leaf({"f1_00": (floats[:2], [3, 61]), "f0_01": (floats[2:3], [0])}))
    write_json(tmp_path / "f/data/train/b.json", leaf({"f2_00": (floats[3:5], [1, 1])}))
    write_json(tmp_path / "f/data/test/a.json", leaf({"f1_00": (floats[5:], [2]), "f0_01": ([], [])}))
    store = imported("leaf", tmp_path / "f", tmp_path)
    assert shape_of(store) == ("images", (1, 28, 28), 62, 1)
    assert store.names()["clients"] == ["f0_01", "f1_00", "f2_00"]
    np.testing.assert_array_equal(store.pages.array[:, 0], PIXELS[[2, 0, 1, 3, 4, 5]])
    assert store.y.tolist() == [0, 3, 61, 1, 1, 2]


def test_leaf_texts_become_tokens_and_labels_the_next_one(tmp_path):
    write_json(
        tmp_path / "f/all_data.json", leaf({"HAMLET": (["to be", "o be "], [" ", "o"]), "OPHELIA": (["alas!"], [" "])})
    )
    store = imported("leaf", tmp_path / "f", tmp_path)
    names = store.names()
    text = ["".join(names["tokens"][token] for token in row) for row in store.pages.array]
    assert text == ["to be", "o be ", "alas!"]
    assert [names["labels"][label] for label in store.y] == [" ", "o", " "]
    assert store.n_classes == store.n_tokens == len(set("to be alas!"))


def test_leaf_texts_of_unequal_length_are_refused_or_filled_up(tmp_path):
    write_json(tmp_path / "f/a.json", leaf({"ann": (["good", "bad"], [1, 0])}))
    refused("leaf", tmp_path / "f", tmp_path, "sample 1 has 3 characters, sample 0 has 4.*-o length=N")
    store = imported("leaf", tmp_path / "f", tmp_path, length=4)
    assert store.pages.array[1, 0] == 0
    assert (store.pages.array[0] > 0).all()
    assert store.y.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("users", "said"),
    [
        ({"a": ([[1.0]], [5.5])}, r"y holds 5\.5 at sample 0"),
        ({"a": ([[1.0]], [-1])}, "label -1 of sample 0"),
        ({"a": ([[1.0]], [0]), "b": ([], [])}, "user 'b' has no samples; -o drop_empty=true"),
        ({"a": ([[1.0], [2.0]], [0])}, "user 'a' has 2 inputs and 1 labels"),
        ({"a": ([[1.0], [2.0, 3.0]], [0, 1])}, "inputs of unequal length"),
    ],
)
def test_leaf_files_that_do_not_serve_are_refused(tmp_path, users, said):
    write_json(tmp_path / "f/a.json", leaf(users))
    refused("leaf", tmp_path / "f", tmp_path, said)


def test_leaf_floats_that_are_whole_are_labels_and_empty_users_can_be_left_out(tmp_path):
    write_json(tmp_path / "f/a.json", leaf({"a": ([[1.5, 2.0]], [5.0]), "b": ([], [])}))
    store = imported("leaf", tmp_path / "f", tmp_path, drop_empty=True)
    assert (shape_of(store), store.y.tolist()) == (("numbers", (2,), 6, 0), [5])
    (tmp_path / "g").mkdir()
    (tmp_path / "g/a.json").write_text("[", encoding="utf-8")
    with pytest.raises(DataError, match=r"a\.json: line 1, column 2: not valid JSON"):
        import_data("leaf", str(tmp_path / "g"), tmp_path / "out2")


# -- CIFAR -----------------------------------------------------------------------------------------------------------


class Python2Pickler(pickle._Pickler):
    """Writes bytes as Python 2 wrote texts."""

    dispatch = dict(pickle._Pickler.dispatch)  # noqa: RUF012  as the base class has it

    def save_bytes(self, value):
        self.write(pickle.BINSTRING + struct.pack("<i", len(value)) + value)

    dispatch[bytes] = save_bytes


def write_pickle(path, content, pickler=Python2Pickler):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        pickler(file, protocol=2).dump(content)


@pytest.mark.parametrize("pickler", [Python2Pickler, pickle._Pickler])
def test_cifar_10_batches_are_read(tmp_path, pickler):
    folder = tmp_path / "d/cifar-10-batches-py"
    data = DRAW.integers(0, 256, (12, 3072)).astype(np.uint8)
    for batch in range(5):
        rows = slice(2 * batch, 2 * batch + 2)
        write_pickle(folder / f"data_batch_{batch + 1}", {b"data": data[rows], b"labels": [batch, 9]}, pickler)
    write_pickle(folder / "test_batch", {b"data": data[10:], b"labels": [0, 1], b"filenames": [b"a", b"b"]}, pickler)
    write_pickle(folder / "batches.meta", {b"label_names": [f"n{each}".encode() for each in range(10)]}, pickler)
    store = imported("cifar", tmp_path / "d", tmp_path)
    assert shape_of(store) == ("images", (3, 32, 32), 10, 2)
    np.testing.assert_array_equal(store.pages.array.reshape(12, 3072), data)
    assert store.y.tolist() == [0, 9, 1, 9, 2, 9, 3, 9, 4, 9, 0, 1]
    assert store.names()["labels"][3] == "n3"


def test_cifar_100_has_two_kinds_of_labels(tmp_path):
    content = {b"data": np.zeros((2, 3072), np.uint8), b"fine_labels": [99, 3], b"coarse_labels": [19, 4]}
    for name in ("train", "test"):
        write_pickle(tmp_path / "cifar-100-python" / name, content)
    assert imported("cifar", tmp_path, tmp_path).y.tolist() == [99, 3, 99, 3]
    import_data("cifar", str(tmp_path), tmp_path / "coarse", options={"labels": "coarse", "by": "coarse"})
    store = open_store(tmp_path / "coarse")
    assert store.y.tolist() == [4, 19, 19, 4]
    assert store.names()["clients"] == ["4", "19"]


class Evil:
    def __reduce__(self):
        return print, ("run",)


def test_a_pickle_that_is_a_program_is_refused(tmp_path, capsys):
    write_pickle(tmp_path / "data_batch_1", {b"data": Evil()}, pickle._Pickler)
    write_pickle(tmp_path / "test_batch", {})
    refused("cifar", tmp_path, tmp_path, "asks for __builtin__.print")
    assert "run" not in capsys.readouterr().out
    write_pickle(tmp_path / "data_batch_1", {b"data": np.zeros((1, 12), np.uint8), b"labels": [0]})
    refused("cifar", tmp_path, tmp_path, r"data holds uint8 of shape \(1, 12\); expected uint8 \(n, 3072\)")
    write_pickle(tmp_path / "data_batch_1", {b"data": np.zeros((1, 3072), np.uint8)})
    refused("cifar", tmp_path, tmp_path, "lacks labels")
    (tmp_path / "test_batch").unlink()
    refused("cifar", tmp_path, tmp_path, "no such file or folder; expected the test set")


# -- idx -------------------------------------------------------------------------------------------------------------


def idx(array):
    code = {1: 0x08, 4: 0x0D}[array.dtype.itemsize]
    head = struct.pack(f">HBB{array.ndim}I", 0, code, array.ndim, *array.shape)
    return head + array.astype(array.dtype.newbyteorder(">")).tobytes()


def write_idx(folder, pack=bytes, ending=""):
    folder.mkdir(exist_ok=True)
    for part, rows in (("train", slice(4)), ("t10k", slice(4, 6))):
        (folder / f"{part}-images-idx3-ubyte{ending}").write_bytes(pack(idx(PIXELS[rows])))
        (folder / f"{part}-labels-idx1-ubyte{ending}").write_bytes(pack(idx(np.arange(6, dtype=np.uint8)[rows])))
    return folder


@pytest.mark.parametrize(("pack", "ending"), [(bytes, ""), (gzip.compress, ".gz")])
def test_idx_files_are_read_plain_or_packed(tmp_path, pack, ending):
    store = imported("idx", write_idx(tmp_path / "f", pack, ending), tmp_path)
    assert shape_of(store) == ("images", (1, 28, 28), 6, 2)
    np.testing.assert_array_equal(store.pages.array[:, 0], PIXELS)
    import_data("idx", str(tmp_path / "f"), tmp_path / "t", options={"transposed": True})
    np.testing.assert_array_equal(open_store(tmp_path / "t").pages.array[:, 0], PIXELS.swapaxes(1, 2))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "no file train-labels-idx1-ubyte .plain or .gz.; there is: t10k"),
        (b"", "is no idx file .it begins with nothing"),
        (b"GIF8", "is no idx file .it begins with 47494638"),
        (idx(np.zeros(4, np.uint8))[:-1], r"3 bytes of values; expected 4 for shape \(4,\): is it cut short"),
        (idx(np.zeros(3, np.uint8)), "has 4 images and train-labels-idx1-ubyte 3 labels"),
        (gzip.compress(idx(np.zeros(4, np.uint8)), mtime=0)[:-5], "cannot be read"),
    ],
)
def test_idx_files_that_do_not_serve_are_refused(tmp_path, content, said):
    folder = write_idx(tmp_path / "f")
    (folder / "train-labels-idx1-ubyte").unlink()
    if content is not None:
        (folder / "train-labels-idx1-ubyte").write_bytes(content)
    refused("idx", folder, tmp_path, said)


# -- images ----------------------------------------------------------------------------------------------------------


def test_an_image_folder_has_a_label_per_folder(tmp_path):
    for part, rows in (("train", range(4)), ("test", range(4, 6))):
        for row in rows:
            write_png(tmp_path / "f" / part / ("cat", "dog")[row % 2] / f"{row}.png", PIXELS[row])
    store = imported("image_folder", tmp_path / "f", tmp_path)
    assert shape_of(store) == ("images", (1, 28, 28), 2, 2)
    assert store.names()["labels"] == ["cat", "dog"]
    np.testing.assert_array_equal(store.pages.array[:, 0], PIXELS[[0, 2, 1, 3, 4, 5]])


def test_an_image_of_another_size_is_named_or_scaled(tmp_path):
    write_png(tmp_path / "f/a/1.png", PIXELS[0])
    write_png(tmp_path / "f/a/2.png", PIXELS[1][:20])
    refused("image_folder", tmp_path / "f", tmp_path, r"2\.png: uint8 of shape \(1, 20, 28\); expected .*\(1, 28, 28\)")
    assert shape_of(imported("image_folder", tmp_path / "f", tmp_path, size=8, colours="RGB"))[1] == (3, 8, 8)


def test_a_csv_file_says_whose_an_image_is(tmp_path):
    for row in range(3):
        write_png(tmp_path / f"f/a/{row}.png", PIXELS[row])
    mapping = tmp_path / "who.csv"
    mapping.write_text("path,client\na/0.png,zoe\na/1.png,ann\na/2.png,zoe\n", encoding="utf-8-sig")
    store = imported("image_folder", tmp_path / "f", tmp_path, clients=str(mapping))
    assert (store.names()["clients"], store.offsets.tolist()) == (["ann", "zoe"], [0, 1, 3])
    mapping.write_text("path,client\na/0.png,zoe\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"no client for 2 of 3 images, the first is a/1\.png"):
        import_data("image_folder", str(tmp_path / "f"), tmp_path / "o2", options={"clients": str(mapping)})


def test_an_image_of_16_bits_is_not_cut_to_8(tmp_path):
    write_png(tmp_path / "f/a/1.png", PIXELS[0].astype(np.uint16) * 256)
    refused("image_folder", tmp_path / "f", tmp_path, r"1\.png: has more than 8 bits per pixel")


def test_what_is_no_image_is_named(tmp_path):
    (tmp_path / "f/a").mkdir(parents=True)
    (tmp_path / "f/a/1.png").write_bytes(b"no image")
    refused("image_folder", tmp_path / "f", tmp_path, r"1\.png: cannot be read as an image")


# -- FedScale --------------------------------------------------------------------------------------------------------

HEADER = "client_id,sample_path,label_name,label_id\n"


def write_mapping(root, rows, split="train"):
    (root / "client_data_mapping").mkdir(parents=True, exist_ok=True)
    (root / "client_data_mapping" / f"{split}.csv").write_text(HEADER + rows, encoding="utf-8")


def test_fedscale_mappings_name_images_even_twice(tmp_path):
    root = tmp_path / "femnist"
    for row in range(3):
        write_png(root / f"img/{row}.png", PIXELS[row])
    write_mapping(root, "10,img/0.png,zero,0\n9,img/1.png,one,1\n10,img/1.png,one,1\n")
    write_mapping(root, "9,img/2.png,two,2\n", "test")
    store = imported("fedscale", root, tmp_path, colours="L")
    assert shape_of(store) == ("images", (1, 28, 28), 3, 1)
    assert store.names()["clients"] == ["9", "10"]
    np.testing.assert_array_equal(store.pages.array[:, 0], PIXELS[[1, 0, 1, 2]])


def test_fedscale_samples_may_be_arrays_in_the_folder_of_the_split(tmp_path):
    root = tmp_path / "d"
    (root / "train").mkdir(parents=True)
    np.save(root / "train/a.npy", np.ones((2, 3), np.float32))
    write_mapping(root, "c,a.npy,cat,0\n")
    store = imported("fedscale", root, tmp_path)
    assert (store.manifest["shape"], store.pages.array.sum(), store.n_test) == ([2, 3], 6, 0)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ("", "holds no sample"),
        ("1,img/gone.png,a,0\n", "names img/gone.png, which lies neither"),
        ("1,img/0.png,a,0\n1,../0.png,a,0\n", "leaves"),
        ("1,img/0.png,a,0\n1,img/gone.png,a,0\n", "gone.png: no such file or folder; expected a file that the mapping"),
    ],
)
def test_fedscale_mappings_that_do_not_serve_are_refused(tmp_path, rows, said):
    write_png(tmp_path / "d/img/0.png", PIXELS[0])
    write_mapping(tmp_path / "d", rows)
    refused("fedscale", tmp_path / "d", tmp_path, said)


# -- tables ----------------------------------------------------------------------------------------------------------


def test_a_csv_file_has_columns_for_inputs_label_and_client(tmp_path):
    (tmp_path / "a.csv").write_text("user,height,width,label\nbo,1,2.5,b\nal,3,4.5,a\nbo,5,6.5,b\n", encoding="utf-8")
    store = imported("table", tmp_path / "a.csv", tmp_path)
    assert shape_of(store) == ("numbers", (2,), 2, 0)
    np.testing.assert_array_equal(store.pages.array, [[3, 4.5], [1, 2.5], [5, 6.5]])
    assert store.names() == {"clients": ["al", "bo"], "labels": ["a", "b"]}


def test_parquet_files_of_a_folder_are_joined_and_one_may_be_the_test_set(tmp_path):
    (tmp_path / "f").mkdir()
    for name, labels in (("train", [0, 1]), ("test", [1])):
        table = pa.table({"features": [[1.0, 2.0]] * len(labels), "y": labels, "client": ["a"] * len(labels)})
        pq.write_table(table, tmp_path / "f" / f"{name}.parquet")
    assert shape_of(imported("table", tmp_path / "f", tmp_path, test="test.parquet")) == ("numbers", (2,), 2, 1)


@pytest.mark.parametrize(
    ("columns", "options", "said"),
    [
        ({"a": [1.0], "b": [2.0]}, {}, "columns a, b; expected one of label, y"),
        ({"a": [1.0], "label": [0]}, {"x": "aa"}, "has no column 'aa'; did you mean 'a'"),
        ({"a": [1.0], "label": [0]}, {"client": "who"}, "has no column 'who'"),
        ({"a": [1.0], "label": pa.array([None], pa.int64())}, {}, "column label is empty in 1 of 1 rows"),
        ({"x": [[1.0], [1.0, 2.0]], "label": [0, 1]}, {}, "lists of unequal length"),
        ({"": [0, 1, 2], "a": [1, 2, 4], "label": [0, 1, 1]}, {}, "column '' counts the rows; .*-o x=a"),
        ({"image": [{"bytes": None, "path": "gone.png"}], "label": [0]}, {}, "gone.png: no such file"),
        ({"text": ["abc", "ab"], "label": [0, 1]}, {}, "sample 1 has 2 characters.*-o length=N"),
        ({"a": [1.0], "label": [0]}, {"test": "b.parquet"}, "-o test: no file 'b.parquet'; expected one of"),
    ],
)
def test_tables_that_do_not_serve_are_refused(tmp_path, columns, options, said):
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    refused("table", tmp_path / "a.parquet", tmp_path, said, **options)


# -- Hugging Face ----------------------------------------------------------------------------------------------------


def png(pixels):
    import io

    held = io.BytesIO()
    Image.fromarray(pixels).save(held, format="png")
    return held.getvalue()


def hub_table(rows):
    features = {
        "image": {"_type": "Image"},
        "writer_id": {"dtype": "string", "_type": "Value"},
        "character": {"names": ["0", "1", "A"], "_type": "ClassLabel"},
    }
    image = pa.array(
        [{"bytes": png(PIXELS[row]), "path": None} for row in rows],
        pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
    )
    columns = {"image": image, "writer_id": [f"w{row % 2}" for row in rows], "character": [row % 3 for row in rows]}
    notes = {b"huggingface": json.dumps({"info": {"features": features}}).encode()}
    return pa.table(columns).replace_schema_metadata(notes)


def save_to_disk(folder, table):
    folder.mkdir(parents=True)
    with pa.ipc.new_stream(folder / "data-00000-of-00001.arrow", table.schema) as file:
        file.write_table(table)
    write_json(
        folder / "state.json", {"_data_files": [{"filename": "data-00000-of-00001.arrow"}], "_split": folder.name}
    )
    write_json(folder / "dataset_info.json", {"features": {}})


def test_a_set_saved_to_disk_is_read_with_its_splits(tmp_path):
    write_json(tmp_path / "h/dataset_dict.json", {"splits": ["train", "test"]})
    save_to_disk(tmp_path / "h/train", hub_table(range(4)))
    save_to_disk(tmp_path / "h/test", hub_table(range(4, 6)))
    store = imported("huggingface", tmp_path / "h", tmp_path)
    assert shape_of(store) == ("images", (1, 28, 28), 3, 2)
    assert store.names() == {"clients": ["w0", "w1"], "labels": ["0", "1", "A"]}
    np.testing.assert_array_equal(store.pages.array[:, 0], PIXELS[[0, 2, 1, 3, 4, 5]])


def test_a_set_without_splits_and_parquet_by_split_are_read(tmp_path):
    save_to_disk(tmp_path / "one", hub_table(range(3)))
    assert shape_of(imported("huggingface", tmp_path / "one", tmp_path))[3] == 0
    (tmp_path / "p/data").mkdir(parents=True)
    pq.write_table(hub_table(range(4)), tmp_path / "p/data/train-00000-of-00001.parquet")
    pq.write_table(hub_table(range(4, 6)), tmp_path / "p/data/test-00000-of-00001.parquet")
    import_data("huggingface", str(tmp_path / "p"), tmp_path / "out2")
    assert shape_of(open_store(tmp_path / "out2")) == ("images", (1, 28, 28), 3, 2)


def test_a_saved_set_that_names_files_outside_or_lacks_a_split_is_refused(tmp_path):
    save_to_disk(tmp_path / "h", hub_table(range(2)))
    refused("huggingface", tmp_path / "h", tmp_path, "has no split 'validation'", train="validation")
    write_json(tmp_path / "h/state.json", {"_data_files": [{"filename": "../x.arrow"}]})
    refused("huggingface", tmp_path / "h", tmp_path, "names x.arrow outside its folder")
    write_json(tmp_path / "h/state.json", {"_data_files": [{"filename": "gone.arrow"}]})
    refused("huggingface", tmp_path / "h", tmp_path, "gone.arrow: no such file")


# -- NumPy and torch -------------------------------------------------------------------------------------------------


def test_numpy_files_are_read_with_a_test_set(tmp_path):
    (tmp_path / "f").mkdir()
    arrays = {"x": PIXELS[:4], "y": np.arange(4), "clients": np.array([3, 1, 3, 1])}
    arrays |= {"x_test": PIXELS[4:], "y_test": np.arange(2)}
    for name, array in arrays.items():
        np.save(tmp_path / "f" / f"{name}.npy", array)
    store = imported("numpy", tmp_path / "f", tmp_path)
    assert shape_of(store) == ("images", (1, 28, 28), 4, 2)
    np.testing.assert_array_equal(store.pages.array[:, 0], PIXELS[[1, 3, 0, 2, 4, 5]])
    np.savez(tmp_path / "a.npz", X=PIXELS, y=np.arange(6))
    with pytest.raises(DataError, match=r"has no array .x.; .*known: X, y"):
        import_data("numpy", str(tmp_path / "a.npz"), tmp_path / "out2")
    import_data("numpy", str(tmp_path / "a.npz"), tmp_path / "out2", options={"x": "X"})
    np.savez(tmp_path / "b.npz", x=np.array([{}]), y=np.arange(1))
    with pytest.raises(DataError, match="cannot be read without pickles"):
        import_data("numpy", str(tmp_path / "b.npz"), tmp_path / "out3")


SET = """
import torch
from torch.utils.data import Dataset, TensorDataset
x = torch.arange(24.0).reshape(6, 1, 2, 2)
class Owned(Dataset):
    def __len__(self): return 6
    def __getitem__(self, i): return x[i], i % 3, "ab"[i % 2]
def owned(): return Owned()
def pair(): return TensorDataset(x[:4], torch.tensor([0, 1, 2, 0])), TensorDataset(x[4:], torch.tensor([1, 2]))
def broken(): raise ValueError("no disk")
def stream(): return iter(())
def single(): return [x[0]]
"""


def test_any_map_style_torch_set_is_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sets.py").write_text(SET, encoding="utf-8")
    store = imported("torch", "sets.py:owned", tmp_path)
    assert shape_of(store) == ("numbers", (1, 2, 2), 3, 0)
    assert store.names()["clients"] == ["a", "b"]
    assert store.pages.array[:, 0, 0, 0].tolist() == [0, 8, 16, 4, 12, 20]
    import_data("torch", "sets.py:pair", tmp_path / "pair")
    assert shape_of(open_store(tmp_path / "pair")) == ("numbers", (1, 2, 2), 3, 2)
    for name, said in (
        ("broken", "no disk"),
        ("stream", "no length"),
        ("single", "expected .input, label"),
        ("gone", "gone"),
    ):
        with pytest.raises(DataError, match=said):
            import_data("torch", f"sets.py:{name}", tmp_path / "none")


# -- Speech Commands -------------------------------------------------------------------------------------------------


def write_wav(path, frequency, rate=16_000):
    from scipy.io import wavfile

    path.parent.mkdir(parents=True, exist_ok=True)
    sound = 20_000 * np.sin(2 * np.pi * frequency * np.arange(rate * 9 // 10) / rate)
    wavfile.write(path, rate, sound.astype(np.int16))


def test_speech_commands_become_spectra_by_speaker(tmp_path):
    for word, frequency in (("yes", 500), ("no", 4000)):
        for speaker in ("00f0204f", "aaaaaaaa"):
            write_wav(tmp_path / "s" / word / f"{speaker}_nohash_0.wav", frequency)
    write_wav(tmp_path / "s/_background_noise_/hum.wav", 50)
    (tmp_path / "s/testing_list.txt").write_text("yes/aaaaaaaa_nohash_0.wav\n", encoding="utf-8")
    store = imported("speech_commands", tmp_path / "s", tmp_path)
    assert shape_of(store) == ("numbers", (1, 32, 98), 2, 1)
    assert store.names() == {"clients": ["00f0204f", "aaaaaaaa"], "labels": ["no", "yes"]}
    loudest = store.pages.array[:2, 0].mean(axis=2).argmax(axis=1)
    centers = 700 * (10 ** (np.linspace(0, 2595 * np.log10(1 + 8000 / 700), 34)[1:-1] / 2595) - 1)
    np.testing.assert_allclose(centers[loudest], [4000, 500], rtol=0.1)
    write_wav(tmp_path / "s/yes/bbbbbbbb_nohash_0.wav", 500, rate=8_000)
    with pytest.raises(DataError, match=r"8000 Hz, int16 .*expected 16000 Hz"):
        import_data("speech_commands", str(tmp_path / "s"), tmp_path / "out2")


# -- TensorFlow Federated --------------------------------------------------------------------------------------------


def test_without_h5py_the_install_line_is_said(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'evsim\[hdf5\]'"):
        registry.load("data_format", "tff").read(str(tmp_path))


def test_hdf5_files_have_a_group_per_client(tmp_path):
    for name, clients in (("fed_emnist_train.h5", {"f1": 2, "f0": 1}), ("fed_emnist_test.h5", {"f1": 1})):
        with h5py.File(tmp_path / name, "w") as file:
            for client, count in clients.items():
                file[f"examples/{client}/pixels"] = (PIXELS[:count] / 255).astype(np.float32)
                file[f"examples/{client}/label"] = np.arange(count, dtype=np.int32)
    store = imported("tff", tmp_path, tmp_path, invert=True)
    assert shape_of(store) == ("images", (1, 28, 28), 2, 1)
    np.testing.assert_array_equal(store.pages.array[:, 0], 255 - PIXELS[[0, 0, 1, 0]])


def test_hdf5_snippets_become_windows(tmp_path):
    text = "To be, or not to be, that is the question: whether 'tis nobler in the mind to suffer the slings"
    with h5py.File(tmp_path / "shakespeare_train.h5", "w") as file:
        file["examples/HAMLET/snippets"] = np.array([text.encode(), b"short"], dtype=object)
    store = imported("tff", tmp_path, tmp_path)
    assert len(store.y) == len(text) - 80
    tokens = store.names()["tokens"]
    assert "".join(tokens[each] for each in store.pages.array[1]) == text[1:81]
    assert tokens[store.y[1]] == text[81]


def test_hdf5_images_in_colour_keep_their_bytes_and_are_read_client_by_client(tmp_path):
    draw = np.random.default_rng(0)
    held = {name: draw.integers(0, 256, (count, 32, 32, 3), np.uint8) for name, count in (("b", 3), ("a", 2), ("c", 4))}
    with h5py.File(tmp_path / "fed_cifar100_train.h5", "w") as file:
        for name, x in held.items():
            file[f"examples/{name}/image"] = x
            file[f"examples/{name}/label"] = np.arange(len(x), dtype=np.int64)
            file[f"examples/{name}/coarse_label"] = np.zeros(len(x), np.int64)
    store = imported("tff", tmp_path, tmp_path)
    assert shape_of(store) == ("images", (3, 32, 32), 4, 0)
    expected = np.concatenate([held[name] for name in "abc"]).transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(store.pages.array, expected)
    import_data("tff", str(tmp_path), tmp_path / "two", options={"clients": 2})
    assert open_store(tmp_path / "two").names()["clients"] == ["a", "b"]


def sentences(file, **clients):
    for client, said in clients.items():
        file[f"examples/{client}/tokens"] = np.array([each.encode() for each in said], dtype=object)


def test_hdf5_sentences_become_words_and_the_next_one(tmp_path):
    with h5py.File(tmp_path / "stackoverflow_train.h5", "w") as file:
        sentences(file, u1=["how to sort a list", "to sort"], u0=["a list"])
    with h5py.File(tmp_path / "stackoverflow_test.h5", "w") as file:
        sentences(file, u9=["sort a zebra"])
    import_data("tff", str(tmp_path), tmp_path / "s", options={"words": 4, "length": 4})
    samples = Store(path=str(tmp_path / "s")).load(n_clients=None, seed=0, folder=tmp_path)
    words = open_store(tmp_path / "s").names()["tokens"]
    assert words == ["", "<unknown>", "<begin>", "<end>", "a", "list", "sort", "to"]  # four of two, in the alphabet
    assert (samples.labels, samples.n_classes, samples.n_tokens) == ("steps", 8, 8)
    seen = [" ".join(words[each] or "_" for each in row) for row in samples.x[:]]
    told = [" ".join(words[each] for each in row if each >= 0) for row in samples.y]
    assert list(zip(seen, told, strict=True)) == [
        ("<begin> a list <end>", "a list <end>"),
        ("<begin> <unknown> to sort", "<unknown> to sort a"),
        ("<begin> to sort <end>", "to sort <end>"),
        ("<begin> sort a <unknown>", "sort a <unknown> <end>"),
    ]
    np.testing.assert_array_equal(samples.is_test, [False, False, False, True])


@pytest.mark.parametrize(
    ("held", "options", "said"),
    [
        ({"title": [b"a"]}, {}, "clients hold title; expected pixels, image, snippets or tokens"),
        ({"tokens": [b"a"]}, {"words": 0}, "-o words=0 -o length=20; expected at least 1 of each"),
        ({"image": np.zeros((1, 4, 4, 3), np.uint8)}, {}, "clients hold image; expected label or coarse_label"),
    ],
    ids=["nothing known", "no word", "no label"],
)
def test_hdf5_files_that_do_not_serve_are_refused(tmp_path, held, options, said):
    with h5py.File(tmp_path / "a_train.h5", "w") as file:
        for name, values in held.items():
            file[f"examples/u/{name}"] = np.array(values, dtype=object) if isinstance(values, list) else values
    refused("tff", tmp_path, tmp_path, said, **options)


def test_hdf5_images_of_another_size_are_refused(tmp_path):
    with h5py.File(tmp_path / "a_train.h5", "w") as file:
        for name, side in (("a", 4), ("b", 5)):
            file[f"examples/{name}/pixels"] = np.zeros((2, side, side), np.float32)
            file[f"examples/{name}/label"] = np.zeros(2, np.int32)
    refused("tff", tmp_path, tmp_path, r"do not fit together: uint8 of shape \(1, 4, 4\), uint8 of shape \(1, 5, 5\)")


# -- texts and sounds ------------------------------------------------------------------------------------------------


def test_leaf_tweets_become_words_and_their_sentiment(tmp_path):
    tweets = [["1", "Mon", "NO_QUERY", "ann", text, "x"] for text in ("good good day", "a bad day", "good")]
    write_json(tmp_path / "f/a.json", leaf({"ann": (tweets[:2], ["4", "0"]), "bob": (tweets[2:], ["4"])}))
    store = imported("leaf", tmp_path / "f", tmp_path, words=2, length=3)
    assert store.names()["tokens"] == ["", "<unknown>", "good", "day"]
    np.testing.assert_array_equal(store.pages.array, [[2, 2, 3], [1, 1, 3], [0, 0, 2]])
    np.testing.assert_array_equal(store.y, [1, 0, 1])
    refused("leaf", tmp_path / "f", tmp_path / "no", "-o words=2: say -o length=N, too", words=2)
    write_json(tmp_path / "g/a.json", leaf({"ann": (tweets[:2], ["4", "7"])}))
    refused("leaf", tmp_path / "g", tmp_path / "no", "label '7' of sample 1; expected 0 or 4", words=2, length=3)


def test_leaf_files_of_which_one_holds_bytes_and_one_floats_keep_one_scale(tmp_path):
    write_json(tmp_path / "f/a.json", leaf({"a": ([[1.0] * 784], [0])}))
    write_json(tmp_path / "f/b.json", leaf({"b": ([[0.123] * 784], [1])}))
    store = imported("leaf", tmp_path / "f", tmp_path)
    assert store.pages.array.dtype == np.float32
    np.testing.assert_allclose(store.pages.array[:, 0, 0, 0], [1.0, 0.123], rtol=1e-6)


def test_fedscale_mappings_name_sounds_and_token_ids(tmp_path):
    for name, frequency in (("s/a.wav", 500), ("s/b.wav", 4000)):
        write_wav(tmp_path / name, frequency)
    write_mapping(tmp_path / "s", "c,a.wav,yes,0\nd,b.wav,no,1\n")
    store = imported("fedscale", tmp_path / "s", tmp_path, mels=16)
    assert store.pages.array.shape == (2, 1, 16, 98)
    (tmp_path / "t").mkdir()
    for at in range(2):
        np.save(tmp_path / f"t/{at}.npy", np.arange(at, at + 6))
    write_mapping(tmp_path / "t", "c,0.npy,w,6\nd,1.npy,w,7\n")
    import_data("fedscale", str(tmp_path / "t"), tmp_path / "tokens")
    assert open_store(tmp_path / "tokens").n_tokens == 7


def test_without_a_test_folder_images_for_validation_are_tested_on(tmp_path):
    for part in ("train/a", "train/b", "val/a"):
        write_png(tmp_path / "f" / part / "0.png", PIXELS[0])
    assert imported("image_folder", tmp_path / "f", tmp_path).n_test == 1
    write_png(tmp_path / "f/test/a/0.png", PIXELS[0])
    write_png(tmp_path / "f/test/b/0.png", PIXELS[0])
    import_data("image_folder", str(tmp_path / "f"), tmp_path / "both")
    assert (open_store(tmp_path / "both").n_test, len(open_store(tmp_path / "both").y)) == (2, 4)
