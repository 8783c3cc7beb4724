"""Two at once in one folder, readers beside a writer, folders that were moved."""

from __future__ import annotations

import os
import shutil
import signal
from contextlib import contextmanager

import numpy as np
import pytest
from typer.testing import CliRunner

from evsim import Simulation, load_run
from evsim.base.errors import RunFolderError
from evsim.cli import app
from evsim.run.simulation import Snapshot
from tests.crash.cases import results, scenario_of
from tests.run.small import OPTIONS


class At:
    """A listener that does something once, when a step is over."""

    def __init__(self, step, action):
        self._step, self._action = step, action

    def round_closed(self, _at, row):
        if row["version"] == self._step:
            self._action()


@pytest.fixture
def whole(tmp_path):
    return Simulation(scenario_of("buffered"), device="cpu").run(tmp_path / "whole")


def test_a_second_run_into_a_folder_is_refused_and_the_first_goes_on(tmp_path, whole):
    folder, said = tmp_path / "run", []

    def second():
        for resume in (False, True):
            with pytest.raises(RunFolderError) as refused:
                Simulation(scenario_of("buffered"), device="cpu").run(folder, resume=resume)
            said.append(str(refused.value))
        with pytest.raises(RunFolderError) as refused:
            Simulation.resume(folder, device="cpu")
        said.append(str(refused.value))

    Simulation(scenario_of("buffered"), device="cpu", listeners=[At(3, second)]).run(folder)
    assert "exists and is not empty" in said[0]
    for text in said[1:]:
        assert f"process {os.getpid()} on " in text
        assert "works in it" in text
    assert results(folder) == results(whole)


def test_a_run_can_be_read_while_it_goes_on(tmp_path, whole, monkeypatch):
    monkeypatch.setattr("evsim.run.recorder._FLUSH_EVERY_S", 0.0)
    monkeypatch.setattr("evsim.run.simulation._WRITE_EVERY_S", 0.0)
    folder, expected, seen = tmp_path / "run", load_run(whole), []

    def read():
        with pytest.raises(RunFolderError, match="partial=True"):
            load_run(folder)
        found = load_run(folder, partial=True)
        for table in ("tasks", "server_steps", "evaluations"):
            rows, all_rows = getattr(found, table), getattr(expected, table)
            for column in {"task", "client", "ended_at", "closed_at", "value"} & set(rows):
                np.testing.assert_array_equal(rows[column], all_rows[column].iloc[: len(rows)])
        seen.append((len(found.tasks), len(found.server_steps)))
        done = CliRunner().invoke(app, ["describe", str(folder)])
        assert done.exit_code in {0, 2}, done.output
        assert "Traceback" not in done.output

    Simulation(scenario_of("buffered"), device="cpu", listeners=[At(6, read)]).run(folder)
    assert seen[0][0] > 0
    assert seen[0][1] >= 5
    assert results(folder) == results(whole)


def test_a_folder_that_was_moved_goes_on_and_is_extended(tmp_path, whole):
    def stop():
        os.kill(os.getpid(), signal.SIGTERM)

    short = scenario_of("buffered", "stop.server_steps=6")
    Simulation(short, device="cpu", listeners=[At(3, stop)]).run(tmp_path / "run")
    (tmp_path / "elsewhere").mkdir()
    moved = tmp_path / "run"
    for number in range(2):
        moved = moved.rename(tmp_path / "elsewhere" / f"moved-{number}")
        if number == 0:
            Simulation.resume(moved, device="cpu")
    assert load_run(moved).manifest["server_steps"] == 6
    copy = shutil.copytree(moved, tmp_path / "copy")  # as to another machine
    for folder in (moved, copy):
        Simulation.extend(folder, ["stop.server_steps=8"], device="cpu")
        assert results(folder) == results(whole)


def test_two_runs_without_a_folder_of_their_own_get_two(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    inner = []

    def second(snapshot: Snapshot) -> None:
        if not inner and snapshot.round >= 1:
            inner.append(None)
            inner[0] = CliRunner().invoke(app, command)

    command = ["run", "quickstart", *OPTIONS["dry"]]

    @contextmanager
    def progress(_start_ms):
        yield second

    monkeypatch.setattr("evsim.run.simulation._PROGRESS_EVERY_S", 0)
    monkeypatch.setattr("evsim.cli.progress.progress", progress)
    assert CliRunner().invoke(app, command).exit_code == 0
    assert inner[0].exit_code == 0
    assert (
        load_run("runs/quickstart-1").manifest["timeline_hash"]
        == load_run("runs/quickstart-2").manifest["timeline_hash"]
    )
