"""Commands that write what one begins from: schemas and starting points."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from evsim import load_run
from evsim.cli import app
from evsim.cli.new_command import begins, starting_point
from evsim.scenario import Scenario
from evsim.study import Study

BAD_INPUT = 2


@pytest.fixture
def evsim(tmp_path, monkeypatch):
    """Runs a command in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: CliRunner().invoke(app, [str(each) for each in arguments], catch_exceptions=False)


@pytest.mark.parametrize("what", ["scenario", "study"])
def test_a_schema_goes_to_the_terminal_or_to_a_file(evsim, tmp_path, what):
    said = evsim("schema", what)
    assert said.exit_code == 0
    assert json.loads(said.stdout)["title"] == f"evsim {what}"
    done = evsim("schema", what, "--out", "it.json")
    assert '"#:schema ./it.json"' in done.stdout
    assert json.loads((tmp_path / "it.json").read_text()) == json.loads(said.stdout)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("schema", "scenari"), "'scenari' has no schema; did you mean 'scenario'?"),
        (("new", "selctor"), "'selctor' is nothing to begin; did you mean 'selection'?"),
        (("new", "study", "1-a"), "1-a: no name for a file of evsim; expected a name of letters, digits and"),
        (("new", "study", "no/such"), "no/such.toml: No such file or directory"),
        (("schema", "--out", "no/such/it.json"), "no/such/it.json"),
        (("schema", "--plugins", "nowhere"), "nowhere: no such folder; expected a folder with Python files"),
    ],
    ids=["unknown", "nothing to begin", "no name", "no folder", "out", "plug-ins"],
)
def test_bad_input_is_one_sentence(evsim, arguments, said):
    done = evsim(*arguments)
    assert done.exit_code == BAD_INPUT
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_shells_can_be_completed(evsim):
    assert "--install-completion" in evsim("--help").stdout


# -- starting points ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", [each for each in begins() if each != "study"])
def test_a_starting_point_is_fine_as_it_stands(evsim, what):
    told = evsim("new", what)
    assert told.exit_code == 0, told.stderr
    assert told.stdout.splitlines()[-1].split() == ["next", "evsim", "check", f"my_{what}.toml"]
    done = evsim("check", f"my_{what}.toml")
    assert done.exit_code == 0, done.stderr
    text = Path(f"my_{what}.toml").read_text(encoding="utf-8")
    assert text.startswith("# ")
    assert what == "scenario" or f"my_{what}.py:Mine" in text


def test_a_study_to_begin_from_has_two_arms_that_load(evsim):
    evsim("new", "study", "first")
    study = Study.load("first.toml")
    assert study.name == "first"
    assert len(study.scenarios()) == 2 * 5
    assert study.target() is not None


def test_a_dry_run_of_what_was_begun_uses_it(evsim):
    evsim("new", "selector", "mine")
    assert evsim("run", "mine.toml", "-o", "training=none", "-o", "stop.rounds=5", "--out", "run").exit_code == 0
    assert Scenario.load("run").selection.pool == 3


def test_nothing_is_overwritten(evsim, tmp_path):
    (tmp_path / "mine.py").write_text("precious", encoding="utf-8")
    done = evsim("new", "listener", "mine.toml")
    assert done.exit_code == BAD_INPUT
    assert "mine.py: exists; choose another name" in done.stderr
    assert (tmp_path / "mine.py").read_text(encoding="utf-8") == "precious"
    assert not (tmp_path / "mine.toml").exists()


def test_other_words_for_slots_are_understood():
    words = ("selector", "rule", "aggregator", "optimizer")
    slots = ("selection", "client_rule", "aggregation", "server_optimizer")
    for word, slot in zip(words, slots, strict=True):
        assert starting_point(word, Path("x")) == starting_point(slot, Path("x"))


def test_the_aggregator_to_begin_from_does_what_it_says(evsim):
    evsim("new", "aggregator", "mine")
    evsim("run", "mine.toml", "-o", "training=none", "-o", "stop.server_steps=20", "--out", "run")
    steps = load_run("run").server_steps
    goals = steps["goal"].to_numpy()
    assert goals[0] == 5
    assert goals.max() == 20
    assert (goals <= 20).all()
