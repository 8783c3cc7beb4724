"""A sweep deletes nothing that evsim did not make, and two sweeps never share a folder."""

from __future__ import annotations

import gc
import json
import os
import re
import signal
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from evsim.base.errors import EvsimError, RunFolderError, ScenarioError
from evsim.base.lock import LOCK_FILE, holder, locked
from evsim.cli import app
from evsim.results.arms import load_arms, read_study
from evsim.results.standing import State, failure_of, part_of, standings
from evsim.run.simulation import Simulation
from evsim.scenario import Scenario
from evsim.study import Study, folders, running, sweep
from evsim.study.processes import tidy
from evsim.training.learning.learning import Learning
from tests.study.test_sweep import SHORT

STUDY = Study(name="tiny", scenario="quickstart", arms={"a": ()}, seeds=(0, 1), target_accuracy=0.2, overrides=SHORT)
TEXT = STUDY.scenarios()["a", 0].to_toml()


def snapshot(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def a_file(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("mine")


def broken_with_notes(out):
    a_file(out / "a/seed-0/notes.txt")
    (out / "a/seed-0/scenario.toml").write_text(TEXT)


FOREIGN = {
    "a folder with something in it": lambda out: a_file(out / "thesis.tex"),
    "a study file that is none": lambda out: a_file(out / "study.json"),
    "another study": lambda out: (out.mkdir(), (out / "study.json").write_text('{"name":"x","arms":{},"seeds":[]}')),
    "something in place of a run": lambda out: (a_file(out / LOCK_FILE), a_file(out / "a/seed-0/photo.jpg")),
    "a file in place of a run": lambda out: (a_file(out / LOCK_FILE), a_file(out / "a/seed-0")),
    "notes in a broken run": lambda out: (a_file(out / LOCK_FILE), broken_with_notes(out)),
    "a hidden folder of somebody": lambda out: (a_file(out / LOCK_FILE), a_file(out / "a/.seed-0.part/photo.jpg")),
    "only tables": lambda out: (a_file(out / LOCK_FILE), a_file(out / "a/seed-0/tasks.parquet")),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_what_evsim_did_not_make_stays_and_is_named(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(running, "in_processes", lambda *_, **__: iter(()))
    FOREIGN[kind](tmp_path / "out")
    before = {path: content for path, content in snapshot(tmp_path).items() if path.name != LOCK_FILE}
    with pytest.raises(EvsimError, match=r"(choose another --out|not valid JSON)"):
        sweep(STUDY, tmp_path / "out", processes=1)
    after = snapshot(tmp_path)
    assert all(
        after[path] == content for path, content in before.items() if path.name != "study.json" or "a" not in kind
    )
    assert before.keys() <= after.keys()


def test_links_are_never_followed(tmp_path):
    a_file(tmp_path / "precious/scenario.toml")
    for name in ("seed-0", ".seed-0.part"):
        link = tmp_path / name
        link.symlink_to(tmp_path / "precious")
        with pytest.raises(RunFolderError):
            folders.is_done(tmp_path / name, TEXT) if name == "seed-0" else folders.clear_part(tmp_path / "seed-0")
        link.unlink()
    assert (tmp_path / "precious/scenario.toml").read_text() == "mine"


def half_made(run: Path, scenario: Scenario) -> Path:
    """What a sweep leaves that is killed while a run goes on: the run after a few steps."""

    class Ends:
        def round_closed(self, at, row):
            if row["version"] == 2:
                os.kill(os.getpid(), signal.SIGTERM)

    return Simulation(scenario, device="cpu", listeners=[Ends()]).run(folders.begin(run))


def content(run: Path) -> dict[str, Any]:
    told = {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}
    manifest = json.loads(told["manifest.json"])
    return told | {"manifest.json": {key: manifest[key] for key in manifest if key not in ("wall_s", "engine")}}


def test_half_made_runs_go_on_where_they_were(tmp_path):
    scenario = next(iter(STUDY.scenarios().values()))
    whole = Simulation(scenario, device="cpu").run(tmp_path / "whole")
    run = tmp_path / "out/a/seed-0"
    half_made(run, scenario)
    over = running.run_one(str(run), scenario.to_toml(), str(scenario.folder.resolve()), str(tmp_path))
    assert over == running.Over(note="went on where it was")
    assert content(run) == content(whole)
    assert not part_of(run).exists()


def test_a_half_made_run_that_cannot_go_on_begins_anew_and_says_why(tmp_path):
    scenario = next(iter(STUDY.scenarios().values()))
    whole = Simulation(scenario, device="cpu").run(tmp_path / "whole")
    run = tmp_path / "a/seed-0"
    half = half_made(run, scenario) / "resume/run.json"
    half.write_text(json.dumps(json.loads(half.read_text()) | {"data": "other"}))
    over = running.run_one(str(run), scenario.to_toml(), str(scenario.folder.resolve()), str(tmp_path))
    assert over.error == ""
    assert re.fullmatch("begun anew: .*data: '[0-9a-f]+' now; expected 'other'.*", over.note)
    assert content(run) == content(whole)


def test_a_run_that_fails_keeps_what_it_can_go_on_from(tmp_path, monkeypatch):
    scenario = next(iter(STUDY.scenarios().values()))
    run, arguments = tmp_path / "a/seed-0", (scenario.to_toml(), str(scenario.folder.resolve()), str(tmp_path))
    half_made(run, scenario)

    def breaks(*_, **__):
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(Learning, "apply", breaks)
        failed = running.run_one(str(run), *arguments)
    assert "out of memory" in failed.error
    folders.clear_hopeless_part(run)
    assert running.run_one(str(run), *arguments).note == "went on where it was"
    folders.begin(run.with_name("seed-1"))
    folders.clear_hopeless_part(run.with_name("seed-1"))
    assert not part_of(run.with_name("seed-1")).exists()


def test_half_runs_of_earlier_versions_are_cleared_and_nothing_else(tmp_path):
    a_file(tmp_path / ".seed-0.4711/scenario.toml")
    a_file(tmp_path / ".seed-0.4712/thesis.tex")
    a_file(tmp_path / ".seed-0.old/scenario.toml")
    folders.clear_old_parts(tmp_path / "seed-0")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".seed-0.4712", ".seed-0.old"]


BAD_NAMES = [
    "..",
    ".",
    ".hidden",
    "",
    "CON",
    "nul",
    "Com1.x",
    "x" * 300,
    "é" * 150,
    "study.json",
    "end.",
    "Report.HTML",
]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_names_that_leave_the_folder_or_are_none_are_refused(name):
    with pytest.raises(ScenarioError, match="arms: "):
        replace(STUDY, arms={"fine": (), name: ()})
    with pytest.raises(ScenarioError, match="name: "):
        replace(STUDY, name=name)


@pytest.mark.parametrize("name", ["../x", "a/b", "/etc", "a\\b", "c:x", "a\0b", "a\nb"])
def test_a_study_is_a_single_folder(name):
    with pytest.raises(ScenarioError, match="name: "):
        replace(STUDY, name=name)


@pytest.mark.parametrize("pair", [("a", "A"), ("ß", "SS"), ("a b", "a_b"), ("K", "\u212a"), ("ﬁ", "fi")])
def test_arms_that_some_disk_takes_for_one_are_refused(pair):
    with pytest.raises(ScenarioError, match="becomes the same folder"):
        replace(STUDY, arms=dict.fromkeys(pair, ()))


@pytest.mark.parametrize("name", ["lr=0.1, wd=1", "../../x/y"[3:].replace("..", "up"), "oort+refl", "ünder"])
def test_other_names_are_taken(name):
    assert replace(STUDY, arms={name: ()}).arms == {name: ()}


def test_a_second_sweep_is_refused_and_a_stale_lock_is_none(tmp_path):
    with locked(tmp_path):
        assert holder(tmp_path).pid == os.getpid()
        with pytest.raises(RunFolderError, match=rf"process {os.getpid()} on .* works in it"), locked(tmp_path):
            pass
    assert holder(tmp_path) is None
    lock = tmp_path / LOCK_FILE
    dead = {"pid": 2**22 + 1, "host": holder_host(tmp_path), "since": 0.0}
    lock.write_text(json.dumps(dead))
    with locked(tmp_path):
        assert holder(tmp_path).pid == os.getpid()
    lock.write_text(json.dumps(dead | {"host": "elsewhere"}))
    with pytest.raises(RunFolderError, match="on elsewhere works in it"), locked(tmp_path):
        pass
    os.utime(lock, (lock.stat().st_mtime - 1000,) * 2)
    with locked(tmp_path):
        pass
    for damaged in ("", "[", '{"pid": "x"}', "[" * 9999):
        lock.write_text(damaged)
        with locked(tmp_path):
            pass


def holder_host(folder):
    with locked(folder):
        return holder(folder).host


@pytest.fixture(scope="module")
def one_of_two(tmp_path_factory):
    """A study of which one run is done and one failed."""
    out = tmp_path_factory.mktemp("study") / "out"
    bad = replace(STUDY, arms={"a": (), "b": ("data.dataset={kind='arrays',path='nowhere'}",)}, seeds=(0,))
    with pytest.raises(EvsimError, match=r"b.seed-0: .*nowhere"):
        sweep(bad, out, processes=1, retry=1)
    return out


def test_a_folder_tells_how_far_a_study_is(one_of_two):
    found = standings(one_of_two, read_study(one_of_two))
    assert [(each.arm, each.seed, each.state) for each in found] == [("a", 0, State.DONE), ("b", 0, State.FAILED)]
    assert "nowhere" in found[1].why
    done = CliRunner().invoke(app, ["sweep", str(one_of_two), "--status"])
    assert done.exit_code == 0, done.output
    assert "tiny: 1 done, 1 failed of 2 runs; nobody works on it" in done.output
    with locked(one_of_two):
        folders.begin(one_of_two / "b/seed-0")
        again = standings(one_of_two, read_study(one_of_two))
        assert again[1].state is State.RUNNING
    assert standings(one_of_two, read_study(one_of_two))[1].state is State.FAILED


def test_an_unfinished_study_can_be_compared_and_says_what_is_missing(one_of_two):
    arms = load_arms([one_of_two], running_mean=1)
    assert list(arms.runs) == ["a"]
    done = CliRunner().invoke(app, ["compare", str(one_of_two), "--running-mean", "1"])
    assert done.exit_code == 0, done.output
    assert "the study is not finished" in done.output
    assert "1 of 2 runs missing: b seed 0 (failed)" in done.output


def test_a_study_is_read_while_a_sweep_works_in_it_and_a_second_sweep_is_refused(one_of_two):
    before = snapshot(one_of_two)
    with locked(one_of_two):
        for command in (["compare", str(one_of_two), "--running-mean", "1"], ["sweep", str(one_of_two), "--status"]):
            done = CliRunner().invoke(app, command)
            assert done.exit_code == 0, done.output
        assert f"process {os.getpid()} on " in done.output
        again = replace(STUDY, arms={"a": ()}, seeds=(0,))
        with pytest.raises(RunFolderError, match=rf"process {os.getpid()} on .* works in it"):
            sweep(again, one_of_two, processes=1)
        during = snapshot(one_of_two)
    assert {path: content for path, content in during.items() if path.name != LOCK_FILE} == {
        path: content for path, content in before.items() if path.name != LOCK_FILE
    }


def test_a_study_of_which_nothing_is_done_is_refused_in_words(tmp_path):
    told = {"name": "x", "seeds": [0], "arms": {"a": {"folder": "a"}}, "executors": []}
    (tmp_path / "study.json").write_text(json.dumps(told))
    with pytest.raises(RunFolderError, match="1 to do; expected a run that is done"):
        load_arms([tmp_path])


@pytest.mark.parametrize("folder", ["..", "../x", "/etc", "", 3, None])
def test_a_study_file_leads_nowhere_else(tmp_path, folder):
    told = {"name": "x", "seeds": [0], "arms": {"a": {"folder": folder}}, "executors": []}
    (tmp_path / "study.json").write_text(json.dumps(told))
    with pytest.raises(RunFolderError, match="damaged"):
        read_study(tmp_path)


def test_a_failure_is_written_down_and_forgotten_when_the_run_is_done(tmp_path):
    run = tmp_path / "a/seed-0"
    folders.fail(run, "no luck")
    assert json.loads(failure_of(run).read_text()) == {"reason": "no luck"}
    folders.begin(run).mkdir()
    folders.finish(run)
    assert not failure_of(run).exists()
    assert run.is_dir()


def test_nothing_of_a_finished_run_stays_alive(tmp_path):
    def alive():
        tidy()
        names = ("_Live", "LiveServer", "ClientManager", "Learning", "Recorder", "Sessions")
        return Counter(name for each in gc.get_objects() if (name := type(each).__name__) in names)

    before = alive()
    assert running.run_one(str(tmp_path / "a/seed-0"), TEXT, str(Path.cwd()), str(tmp_path)) == running.Over()
    assert alive() == before
