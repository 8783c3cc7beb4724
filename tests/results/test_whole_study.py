"""A study as one set of tables, and what notebooks show."""

from __future__ import annotations

import json

import pandas as pd
import pytest

import evsim
from evsim.base.errors import RunFolderError
from evsim.results.arms import load_arms
from evsim.results.run import Run
from evsim.results.standing import STUDY_FILE, failure_of
from tests.results.hand_made import write

SEEDS = (0, 3)


@pytest.fixture
def folder(tmp_path):
    """Two arms of two seeds each, of which the last run failed."""
    for arm in ("a", "b"):
        for seed in SEEDS:
            place = tmp_path / arm / f"seed-{seed}"
            if (arm, seed) != ("b", 3):
                write(place, seed=seed, scenario=f'name = "{arm}"\nseed = {seed}\n')
    (tmp_path / "b").mkdir(exist_ok=True)
    why = json.dumps({"reason": "it <b>diverged</b>"})
    failure_of(tmp_path / "b" / "seed-3").write_text(why, encoding="utf-8")
    told = {"name": "two & two", "seeds": SEEDS, "target_accuracy": 0.8}
    told["arms"] = {"first arm": {"folder": "a"}, "second arm": {"folder": "b"}}
    (tmp_path / STUDY_FILE).write_text(json.dumps(told), encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize("table", ["tasks", "server_steps", "evaluations", "clients"])
def test_a_table_is_that_of_every_run_with_arm_and_seed_in_front(folder, table):
    study = evsim.load_study(folder)
    assert list(study.runs) == [("first arm", 0), ("first arm", 3), ("second arm", 0)]
    whole = getattr(study, table)
    assert list(whole.columns[:2]) == ["arm", "seed"]
    for (arm, seed), run in study.runs.items():
        mine = whole[(whole["arm"] == arm) & (whole["seed"] == seed)].drop(columns=["arm", "seed"])
        own = getattr(run, table)
        pd.testing.assert_frame_equal(mine.reset_index(drop=True), own, check_categorical=False)
        assert (mine.dtypes.astype(str) == own.dtypes.astype(str)).all()


def test_what_is_not_done_is_listed_with_its_reason(folder):
    lost = evsim.load_study(folder).not_done
    assert lost.to_dict("records") == [{"arm": "second arm", "seed": 3, "state": "failed", "why": "it <b>diverged</b>"}]


def test_a_study_shows_what_it_has_and_lacks(folder):
    study = evsim.load_study(folder)
    assert repr(study) == "StudyRuns('two & two', 3 runs done, 1 not)"
    shown = study._repr_html_()
    assert "two &amp; two" in shown
    assert "it &lt;b&gt;diverged&lt;/b&gt;" in shown
    (row,) = [line for line in shown.split("<tr>") if "second arm" in line and "diverged" not in line]
    cells = [each.split(">", 1)[1] for each in row.split("</td>")[:-1]]
    assert cells == ["second arm", "1", "1", "0", "0"]


def test_arms_show_their_comparison_and_their_curves(folder):
    shown = evsim.load_study(folder).arms()._repr_html_()
    assert "time to accuracy 0.8" in shown
    assert shown.count("data:image/png;base64,") == 1
    assert "first arm" in shown
    assert list(load_arms([folder]).runs) == ["first arm", "second arm"]


def test_a_run_shows_its_summary_and_its_picture(tiny):
    shown = tiny._repr_html_()
    assert "tiny, seed 0" in shown
    assert shown.count("data:image/png;base64,") == 1
    assert "http" not in shown


def test_a_run_that_was_killed_or_is_damaged_shows_that(tiny):
    assert "killed" in Run(tiny.folder, partial=True)._repr_html_()
    (tiny.folder / "tasks.parquet").write_bytes(b"no table")
    assert "tasks.parquet" in Run(tiny.folder)._repr_html_()


def test_what_is_no_study_is_one_sentence(folder, tmp_path):
    with pytest.raises(RunFolderError, match=r"no such table; did you mean 'tasks'\?"):
        evsim.load_study(folder).table("task")
    with pytest.raises(RunFolderError, match=r"study\.json"):
        evsim.load_study(tmp_path / "a")
    told = json.loads((folder / STUDY_FILE).read_text()) | {"seeds": [7]}
    (folder / STUDY_FILE).write_text(json.dumps(told))
    with pytest.raises(RunFolderError, match="expected a run that is done; run evsim sweep"):
        evsim.load_study(folder)
