"""Processes of a sweep: each on its own core, none left behind however the parent ends, a death costs one task."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from evsim.study.processes import Answer, in_processes

ROOT = Path(__file__).parents[2]
SCRIPT = """
import sys
from evsim.base.outside import ending_on_signals
from evsim.study.processes import in_processes
from tests.study.test_processes import linger
if __name__ == "__main__":
    with ending_on_signals():
        list(in_processes({n: (sys.argv[1], n) for n in range(2)}, linger, 2))
"""


def double(number):
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    if number == 4:
        raise ValueError("four")
    return 2 * number


def core(_):
    time.sleep(0.2)  # so that each process gets one
    return sorted(os.sched_getaffinity(0))


def linger(folder, number):
    (Path(folder) / str(number)).write_text(str(os.getpid()))
    time.sleep(60)


def test_a_process_that_dies_takes_its_own_task_only():
    found = dict(in_processes({n: (n,) for n in range(6)}, double, 2))
    assert {key: answer.value for key, answer in found.items()} == {0: 0, 1: 2, 2: 4, 3: None, 4: None, 5: 10}
    assert found[3].error.startswith("the process died (SIGKILL")
    assert found[4].error == "ValueError: four"
    assert "in double" in found[4].details
    assert found[5] == Answer(10)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity on this system")
def test_processes_share_no_core_while_there_is_another():
    mine = sorted(os.sched_getaffinity(0))
    found = [answer.value for _, answer in in_processes(dict.fromkeys(range(2), (0,)), core, 2)]
    assert sorted(found) == sorted([[mine[0]], [mine[1 % len(mine)]]])


def lives(pid):
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize(
    "how",
    [
        signal.SIGKILL,
        pytest.param(signal.SIGTERM, marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, marks=pytest.mark.slow),
    ],
)
def test_no_process_outlives_its_parent(tmp_path, how):
    (tmp_path / "script.py").write_text(SCRIPT)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(tmp_path / "script.py"), str(tmp_path)]
    parent = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL)
    files = [tmp_path / "0", tmp_path / "1"]
    until = time.monotonic() + 120
    while not all(file.is_file() and file.read_text() for file in files):
        assert time.monotonic() < until
        time.sleep(0.02)
    pids = [int(file.read_text()) for file in files]
    assert all(map(lives, pids))
    parent.send_signal(how)
    assert parent.wait(60) != 0
    until = time.monotonic() + 30
    while any(map(lives, pids)):
        assert time.monotonic() < until, "a process outlived its parent"
        time.sleep(0.02)
