"""Being asked to stop, once and twice, by every signal."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from evsim import Scenario, Simulation, load_run
from evsim.base.vocabulary import Feedback
from evsim.run.signals import REASONS, Signals
from evsim.run.simulation import Snapshot
from evsim.training.learning.learning import Learning

LONG = ['executor.kind="serial"', "stop.server_steps=1000", "population.clients=120"]


def quickstart(*overrides: str) -> Scenario:
    return Scenario.load("quickstart", overrides=[*LONG, *overrides])


@pytest.mark.parametrize("number", list(REASONS))
def test_the_first_signal_ends_a_run_cleanly_and_says_why(tmp_path: Path, number: int) -> None:
    sent = []

    def impatient(snapshot: Snapshot) -> None:
        if snapshot.server_step and not sent:
            sent.append(os.kill(os.getpid(), number))

    before = signal.getsignal(number)
    run = load_run(Simulation(quickstart(), device="cpu").run(tmp_path / "run", impatient))
    assert run.manifest["end"]["reason"] == REASONS[signal.Signals(number)]
    assert len(run.tasks) > 0
    assert len(run.evaluations) > 0
    assert signal.getsignal(number) is before


def test_a_second_signal_breaks_off_training_and_everything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    apply = Learning.apply

    def pressed_twice(self: Learning, tasks: Any, **told: Any) -> Feedback:
        if self.version == 2:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGTERM)
            raise AssertionError("training went on")
        return apply(self, tasks, **told)

    monkeypatch.setattr(Learning, "apply", pressed_twice)
    run = load_run(Simulation(quickstart(), device="cpu").run(tmp_path / "run"))
    assert (run.manifest["end"]["reason"], run.manifest["server_steps"]) == ("interrupted", 2)
    assert run.server_steps["applied"].sum() == 2
    assert (tmp_path / "run" / "model.safetensors").is_file()


def test_a_signal_that_is_ignored_stays_ignored() -> None:
    before, heard = signal.signal(signal.SIGHUP, signal.SIG_IGN), []
    try:
        with Signals().heard(lambda: heard.append(1)):
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert not heard


def test_the_group_is_told_and_workers_train_on_until_the_end(tmp_path: Path) -> None:
    """As a terminal or a scheduler does it: every process of the group hears the signal."""
    folder = tmp_path / "run"
    overrides = ["-o", "stop.server_steps=100000", "-o", "stop.virtual_time=3650d", "-o", "stop.target_accuracy=1.0"]
    command = [sys.executable, "-m", "evsim.cli", "run", "quickstart", *overrides, "--out", str(folder)]
    workers = ["-o", 'executor={kind="workers",workers=2}']
    process = subprocess.Popen([*command, *workers], stderr=subprocess.PIPE, start_new_session=True)
    journal = folder / "journal" / "server_steps.arrows"
    late = time.monotonic() + 60
    while not (journal.is_file() and journal.stat().st_size > 2_000) and time.monotonic() < late:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 143
    assert json.loads((folder / "manifest.json").read_text())["end"]["reason"] == "terminated"
