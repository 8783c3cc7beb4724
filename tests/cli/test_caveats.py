"""A caveat is everywhere: every command that may say it does, once, with its measure and its remedy."""

from __future__ import annotations

import html
import json

import pytest
from typer.testing import CliRunner

from evsim.base.caveat import Caveat
from evsim.cli import app

#: A run of a second with caveats of its scenario, of what it opens, and of its tables.
SCENARIO = """
extends = "quickstart"
unset = ["aggregation.reporting_deadline"]
stop = { server_steps = 4 }
weighting = { kind = "hinge_staleness" }
executor = { kind = "serial" }
[population]
clients = 60
[aggregation]
kind = "synchronous"
cohort_goal = 4
minimum_cohort = 4
minimum_reports = 4
over_commitment = 1.04
"""
KEYS = ("nothing_to_discount", "no_deadline", "independent_pairs")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """With a scenario and a study of it."""
    made = tmp_path_factory.mktemp("caveats")
    (made / "s.toml").write_text(SCENARIO)
    (made / "study.toml").write_text(
        'scenario = "s.toml"\nseeds = 1\ntarget_accuracy = 0.2\n[arms]\na = []\nb = ["aggregation.cohort_goal=5"]\n'
    )
    return made


def said(folder, *arguments):
    """Everything that a command prints, on one line."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        done = CliRunner().invoke(app, [str(each) for each in arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return " ".join(done.output.split())  # a table breaks lines


@pytest.fixture(scope="module")
def ran(folder):
    """What `run` printed, and the caveats of the manifest."""
    printed = said(folder, "run", "s.toml", "--out", "run")
    manifest = json.loads((folder / "run" / "manifest.json").read_text(encoding="utf-8"))
    return printed, [Caveat.from_json(each) for each in manifest["caveats"]]


def test_run_says_each_once(ran):
    printed, caveats = ran
    assert len(caveats) > len(KEYS)  # some show in the tables only
    assert len({each.key for each in caveats}) == len(caveats)
    assert [printed.count(each.text) for each in caveats] == [1] * len(caveats)
    assert all(str(each) in printed for each in caveats)


def test_resume_of_a_run_that_is_over_says_each_once(folder, ran):
    printed = said(folder, "resume", "run")
    assert [printed.count(str(each)) for each in ran[1]] == [1] * len(ran[1])


@pytest.fixture(scope="module")
def everywhere(folder, ran):
    """What each command printed; and the pages."""
    printed = {
        "run": ran[0],
        "check": said(folder, "check", "s.toml"),
        "sweep": said(
            folder, "sweep", "study.toml", "--out", "study", "--processes", 1
        ),  # ends with compare and report
        "compare": said(folder, "compare", "study"),
        "describe": said(folder, "describe", "run"),
        "report": said(folder, "report", "run"),
    }
    pages = [(folder / each / "report.html").read_text(encoding="utf-8") for each in ("run", "study")]
    return printed, [" ".join(html.unescape(page).split()) for page in pages]


@pytest.mark.parametrize("key", KEYS)
def test_a_caveat_is_said_by_every_command_once_and_stands_on_every_page(ran, everywhere, key):
    (caveat,) = (each for each in ran[1] if each.key == key)
    assert caveat.remedy
    assert caveat.measure or key == "nothing_to_discount"
    printed, pages = everywhere
    assert {name: words.count(caveat.text) for name, words in printed.items()} == {
        name: int(name != "report") for name in printed
    }
    assert all(str(caveat) in words for name, words in printed.items() if name != "report")
    assert all(str(caveat) in page for page in pages)
