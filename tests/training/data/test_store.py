"""The store: what is written is what is read, and what was damaged is said."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from evsim.base.errors import DataError
from evsim.training.data.base import federate
from evsim.training.data.gathered import Gathered
from evsim.training.data.importers import numpy as numpy_importer
from evsim.training.data.importers import table as table_importer
from evsim.training.data.looks import describe_data, look_at, plot_data
from evsim.training.data.partition import Iid
from evsim.training.data.store import Store, checksum, is_store, open_store, verify
from evsim.training.data.table import Decoded, Table
from evsim.training.data.writing import Limits, write_store

ABOUT = {"source": {"format": "test"}}


def images(n):
    return np.arange(n * 12).astype(np.uint8).reshape(n, 3, 4)


def write(folder, limits=None, **columns):
    write_store(folder, Table(**columns), about=ABOUT, limits=limits)
    return folder


def small(folder, **options):
    is_test = np.array([False, True, False, False, True, False])
    client = np.array(["bob", "", "ann", "bob", "", "ann"])
    return write(folder, x=images(6), y=np.array([0, 1, 2, 1, 2, 0]), client=client, is_test=is_test, **options)


def load(folder):
    return Store(path=folder.name).load(n_clients=None, seed=0, folder=folder.parent)


def test_samples_come_back_client_after_client_and_the_test_set_last(tmp_path):
    samples = load(small(tmp_path / "s"))
    assert isinstance(samples.x, Gathered)
    order = [2, 5, 0, 3, 1, 4]  # ann, bob, test
    np.testing.assert_array_equal(samples.x[:], images(6)[order][:, None])
    np.testing.assert_array_equal(samples.y, np.array([0, 1, 2, 1, 2, 0])[order])
    np.testing.assert_array_equal(samples.groups, [0, 0, 1, 1, -1, -1])
    np.testing.assert_array_equal(samples.is_test, [False] * 4 + [True] * 2)
    assert open_store(tmp_path / "s").names() == {"clients": ["ann", "bob"]}


def test_a_store_and_arrays_of_the_same_samples_are_dealt_alike(tmp_path):
    x, y = images(60), np.arange(60) % 3
    write(tmp_path / "s", x=x, y=y)
    (tmp_path / "a").mkdir()
    np.savez(tmp_path / "a" / "a.npz", x=x, y=y)
    from evsim.training.data.arrays import Arrays

    options = {"test_fraction": 0.2, "n_clients": 4, "seed": 3, "folder": tmp_path}
    stored, plain = (federate(each, Iid(), **options) for each in (Store(path="s"), Arrays(path="a")))
    for client in range(4):
        np.testing.assert_array_equal(stored.x[stored.samples_of(client)], plain.x[plain.samples_of(client)])
    np.testing.assert_array_equal(stored.x_test[:], plain.x_test)
    np.testing.assert_array_equal(stored.y_test, plain.y_test)


def test_text_labels_get_numbers_in_their_order(tmp_path):
    folder = write(tmp_path / "s", x=np.zeros((3, 2)), y=np.array(["cat", "ant", "cat"]))
    assert load(folder).y.tolist() == [1, 0, 1]
    assert open_store(folder).names()["labels"] == ["ant", "cat"]


def test_token_ids_are_kept_in_as_few_bytes_as_they_need(tmp_path):
    for most, kept in ((255, np.uint8), (256, np.uint16), (70_000, np.uint32)):
        folder = write(tmp_path / str(most), x=np.array([[0, most]]), y=np.array([0]))
        samples = load(folder)
        assert (samples.x.dtype, samples.n_tokens, samples.x[:].tolist()) == (kept, most + 1, [[0, most]])


def test_clients_may_be_left_out_or_cut(tmp_path):
    client = np.array([7, 7, 7, 1, 1, 4])
    folder = write(tmp_path / "s", Limits(min_samples=2, max_samples=2), x=images(6), y=np.zeros(6), client=client)
    store = open_store(folder)
    assert (store.names()["clients"], store.offsets.tolist()) == (["1", "7"], [0, 2, 4])
    np.testing.assert_array_equal(store.pages.array[:, 0], images(6)[[3, 4, 0, 1]])
    with pytest.raises(DataError, match="no client has 4 samples; the largest has 3"):
        write(tmp_path / "t", Limits(min_samples=4), x=images(6), y=np.zeros(6), client=client)


x, y = np.zeros((2, 3)), np.array([0, 1])


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"x": x, "y": y + 0.5}, r"0\.5 at sample 0; expected whole numbers"),
        ({"x": x, "y": y - 1}, "label -1 of sample 0"),
        ({"x": x, "y": y * 10**9}, "label 1000000000 among 2 samples"),
        ({"x": x, "y": y * 2, "label_names": ("a", "b")}, "label 2, but names of 2 labels"),
        ({"x": x, "y": y[:, None]}, r"y holds int64 of shape \(2, 1\); expected one axis"),
        ({"x": x + np.inf, "y": y}, "sample 0: inputs hold numbers that are not finite"),
        ({"x": x, "y": y, "is_test": np.ones(2, bool)}, "all samples are in the test set"),
        ({"x": x.astype(int) - 1, "y": y}, "token id -1"),
        (
            {"x": Decoded(np.array([3, 4]), lambda n: np.zeros((n, 2), np.uint8)), "y": y},
            r"4: uint8 of shape \(4, 2\); expected uint8 of shape \(3, 2\), as 3 has",
        ),
    ],
)
def test_samples_that_do_not_serve_are_refused_and_leave_nothing_behind(tmp_path, columns, said):
    with pytest.raises(DataError, match=said):
        write(tmp_path / "s", **columns)
    assert list(tmp_path.iterdir()) == []


def test_columns_of_unequal_length_are_refused():
    with pytest.raises(DataError, match="the columns hold x: 2, y: 2, client: 1"):
        Table(x=x, y=y, client=y[:1])


def test_a_store_is_never_written_over(tmp_path):
    small(tmp_path / "s")
    with pytest.raises(DataError, match="is there already"):
        small(tmp_path / "s")


def test_a_missing_file_and_one_of_another_size_are_named_together(tmp_path):
    folder = small(tmp_path / "s")
    (folder / "y.npy").unlink()
    with (folder / "x.npy").open("ab") as file:
        file.write(b"more")
    with pytest.raises(DataError, match=r"2 problems\n.*x\.npy: 204 bytes; expected 200.*\n.*y\.npy: missing"):
        load(folder)


def test_a_wrong_byte_is_found_when_checksums_are_compared(tmp_path):
    folder = small(tmp_path / "s")
    verify(folder)
    whole = bytearray((folder / "x.npy").read_bytes())
    whole[-1] ^= 1
    (folder / "x.npy").write_bytes(whole)
    load(folder)  # of the right size
    with pytest.raises(DataError, match=r"x\.npy: wrong checksum"):
        verify(folder)


def test_what_is_no_store_is_said(tmp_path):
    with pytest.raises(DataError, match="no such folder; expected a store, made by: evsim data import"):
        load(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"is no store \(no manifest\.json\)"):
        load(tmp_path)
    (tmp_path / "manifest.json").write_text('{"format": "evsim-trace"}', encoding="utf-8")
    assert not is_store(tmp_path)
    with pytest.raises(DataError, match="format 'evsim-trace'; expected 'evsim-data'"):
        load(tmp_path)


def test_a_manifest_that_points_outside_its_folder_is_refused(tmp_path):
    folder = small(tmp_path / "s")
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    manifest["files"]["../x.npy"] = manifest["files"]["x.npy"]
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    with pytest.raises(DataError, match="a path that leaves the store"):
        load(folder)


# -- large stores ----------------------------------------------------------------------------------------------------

_TRAIN = """
import resource, sys, time
from pathlib import Path
import numpy as np, torch
from evsim.training.data.base import federate
from evsim.training.data.partition import Natural
from evsim.training.data.samples import TrainingData
from evsim.training.data.store import Store
folder, tasks = Path(sys.argv[1]), int(sys.argv[2])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
start = time.perf_counter()
options = dict(test_fraction=0.2, n_clients=None, seed=0, folder=folder.parent)
data = TrainingData.of(federate(Store(path=folder.name), Natural(), **options), torch.float32, torch.device("cpu"))
opened = time.perf_counter() - start
for client in range(tasks):
    own = data.of_client(client)
    for at in range(0, len(own), 20):
        x, y = data.take(data.rows(own[at : at + 20]))
        assert float(x.abs().max()) == 0.0
print(opened, before // 1024, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def sparse(folder, n_samples, n_clients):
    """A store whose inputs are a hole in a file: zeros that take no place on the disk."""
    write(folder, x=np.zeros((1, 3, 32, 32), np.uint8), y=np.array([0]), client=np.array([0]))
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    arrays = {"y.npy": np.arange(n_samples, dtype=np.uint8) % 10}
    arrays["offsets.npy"] = np.linspace(0, n_samples, n_clients + 1).astype(np.int64)
    for name, array in arrays.items():
        np.save(folder / name, array)
    with (folder / "x.npy").open("wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": (n_samples, 3, 32, 32)}
        np.lib.format.write_array_header_1_0(file, header)
        file.truncate(file.tell() + n_samples * 3072)
    for name, file in manifest["files"].items():
        file["bytes"] = (folder / name).stat().st_size
        file["sha256"] = checksum(folder / name) if name != "x.npy" else ""
    manifest |= {"samples": n_samples, "clients": n_clients, "labels": 10}
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return folder


def trained(folder, tasks):
    """Seconds to open, and peak memory before and after in MiB, of a process of its own."""
    command = [sys.executable, "-c", _TRAIN, str(folder), str(tasks)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return tuple(map(float, done.stdout.split()))


@pytest.mark.skipif(sys.platform != "linux", reason="measures as Linux does")
def test_a_store_of_400_mb_is_read_with_little_memory(tmp_path):
    _, before, peak = trained(sparse(tmp_path / "big", 130_000, 100), tasks=100)
    assert peak - before < 250  # of 320 MB that are read


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="measures as Linux does")
def test_a_store_of_10_gb_is_opened_in_two_seconds_and_read_below_a_gibibyte(tmp_path):
    opened, _, peak = trained(sparse(tmp_path / "huge", 3_400_000, 10_000), tasks=2_000)
    assert opened < 2
    assert peak < 1024


@pytest.mark.parametrize(
    ("y", "labels", "kind", "count"),
    [
        (np.arange(24).reshape(12, 2) / 7, "auto", "numbers", 2),
        (np.arange(12) / 7, "numbers", "numbers", 1),
        (np.arange(36).reshape(12, 3) % 2, "auto", "flags", 3),
        (np.arange(36).reshape(12, 3) % 5 - 1, "auto", "steps", 4),
        (np.arange(12) % 3, "auto", "classes", 3),
    ],
)
def test_labels_of_every_kind_are_kept_as_they_are(tmp_path, y, labels, kind, count):
    x = np.arange(24, dtype=np.float32).reshape(12, 2)
    write_store(tmp_path / "kept", Table(x=x, y=y, client=np.arange(12) % 2, labels=labels), about={})
    samples = Store(path="kept").load(n_clients=None, seed=0, folder=tmp_path)
    assert (samples.labels, samples.n_classes) == (kind, count)
    for row, inputs in enumerate(x):
        at = int(np.flatnonzero((samples.x[:] == inputs).all(1))[0])
        np.testing.assert_allclose(samples.y[at], y[row], rtol=1e-6)
    lines = describe_data(look_at(str(tmp_path / "kept")))
    assert ("label skew" in lines) == (kind == "classes")
    plot_data(look_at(str(tmp_path / "kept")), tmp_path / "kept.png")


def test_labels_of_an_importer_are_what_is_said(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.ones((4, 2), np.float32), y=np.array([0.5, 1.5, 2.5, 3.0]))
    (tmp_path / "a.csv").write_text("a,price\n1.5,0.5\n2.5,1.5\n3,2.0\n")
    for source, read, options in (("a.npz", numpy_importer.read, {}), ("a.csv", table_importer.read, {"y": "price"})):
        name = source.replace(".", "-")
        write_store(tmp_path / name, read(str(tmp_path / source), labels="numbers", **options), about={})
        assert open_store(tmp_path / name).labels == "numbers"
        with pytest.raises(DataError, match='say labels = "numbers"'):
            write_store(tmp_path / "no", read(str(tmp_path / source), **options), about={})
