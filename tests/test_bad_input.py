"""Bad input at the command line: a message that says where, what was given and expected; exit code 2; no traceback.

Every parser has finer tests beside it (`test_scenario_bad_input`, `traces/test_formats`, `training/data`); here each
kind of bad input travels the whole way from a user's command.
"""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from evsim import load_run
from evsim.cli import app

BAD_INPUT = 2

SCENARIO = """
training = "none"
[stop]
server_steps = 2
virtual_time = "3h"
[population]
clients = 30
availability = "always"
speed = { compute_ms_per_sample = 1, download_kbps = 8, upload_kbps = 8 }
[cost]
model_bytes = 1000
[aggregation]
kind = "synchronous"
cohort_goal = 10
"""


@pytest.fixture
def evsim(tmp_path, monkeypatch):
    """Runs a command in a folder that holds ``dry.toml``; an error that is not meant for the user fails the test."""
    monkeypatch.chdir(tmp_path)
    Path("dry.toml").write_text(SCENARIO, encoding="utf-8")
    return lambda *arguments: CliRunner().invoke(app, [str(each) for each in arguments], catch_exceptions=False)


@pytest.fixture
def refused(evsim):
    """Runs a command that must be refused and gives what it said, without the count of problems."""

    def refused(*arguments: object) -> str:
        done = evsim(*arguments)
        assert done.exit_code == BAD_INPUT, done.output
        assert done.stdout == ""
        assert done.stderr.startswith("evsim: ")
        assert "Traceback" not in done.stderr
        return done.stderr.removeprefix("evsim: ").removeprefix("1 problem\n").strip()

    return refused


def with_line(line: str) -> str:
    """A copy of the scenario with one more line in its last table, [aggregation]."""
    Path("wrong.toml").write_text(f"{SCENARIO}{line}\n", encoding="utf-8")
    return "wrong.toml"


# -- scenario files ----------------------------------------------------------------------------------------------------


def test_the_scenario_of_these_tests_is_fine(evsim):
    assert evsim("run", "dry.toml").exit_code == 0


def test_missing_file(refused):
    assert refused("run", "nowhere.toml").startswith("nowhere.toml: no such file; expected a scenario file or the name")


def test_a_folder_without_a_scenario(refused):
    Path("empty").mkdir()
    assert refused("run", "empty").startswith("empty: a folder without scenario.toml; expected a scenario file or")


def test_toml_syntax_error(refused):
    assert refused("run", with_line("deadline = = 3")) == "wrong.toml: line 15, column 12: Invalid value; expected TOML"


def test_unknown_key(refused):
    said = refused("run", with_line("over_comitment = 1.2"))
    assert said.startswith("wrong.toml: aggregation.over_comitment: unknown key, given 1.2; did you mean 'over_com")


def test_wrong_type(refused):
    said = refused("run", with_line('minimum_reports = "two"'))
    assert said == "wrong.toml: aggregation.minimum_reports: 'two'; expected an integer"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("reporting_deadline = -5", "aggregation.reporting_deadline: -5; expected a duration"),
        ("over_commitment = -1.0", "aggregation.over_commitment: over_commitment must be "),
        ("over_commitment = nan", "aggregation.over_commitment: nan; expected a finite number"),
    ],
)
def test_negative_and_nan_numbers(refused, line, said):
    assert refused("run", with_line(line)).startswith(f"wrong.toml: {said}")


def test_unknown_kind(refused):
    said = refused("run", with_line('[selection]\nkind = "unifrom"'))
    assert said.startswith("wrong.toml: selection.kind: unknown kind 'unifrom'; did you mean 'uniform'? (known: ")


def test_minimum_reports_above_minimum_cohort(refused):
    assert refused("run", with_line("minimum_cohort = 5\nminimum_reports = 6")) == (
        "wrong.toml: aggregation: 1 <= minimum_reports <= minimum_cohort <= cohort_goal must hold, "
        "but got minimum_reports=6, minimum_cohort=5, cohort_goal=10"
    )


# -- a user's own code -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("x = = 3", "SyntaxError: invalid syntax (mine.py, line 1)"),
        ("raise ValueError('not today')", "ValueError: not today"),
        ("import nowhere_to_be_found", "No module named 'nowhere_to_be_found'"),
        ("", "mine.py has no attribute 'Mine'"),
    ],
)
def test_code_that_cannot_be_loaded(refused, code, why):
    Path("mine.py").write_text(code, encoding="utf-8")
    for _ in range(2):  # the second look-up does not find what the first left half loaded
        said = refused("run", "dry.toml", "-o", "selection.kind=mine.py:Mine")
        first, *frames = said.splitlines()
        assert first == f"-o selection.kind: cannot load 'mine.py:Mine': {why}"
        assert all("mine.py, line 1" in each for each in frames)


def test_a_module_that_is_a_file_beside_the_scenario(refused):
    Path("mine.py").write_text("", encoding="utf-8")
    said = refused("run", "dry.toml", "-o", "selection.kind=mine:Mine")
    assert said.endswith("No module named 'mine'; did you mean 'mine.py:Mine'?")


@pytest.mark.parametrize("kind", [":Mine", ".:Mine"])
def test_a_kind_without_a_module(refused, kind):
    assert refused("run", "dry.toml", "-o", f"selection.kind={kind}").startswith(
        f"-o selection.kind: cannot load '{kind}': "
    )


def test_a_model_whose_output_does_not_fit_the_labels(refused):
    Path("mine.py").write_text(
        "from torch import nn\n\n\ndef three():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 3))\n",
        encoding="utf-8",
    )
    Path("real.toml").write_text('extends = "quickstart"\n', encoding="utf-8")
    said = refused("run", "real.toml", "-o", "model={kind='mine.py:three'}")
    assert said == (
        "the model's output does not fit the labels of 'digits': for 2 samples it gave (2, 3); "
        "expected (2, 10) (batch, classes)"
    )


# -- traces and data ---------------------------------------------------------------------------------------------------


def test_a_trace_with_a_reversed_interval(refused):
    Path("trace.csv").write_text("device,start_s,stop_s\nann,0,10\nann,100,20\n", encoding="utf-8")
    expected = "trace.csv: device 'ann': interval [100000, 20000) ms is reversed; expected stop >= start"
    assert refused("run", "dry.toml", "-o", "population.availability=trace.csv").startswith(expected)
    assert "trace.csv: device 'ann': interval [100000, 20000) ms is reversed" in refused(
        "traces", "import", "trace.csv", "imported"
    )
    assert not Path("imported").exists()


def test_a_truncated_parquet_file(evsim, refused):
    assert evsim("traces", "generate", "mine", "--devices", 3).exit_code == 0
    table = Path("mine/availability.parquet")
    table.write_bytes(table.read_bytes()[:1000])
    said = refused("run", "dry.toml", "-o", "population.availability=mine")
    assert said.startswith("mine/availability.parquet: sha256 ")
    assert "1000 bytes" in said
    assert said.endswith("the file is truncated or altered: fetch or generate the trace again")


class _TouchesAFile:
    def __reduce__(self):
        return os.system, ("touch ran",)


def test_a_pickle_that_tries_to_run_code(refused):
    Path("evil").write_bytes(pickle.dumps({1: _TouchesAFile()}))
    said = refused("run", "dry.toml", "-o", "population.availability=evil")
    assert said == f"evil: asks for {os.name}.system; expected plain containers, numbers, strings and NumPy arrays"
    assert not Path("ran").exists()


def test_a_trace_without_devices(refused):
    Path("trace.csv").write_text("device,start_s,stop_s\n", encoding="utf-8")
    said = refused("run", "dry.toml", "-o", "population.availability=trace.csv")
    assert said == "population.availability: a trace without devices; expected at least one device"


def test_a_population_that_never_comes_online_ends_with_that_reason(evsim):
    Path("trace.csv").write_text("device,start_s,stop_s\nann,5,5\n", encoding="utf-8")
    done = evsim("run", "dry.toml", "-o", "population.availability=trace.csv", "-o", "stop.virtual_time=", "--out", "r")
    assert done.exit_code == 0
    assert all(line.startswith("evsim: caveat: ") for line in done.stderr.splitlines())
    assert "no device is online within the run" in done.stderr
    assert load_run("r").manifest["end"] == {"at": 0, "reason": "no_clients"}


def test_clients_without_any_data(refused):
    Path("data").mkdir()
    Path("real.toml").write_text('extends = "quickstart"\n', encoding="utf-8")
    np.savez("data/a.npz", x=np.zeros((0, 4), np.float32), y=np.zeros(0, np.int64), client=np.zeros(0, np.int64))
    overrides = ("-o", "data.dataset={kind='arrays', path='data'}", "-o", "data.partition=natural")
    assert refused("run", "real.toml", *overrides) == "data: 0 inputs and 0 labels; expected as many, at least one"


# -- run folders -------------------------------------------------------------------------------------------------------


def test_an_out_folder_below_a_file(refused):
    Path("file").write_text("", encoding="utf-8")
    said = refused("run", "dry.toml", "--out", "file/run")
    assert said == "file/run: cannot be written (Not a directory); choose another folder with --out"


def test_a_run_folder_that_already_exists(evsim, refused):
    assert evsim("run", "dry.toml", "--out", "r").exit_code == 0
    before = {path: path.read_bytes() for path in Path("r").rglob("*") if path.is_file()}
    said = refused("run", "dry.toml", "--out", "r")
    assert said == "r: exists and is not empty; choose another folder with --out, or remove it"
    assert {path: path.read_bytes() for path in Path("r").rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("target", ["nan", "0", "1.5"])
def test_a_target_that_no_run_can_reach(evsim, refused, target):
    assert evsim("run", "dry.toml", "--out", "r").exit_code == 0
    said = refused("compare", "r", "--target", target)
    assert said.startswith("a target of accuracy must ")
    assert f"but got target={float(target):g}" in said


@pytest.mark.parametrize("damage", ["", "{", "{}"])
def test_a_run_folder_with_a_damaged_manifest(evsim, refused, damage):
    assert evsim("run", "dry.toml", "--out", "r").exit_code == 0
    Path("r/manifest.json").write_text(damage, encoding="utf-8")
    said = refused("describe", "r")
    assert said.startswith("r/manifest.json: ")
    assert said.endswith("expected the manifest of a run")
