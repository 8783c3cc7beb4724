"""``evsim data`` from the shell's side: sentences and exit codes."""

from __future__ import annotations

import numpy as np
import pytest
from typer.testing import CliRunner

from evsim.cli import app

runner = CliRunner()


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    x, y = np.zeros((6, 4, 4), np.uint8), np.array([0, 1, 2, 0, 1, 2])
    np.savez(tmp_path / "a.npz", x=x, y=y, client=np.array(["ann", "bob", "ann", "bob", "ann", "cat"]))
    return tmp_path


def call(*words, code=0):
    result = runner.invoke(app, ["data", *words])
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return " ".join(result.output.split())


def test_import_describe_list_and_plot(here):
    told = call("import", "numpy", "a.npz", "--out", "mine", "--min-samples", "2")
    assert "clients 2 (ann, bob)" in told
    assert 'dataset = { kind = "store", path = "mine" } partition = "natural"' in told
    assert "clients 2 (ann, bob)" in " ".join(runner.invoke(app, ["describe", "mine"]).output.split())
    assert "all checksums are right" in call("describe", "mine", "--verify")
    assert "mine 5 samples, 2 clients, 3 labels" in call("list")
    assert "shakespeare" in call("list")
    for name in ("mine", "digits"):
        call("plot", name, "--out", f"{name}.png")
        assert (here / f"{name}.png").stat().st_size > 5_000


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["import", "numppy", "a.npz", "--out", "o"], "did you mean 'numpy'"),
        (["import", "numpy", "b.npz", "--out", "o"], "b.npz: no such file or folder; expected"),
        (["import", "numpy", "a.npz", "--out", "o", "-o", "z=1"], "-o z: no option of this format"),
        (["import", "numpy", "a.npz", "--out", "."], "is there already"),
        (["describe", "mine"], "mine: neither a store nor a data set"),
        (["describe", "arrays"], "arrays: needs options"),
        (["describe", "synthetic"], "population.clients: missing"),
        (["describe", "digits", "--verify"], "digits: is no store"),
        (["plot", "digits", "--out", "no_folder/a.png"], "no_folder/a.png: cannot be written"),
    ],
)
def test_mistakes_are_sentences_with_exit_code_2(here, words, said):
    assert said in call(*words, code=2)
    assert not (here / "o").exists()


def test_a_damaged_store_is_listed_and_described_as_such(here):
    call("import", "numpy", "a.npz", "--out", "mine")
    (here / "mine" / "y.npy").unlink()
    assert "mine cannot be used" in call("list")
    assert "y.npy: missing" in call("describe", "mine", code=2)


SCENARIO = """
extends = "quickstart"
unset = ["population.clients"]
stop = { server_steps = 1 }
data = { dataset = { kind = "KIND", path = "d" }, partition = "natural" }
"""
GOOD = {"x": np.zeros((6, 2)), "y": np.arange(6) % 2, "client": np.arange(6) % 3}


@pytest.mark.parametrize(
    ("kind", "arrays", "said"),
    [
        ("arrays", {"y": np.arange(6) - 1}, "label -1 of sample 0; expected labels 0, 1, 2"),
        ("arrays", {"y": np.arange(6) * 1e5}, "label 500000 among 6 samples"),
        ("arrays", {"y": np.arange(6) / 2}, "y holds 0.5 at sample 1; expected whole numbers"),
        ("arrays", {"client": np.arange(5)}, "arrays differ in length (x: 6, y: 6, client: 5)"),
        ("arrays", {"x": np.array(["to be", "or not", "", "", "", ""])}, "x holds <U6"),
        ("arrays", {"X": np.zeros((6, 2)), "x": None}, "has no array 'x'; expected x, y and optionally client"),
        ("arrays", None, "'d' is no folder"),
        ("store", None, "no such folder; expected a store, made by: evsim data import"),
        ("store", {}, "is no store (no manifest.json)"),
        ("fashion_mnist", None, "sudo apt install dataset-fashion-mnist"),
        ("fashion_mnist", {}, "no file train-images-idx3-ubyte (plain or .gz); there is: a.npz"),
    ],
)
def test_data_that_cannot_be_run_are_sentences_with_exit_code_2(here, kind, arrays, said):
    (here / "s.toml").write_text(SCENARIO.replace("KIND", kind), encoding="utf-8")
    if arrays is not None:
        (here / "d").mkdir()
        held = {name: array for name, array in {**GOOD, **arrays}.items() if array is not None}
        np.savez(here / "d" / "a.npz", **held)
    result = runner.invoke(app, ["run", "s.toml", "--out", "out"])
    assert result.exit_code == 2
    assert said in " ".join(result.output.split())
    assert "Traceback" not in result.output
