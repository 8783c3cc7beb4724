"""Commands that write what one begins from: schemas and starting points."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from evsim.cli import app

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
        (("schema", "--out", "no/such/it.json"), "no/such/it.json"),
        (("schema", "--plugins", "nowhere"), "nowhere: no such folder; expected a folder with Python files"),
    ],
    ids=["unknown", "out", "plug-ins"],
)
def test_bad_input_is_one_sentence(evsim, arguments, said):
    done = evsim(*arguments)
    assert done.exit_code == BAD_INPUT
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_shells_can_be_completed(evsim):
    assert "--install-completion" in evsim("--help").stdout
