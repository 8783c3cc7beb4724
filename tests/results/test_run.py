"""Loading runs: types, laziness, killed runs, and folders that are none."""

from __future__ import annotations

import pandas as pd
import pytest

import evsim
from evsim.base.errors import RunFolderError
from evsim.results import load_run, load_runs, stack
from evsim.results.plots import plot_run
from evsim.results.summary import summary_table
from evsim.run.recorder import Recorder, keep_scenario
from evsim.run.schema import TABLES, columns
from tests.results.hand_made import write


def test_every_table_comes_back_with_its_columns(tiny):
    for table in TABLES:
        assert tuple(getattr(tiny, table).columns) == columns(table)


def test_types_are_tidy(tiny):
    types = tiny.tasks.dtypes.astype(str)
    assert types[["ended_at", "staleness", "server_step"]].tolist() == ["Int64"] * 3
    assert types[["outcome", "kind"]].tolist() == ["category"] * 2
    assert types["dispatched_at"] == "int64"
    assert tiny.tasks["ended_at"].isna().sum() == 1


def test_tables_are_read_when_first_asked_for(tiny):
    (tiny.folder / "clients.parquet").write_bytes(b"PAR1 no more")
    again = load_run(tiny.folder)
    assert len(again.tasks) == 8
    with pytest.raises(RunFolderError, match=r"clients.parquet: cannot be read"):
        again.clients  # noqa: B018


def test_a_run_says_who_it_is(tiny):
    assert (tiny.name, tiny.seed, tiny.end_ms, tiny.start_ms) == ("tiny", 0, 1_000, 18 * 3_600_000)
    assert repr(tiny).startswith("Run('tiny', seed=0")


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(RunFolderError, match="no such folder; expected the folder of a run"):
        load_run(tmp_path / "nowhere")
    with pytest.raises(RunFolderError, match=r"no manifest.json; expected the folder of a run; evsim run"):
        load_run(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(RunFolderError, match="a file; expected the folder of a run"):
        load_run(tmp_path / "file")


def test_a_manifest_that_is_none_is_refused(tiny):
    (tiny.folder / "manifest.json").write_text("{}")
    with pytest.raises(RunFolderError, match=r"manifest.json: keys are missing"):
        load_run(tiny.folder)
    (tiny.folder / "manifest.json").write_text("{")
    with pytest.raises(RunFolderError, match="the manifest of a run"):
        load_run(tiny.folder)


def test_a_killed_run_can_be_read_in_part(tmp_path):
    recorder = Recorder(tmp_path / "run")
    recorder.append(
        "evaluations",
        {"at": [0, 7], "version": [0, 1], "trigger": ["start", "grid"]}
        | {"split": ["test"] * 2, "metric": ["accuracy"] * 2, "value": [0.1, 0.6]},
    )
    recorder.flush()
    with pytest.raises(RunFolderError, match=r"killed; its journal holds 2 evaluations"):
        load_run(tmp_path / "run")
    run = load_run(tmp_path / "run", partial=True)
    assert (run.end_ms, run.manifest["end"]["reason"], run.seed, run.scenario_toml) == (7, "killed", None, "")
    assert run.time_to_accuracy(0.5) == pd.Timedelta(milliseconds=7)
    assert dict(summary_table(run))["run"] == "run"


def test_a_killed_run_says_what_it_was(tmp_path):
    recorder = Recorder(tmp_path / "run")
    keep_scenario(recorder.folder, 'name = "commuters"\nseed = 3\nstart = "18:00"\n')
    recorder.flush()
    run = load_run(tmp_path / "run", partial=True)
    assert (run.name, run.seed, run.start_ms) == ("commuters", 3, 18 * 3_600_000)


def test_load_runs_takes_finished_runs_in_order_and_stacks_them(tmp_path):
    for seed in (1, 0):
        write(tmp_path / f"run-{seed}", seed=seed)
    Recorder(tmp_path / "run-killed")
    (tmp_path / "run-notes").mkdir()
    runs = load_runs(tmp_path / "run-*")
    assert [run.seed for run in runs] == [0, 1]
    tasks = stack(runs, "tasks")
    assert tasks.groupby(["run", "seed"], observed=True).size().tolist() == [8, 8]
    assert str(tasks["outcome"].dtype) == "category"
    with pytest.raises(RunFolderError, match="did you mean 'tasks'"):
        stack(runs, "task")


def test_load_runs_without_a_match_says_so(tmp_path):
    with pytest.raises(RunFolderError, match="no finished run matches"):
        load_runs(tmp_path / "*")


def test_a_target_that_only_the_last_evaluation_reaches_is_no_time_and_is_said(tmp_path):
    run = write(tmp_path / "run", trigger="final")
    assert run.time_to_accuracy(0.8) is None
    assert dict(summary_table(run))["time to accuracy"] == "0.8: only at the run's end, between two evaluations"


def test_summary_says_what_came_out(tiny):
    found = dict(summary_table(tiny))
    assert found["rounds"] == "3, 1 of them failed"
    assert found["time to accuracy"].startswith("0.8 first after 0.4 s")
    assert found["clients asked"] == "5 of 6"
    assert found["device time"] == "1.18 s, 34% of it in merged updates"
    assert found["tasks"].startswith("8: 1 in flight, 3 aggregated, 1 surplus, 1 late, 1 dropped, 1 round failed")


def test_the_picture_of_a_run_is_a_png(tiny, tmp_path):
    assert plot_run(tiny, tmp_path / "run.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(RunFolderError, match="cannot be written"):
        plot_run(tiny, tmp_path / "none" / "run.png")


def test_the_public_names_lead_to_the_results():
    assert evsim.load_run is load_run
