"""The run folder: what goes in comes out, also from a run that was killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file

from evsim.base.errors import RunFolderError
from evsim.base.vocabulary import Outcome
from evsim.results import load_run
from evsim.run.recorder import Recorder, is_unfinished, read_journal, schema
from evsim.run.schema import TABLES, columns

STEP = {
    "round": [0, 1],
    "version": [1, 1],
    "started_at": [0, 10],
    "deadline_at": [10, 20],
    "closed_at": [10, 20],
    "reason": ["goal", "deadline"],
    "applied": [True, False],
    "by": ["", ""],
    "idle": [5, 2],
    "invited": [2, 2],
    "goal": [2, 2],
    "reports": [2, 0],
    "dropped": [0, 1],
    "late": [0, 1],
    "mean_staleness": [0.0, float("nan")],
}


def tasks(count, first=0):
    numbers = np.arange(first, first + count)
    table: dict[str, object] = dict.fromkeys(columns("tasks"), numbers)
    table |= {"kind": np.array(["train"] * count, object), "outcome": np.full(count, Outcome.DROPPED, np.int8)}
    return table | {"staleness": np.full(count, -1), "server_step": np.full(count, -1)}


def finish(recorder, **tensors):
    manifest = {"name": "x", "seed": 0, "start_ms": 0, "end": {"at": 20, "reason": "rounds"}}
    recorder.finish(manifest=manifest, scenario_toml='name = "x"\n', tensors=tensors or None)


def test_rows_come_back_with_the_types_of_the_dataclasses(tmp_path):
    recorder = Recorder(tmp_path / "run")
    recorder.append("tasks", tasks(2))
    recorder.append("tasks", tasks(1, first=2))
    recorder.append("server_steps", STEP)
    finish(recorder)
    found = pq.read_table(tmp_path / "run" / "tasks.parquet", schema=schema("tasks"))
    assert found.column("task").to_pylist() == [0, 1, 2]
    assert found.column("outcome").to_pylist() == ["dropped"] * 3
    assert found.column("staleness").to_pylist() == [None] * 3
    steps = pq.read_table(tmp_path / "run" / "server_steps.parquet").to_pydict()
    assert {name: steps[name] for name in columns("server_steps")[:-1]} == {
        name: STEP[name] for name in columns("server_steps")[:-1]
    }
    assert steps["mean_staleness"][0] == 0.0
    assert np.isnan(steps["mean_staleness"][1])


def test_every_table_exists_even_without_rows(tmp_path):
    finish(Recorder(tmp_path / "run"))
    for table in TABLES:
        found = pq.read_table(tmp_path / "run" / f"{table}.parquet")
        assert (found.schema.names, len(found)) == (list(columns(table)), 0)
        assert found.schema.types == schema(table).types


def test_columns_that_may_be_null_are_the_ones_whose_fields_may_be_none():
    nullable = [field.name for field in schema("tasks") if field.nullable]
    assert nullable == ["ended_at", "known_at", "staleness", "server_step", "used_at", "max_steps"]
    assert schema("evaluations").field("value").type == pa.float64()
    assert schema("server_steps").field("applied").type == pa.bool_()


def test_finish_leaves_the_files_of_a_run_and_nothing_temporary(tmp_path):
    recorder = Recorder(tmp_path / "run")
    finish(recorder, weight=np.eye(2, dtype=np.float32))
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {f"{table}.parquet" for table in TABLES} | {"scenario.toml", "manifest.json", "model.safetensors"}
    assert json.loads((tmp_path / "run" / "manifest.json").read_text())["seed"] == 0
    np.testing.assert_array_equal(load_file(tmp_path / "run" / "model.safetensors")["weight"], np.eye(2))
    assert not is_unfinished(tmp_path / "run")


def test_tensors_keep_their_shapes_and_values(tmp_path):
    tensors = {"scalar": np.array(3.5), "counter": np.array(7), "turned": np.arange(6.0).reshape(2, 3).T}
    finish(Recorder(tmp_path / "run"), **tensors)
    found = load_file(tmp_path / "run" / "model.safetensors")
    for name, tensor in tensors.items():
        assert found[name].shape == tensor.shape
        np.testing.assert_array_equal(found[name], tensor)


def test_an_empty_folder_is_taken_and_a_full_one_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    Recorder(tmp_path / "empty")
    with pytest.raises(RunFolderError, match=r"empty: exists and is not empty; choose another folder with --out"):
        Recorder(tmp_path / "empty")


def test_a_file_in_the_way_is_refused(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(RunFolderError, match="exists and is not empty"):
        Recorder(tmp_path / "file")
    with pytest.raises(RunFolderError, match="cannot be written"):
        Recorder(tmp_path / "file" / "below")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(RunFolderError, match="cannot be written"):
        Recorder(tmp_path / "run")


def test_an_unknown_outcome_code_is_refused(tmp_path):
    recorder = Recorder(tmp_path / "run")
    recorder.append("tasks", tasks(1) | {"outcome": np.array([99], np.int8)})
    with pytest.raises(pa.ArrowIndexError):
        recorder.flush()


def test_rows_come_in_lists_and_arrays_of_any_length(tmp_path):
    recorder = Recorder(tmp_path)
    recorder.append("availability", {"at": [0], "online": [5]})
    recorder.append("availability", {"at": np.array([1, 2]), "online": np.array([6, 7])})
    recorder.append("availability", {"at": [], "online": []})
    finish(recorder)
    assert pq.read_table(tmp_path / "availability.parquet").to_pydict() == {"at": [0, 1, 2], "online": [5, 6, 7]}


def test_a_run_flushes_every_few_seconds_so_that_little_is_lost(tmp_path, monkeypatch):
    recorder = Recorder(tmp_path)
    recorder.append("server_steps", STEP)
    assert len(read_journal(tmp_path, "server_steps")) == 0
    monkeypatch.setattr("evsim.run.recorder._FLUSH_EVERY_S", 0.0)
    recorder.append("availability", {"at": [0], "online": [5]})
    assert len(read_journal(tmp_path, "server_steps")) == 2


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {here!r})
from test_recorder import tasks
from evsim.run.recorder import Recorder
recorder = Recorder(Path({folder!r}))
for first in range(0, 200_000, 50_000):
    recorder.append("tasks", tasks(50_000, first))
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_rows_reach_the_journal_while_nobody_asks(tmp_path, monkeypatch):
    monkeypatch.setattr("evsim.run.recorder._FLUSH_EVERY_S", 0.05)
    recorder = Recorder(tmp_path)
    recorder.append("availability", {"at": [0], "online": [5]})
    recorder.append("server_steps", STEP)
    wait_until(lambda: len(read_journal(tmp_path, "server_steps")) == 2)
    finish(recorder)


def test_what_fails_beside_the_run_is_told_in_it(tmp_path, monkeypatch):
    monkeypatch.setattr("evsim.run.recorder._FLUSH_EVERY_S", 0.05)
    recorder = Recorder(tmp_path)
    recorder.append("tasks", tasks(1) | {"outcome": np.array([99], np.int8)})
    wait_until(lambda: recorder._failed is not None)
    with pytest.raises(pa.ArrowIndexError):
        recorder.flush()


def wait_until(happened):
    late = time.monotonic() + 10
    while not happened():
        assert time.monotonic() < late, "it never happened"
        time.sleep(0.01)


def test_a_file_does_not_tell_when_its_rows_were_flushed(tmp_path):
    for name, sizes in (("one", [200_000]), ("many", [1, 131_070, 2, 68_927])):
        recorder, first = Recorder(tmp_path / name), 0
        for size in sizes:
            recorder.append("tasks", tasks(size, first))
            recorder.flush()
            first += size
        finish(recorder)
    one, many = (tmp_path / name / "tasks.parquet" for name in ("one", "many"))
    assert one.read_bytes() == many.read_bytes()


def test_a_killed_run_keeps_what_was_flushed(tmp_path):
    folder = tmp_path / "run"
    script = KILLED.format(here=str(Path(__file__).parent), folder=str(folder))
    code = subprocess.run([sys.executable, "-c", script], check=False).returncode
    assert code == -signal.SIGKILL
    assert is_unfinished(folder)
    assert read_journal(folder, "tasks").column("task").to_pylist() == list(range(200_000))
    with pytest.raises(RunFolderError, match=r"was killed; its journal holds 200,000 tasks.*partial=True"):
        load_run(folder)
    assert len(load_run(folder, partial=True).tasks) == 200_000


def test_a_journal_cut_within_a_batch_is_read_up_to_the_batch_before(tmp_path):
    recorder = Recorder(tmp_path)
    for first in (0, 70_000):
        recorder.append("tasks", tasks(70_000, first))
    path = tmp_path / "journal" / "tasks.arrows"
    recorder.flush()
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) - 1000])
    assert len(read_journal(tmp_path, "tasks")) == 70_000
    path.write_bytes(whole[:10])
    assert len(read_journal(tmp_path, "tasks")) == 0
