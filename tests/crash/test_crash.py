"""Killed at any instant, resumed until it ends: bit for bit what it would have been; `make test-crash` kills 100."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
import warnings
from pathlib import Path

import numpy as np
import pytest

from evsim import Simulation, load_run
from evsim.base import rng
from evsim.run.recorder import is_unfinished
from evsim.run.resuming import is_over
from tests.crash.cases import EVERY_CASE, KILLS, results, scenario_of

_CASES = ["synchronous", "buffered", "oort, buffered", "scaffold", "top-k, buffered, oort", "workers"]
_AT_MOST = 10  # tries for each kill: some runs end before they are killed

pytestmark = pytest.mark.usefixtures("often")


def run(case: str, folder: Path) -> None:
    """In a process of its own: start the run, or go on with it."""
    warnings.simplefilter("ignore")
    Simulation(scenario_of(case), device="cpu").run(folder, resume=True)


def started(case: str, folder: Path) -> multiprocessing.Process:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # forking beside threads: the child is killed soon
        process = multiprocessing.get_context("fork").Process(target=run, args=(case, folder))
        process.start()
    return process  # type: ignore[return-value]


def children(pid: int) -> list[int]:
    """Processes that a process started, as Linux tells."""
    try:
        return [int(text) for text in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def left_behind(pids: list[int]) -> list[int]:
    """Which of them live on though their parent is gone; they have a few seconds to notice."""
    late = time.monotonic() + 10
    while (alive := [pid for pid in pids if is_alive(pid)]) and time.monotonic() < late:
        time.sleep(0.02)
    return alive


def killed(case: str, folder: Path, after_s: float) -> bool:
    """Run or go on, and kill -9 after so long; whether it was killed before it ended."""
    process = started(case, folder)
    process.join(after_s)
    workers = children(process.pid or 0)
    process.kill()
    process.join()
    assert left_behind(workers) == []
    assert process.exitcode in {0, -signal.SIGKILL}
    return process.exitcode != 0


@pytest.mark.parametrize("case", _CASES if EVERY_CASE else _CASES[-2:])
def test_killed_and_resumed_until_it_ends(case: str, tmp_path: Path) -> None:
    wanted = -(-KILLS // (len(_CASES) if EVERY_CASE else 2))
    began = time.perf_counter()
    expected = results(Simulation(scenario_of(case), device="cpu").run(tmp_path / "whole"))
    wall, draw, kills = time.perf_counter() - began, rng.stream(0, "kills", case), 0
    for number in range(_AT_MOST * wanted):
        folder = tmp_path / f"run-{number}"
        while kills < wanted and not is_over(folder):
            kills += killed(case, folder, float(draw.uniform(0, 1.2 * wall)))
        run(case, folder)
        assert results(folder) == expected
        assert {path.name for path in folder.iterdir()} == {path.name for path in (tmp_path / "whole").iterdir()}
        if kills >= wanted:
            break
    assert kills >= wanted


def test_what_was_written_is_not_lost(tmp_path: Path) -> None:
    """A killed run tells of all its finished tasks but those of the last moment."""
    folder = tmp_path / "run"
    process = started("buffered", folder)
    late = time.monotonic() + 60
    while not (folder / "resume" / "checkpoint-6.json").exists() and time.monotonic() < late:
        time.sleep(0.001)
    process.kill()
    process.join()
    if not is_unfinished(folder):
        pytest.skip("it ended before it could be killed")
    told = load_run(folder, partial=True)
    assert len(told.tasks) > 0
    assert np.all(np.diff(told.tasks["task"]) == 1)
    assert told.end_ms >= told.server_steps["closed_at"].max()
    assert told.manifest["server_steps"] == told.server_steps["applied"].sum() >= 1
    assert os.getpid() != process.pid
