"""Folders older and newer than this evsim: what they lack is named, and nothing is guessed."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from evsim.base.errors import EvsimError, RunFolderError
from evsim.results import load_run, stack
from evsim.results.report import run_page
from evsim.run.recorder import Recorder
from evsim.run.schema import FORMAT, TABLES, columns
from tests.results.hand_made import write


def rewrite(folder, table, change):
    path = folder / f"{table}.parquet"
    pq.write_table(change(pq.read_table(path)), path)


def manifest(folder, **changes):
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(("table", "column"), [(t, columns(t)[-1]) for t in TABLES])
def test_a_column_that_an_older_folder_lacks_is_named_and_asking_for_it_is_answered(tiny, table, column):
    rewrite(tiny.folder, table, lambda found: found.drop_columns([column]))
    run = load_run(tiny.folder)
    assert run.missing == {table: (column,)}
    frame = getattr(run, table)
    assert list(frame.columns) == [name for name in columns(table) if name != column]
    told = rf"{table}: no column {column}: the run was written before there was one; .*Run.missing lists"
    for ask in (column, [column]):
        with pytest.raises(RunFolderError, match=told):
            frame[ask]
    with pytest.raises(KeyError):  # as every frame answers
        frame[column]
    with pytest.raises(RunFolderError, match=told):  # what is made from it knows as well
        frame.head(1)[column]
    with pytest.raises(KeyError, match="no_such"):
        frame["no_such"]
    assert list(frame.assign(**{column: 1})[column]) == [1] * len(frame)


def test_a_folder_with_everything_lacks_nothing(tiny):
    assert tiny.missing == {}
    assert tiny.format == 1


def test_tables_that_came_later_are_not_needed(tiny):
    for table in ("availability", "sessions"):
        (tiny.folder / f"{table}.parquet").unlink()
    run = load_run(tiny.folder)
    assert run.missing == {table: columns(table) for table in ("availability", "sessions")}
    with pytest.raises(RunFolderError, match="no such table: the run was written before there was one"):
        run.sessions  # noqa: B018
    assert run.caveats
    assert len(stack([run], "tasks")) == 8


def test_a_column_that_is_not_known_yet_is_read_as_it_is(tiny):
    rewrite(tiny.folder, "tasks", lambda found: found.append_column("mood", pa.array([*range(7), None])))
    run = load_run(tiny.folder)
    assert list(run.tasks.columns) == [*columns("tasks"), "mood"]
    assert run.tasks["mood"].sum() == 21


def test_an_older_folder_has_a_report(tiny):
    rewrite(tiny.folder, "server_steps", lambda found: found.drop_columns(["mean_staleness"]))
    assert "<title>tiny, seed 0</title>" in run_page(load_run(tiny.folder))


@pytest.mark.parametrize("given", [FORMAT + 1, 99, "two"])
def test_a_newer_format_is_refused_in_a_sentence(tiny, given):
    manifest(tiny.folder, format=given, evsim="9.0")
    told = rf"format {given!r}, written by evsim 9.0; expected format {FORMAT} or older; read it with that evsim"
    with pytest.raises(EvsimError, match=told):
        load_run(tiny.folder)


@pytest.mark.parametrize("end", ["x", None, {"at": 5}, {"at": "5", "reason": "goal"}, [1]])
def test_a_manifest_that_does_not_say_when_the_run_ended_is_refused(tiny, end):
    manifest(tiny.folder, end=end)
    with pytest.raises(RunFolderError, match="when and why the run ended"):
        load_run(tiny.folder).manifest  # noqa: B018  reading it is what raises


@pytest.mark.parametrize("content", [b"a = = b", b"\xff\xfe", b"x\x00"])
def test_a_damaged_scenario_is_refused(tiny, content):
    (tiny.folder / "scenario.toml").write_bytes(content)
    with pytest.raises(RunFolderError, match=r"scenario\.toml: .*; expected (TOML|the scenario of a run)"):
        run_page(load_run(tiny.folder))


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1xxxxPAR1"])
@pytest.mark.parametrize("table", TABLES)
def test_a_damaged_table_is_named_by_what_a_run_lacks(tiny, table, content):
    (tiny.folder / f"{table}.parquet").write_bytes(content)
    with pytest.raises(RunFolderError, match=rf"{table}\.parquet: cannot be read"):
        load_run(tiny.folder).missing  # noqa: B018  reading it is what raises


def test_tables_that_do_not_fit_each_other_have_no_report(tiny):
    rewrite(tiny.folder, "clients", lambda found: found.slice(0, 0))
    with pytest.raises(RunFolderError, match="tables that do not fit each other"):
        run_page(load_run(tiny.folder))


def test_the_format_of_today_is_read(tmp_path):
    assert write(tmp_path / "run", format=FORMAT).format == FORMAT


def test_a_killed_run_of_an_older_layout_is_read_as_far_as_it_goes(tmp_path):
    recorder = Recorder(tmp_path / "run")
    recorder.append("availability", {"at": [0, 500], "online": [6, 4]})
    recorder.flush()
    old = pa.table({"at": [0, 500]})
    with pa.ipc.new_stream(str(tmp_path / "run" / "journal" / "availability.arrows"), old.schema) as stream:
        stream.write_table(old)
    run = load_run(tmp_path / "run", partial=True)
    assert run.availability["at"].tolist() == [0, 500]
    with pytest.raises(RunFolderError, match="no column online"):
        run.availability["online"]
