"""Data that processes share: loaded once, mapped by all, and the same numbers."""

from __future__ import annotations

import multiprocessing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import final

import numpy as np
import pytest
from typing_extensions import override

from evsim import Simulation
from evsim.training.data import shared
from evsim.training.data.base import DataSet, Samples, federate
from evsim.training.data.gathered import Gathered
from evsim.training.data.partition import Iid
from tests.crash.cases import results, scenario_of


@final
@dataclass(frozen=True, kw_only=True)
class Counting(DataSet):
    """Says in a file how often it was loaded."""

    kind: str = "uint8"
    shape: tuple[int, ...] = (3, 2)

    @override
    def load(self, *, n_clients: int | None, seed: int, folder: Path) -> Samples:
        with (folder / "loads").open("a") as file:
            file.write(".")
        x = np.arange(40 * int(np.prod(self.shape))).reshape(40, *self.shape).astype(self.kind)
        groups = np.arange(40) % 3 if self.kind == "uint8" else None
        is_test = np.arange(40) >= 30 if self.kind == "float64" else None
        return Samples(x, np.arange(40) % 4, 4, groups, "counted", None if self.kind != "int32" else 2000, is_test)


@pytest.fixture(autouse=True)
def _all_are_worth_it(monkeypatch):
    monkeypatch.setattr(shared, "_WORTH_BYTES", 0)


def load(dataset, folder, seed=0):
    return shared.load(dataset, n_clients=3, seed=seed, folder=folder)


@pytest.mark.parametrize("kind", ["uint8", "float32", "float64", "int32"])
def test_what_is_shared_is_loaded_once_and_is_the_same(tmp_path, kind):
    dataset = Counting(kind=kind)
    plain = load(dataset, tmp_path)
    (tmp_path / "loads").unlink()
    (tmp_path / "shared").mkdir()
    with shared.sharing(tmp_path / "shared"):
        found = [load(dataset, tmp_path) for _ in range(3)]
        other = load(dataset, tmp_path, seed=1)
    assert (tmp_path / "loads").read_text() == ".."  # once for each seed
    assert len(list((tmp_path / "shared").glob("x-*.npy"))) == 1  # and their inputs are the same
    assert not list((tmp_path / "shared").glob("*.tmp"))
    for each in (*found, other):
        assert isinstance(each.x, Gathered)
        assert each.x.dtype == plain.x.dtype
        np.testing.assert_array_equal(each.x[:], plain.x)
        for name in ("y", "groups", "is_test", "n_classes", "name", "n_tokens"):
            np.testing.assert_array_equal(getattr(each, name), getattr(plain, name))


@pytest.mark.parametrize(
    ("kind", "worth"), [("int8", 0), ("bool", 0), ("uint8", 1 << 20)], ids=["another meaning", "flags", "small"]
)
def test_what_is_small_or_would_mean_something_else_is_not_shared(tmp_path, monkeypatch, kind, worth):
    monkeypatch.setattr(shared, "_WORTH_BYTES", worth)
    with shared.sharing(tmp_path):
        assert isinstance(load(Counting(kind=kind), tmp_path).x, np.ndarray)


def test_a_full_disk_is_no_reason_not_to_train(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with shared.sharing(tmp_path):
        assert len(load(Counting(), tmp_path).y) == 40


def ask(folder, barrier):
    barrier.wait()
    with shared.sharing(folder):
        load(Counting(), folder)


def test_who_asks_at_the_same_time_waits(tmp_path):
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(4)
    processes = [context.Process(target=ask, args=(tmp_path, barrier)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert (tmp_path / "loads").read_text() == "."


def test_federated_data_have_the_same_digest(tmp_path):
    asked = {"test_fraction": 0.2, "n_clients": 3, "seed": 0, "folder": tmp_path}
    plain = federate(Counting(), Iid(), **asked)
    with shared.sharing(tmp_path):
        assert federate(Counting(), Iid(), **asked).digest() == plain.digest()


@pytest.mark.parametrize("mapped", [False, True])
def test_the_digest_sees_every_input(tmp_path, monkeypatch, mapped):
    monkeypatch.setattr("evsim.training.data.base._DIGESTED", 1)
    data = federate(Counting(kind="uint8"), Iid(), test_fraction=0.2, n_clients=3, seed=0, folder=tmp_path)
    monkeypatch.setattr("evsim.training.data.base._BLOCK", 13)
    seen = {data.digest()}
    for part in ("x", "x_test"):
        for row in range(len(getattr(data, part))):
            other = np.array(getattr(data, part))
            other[row, 1, 1] ^= 1
            seen.add(replace(data, **{part: Gathered(other) if mapped else other}).digest())
    assert len(seen) == 1 + 40


@pytest.mark.parametrize("case", ["synchronous", "batched"])
def test_a_run_with_shared_data_is_the_same_run(tmp_path, case):
    (tmp_path / "shared").mkdir()
    expected = results(Simulation(scenario_of(case), device="cpu").run(tmp_path / "plain"))
    with shared.sharing(tmp_path / "shared"):
        assert results(Simulation(scenario_of(case), device="cpu").run(tmp_path / "run")) == expected
    assert list((tmp_path / "shared").glob("x-*.npy"))


@final
@dataclass(frozen=True, kw_only=True)
class Heights(DataSet):
    """Numbers to be predicted."""

    @override
    def load(self, *, n_clients: int | None, seed: int, folder: Path) -> Samples:
        x = np.arange(80, dtype=np.float32).reshape(40, 2)
        return Samples(x, x[:, 0] / 7, 1, None, "heights", None, None, "numbers")


def test_labels_of_every_kind_come_back_as_they_were(tmp_path):
    plain = load(Heights(), tmp_path)
    with shared.sharing(tmp_path):
        for found in (load(Heights(), tmp_path), load(Heights(), tmp_path)):
            assert (found.labels, found.y.dtype) == ("numbers", np.float32)
            np.testing.assert_array_equal(found.y, plain.y)


def test_what_is_mapped_already_is_not_written_again(tmp_path):
    x = np.zeros((40, 2), np.float32)
    assert shared._is_worth_it(x)
    x.flags.writeable = False
    assert not shared._is_worth_it(x)
