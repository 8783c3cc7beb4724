"""Runs where the system lacks something: one sentence, exit code 2; what was written can be read and gone on with."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner

from evsim import load_run
from evsim.cli import app
from evsim.training.executors.pool import Pool
from tests.run.small import OPTIONS

ROOT = Path(__file__).parents[2]


def in_a_namespace(*arguments: object) -> list[str]:
    return ["unshare", "-rm", sys.executable, *map(str, arguments)]


def can_mount() -> bool:
    script = "import subprocess; subprocess.run(['mount', '-t', 'tmpfs', 'tmpfs', '/tmp'], check=True)"
    try:
        return subprocess.run(in_a_namespace("-c", script), capture_output=True, check=False).returncode == 0
    except OSError:
        return False


@pytest.mark.parametrize("count", [1, pytest.param(40, marks=pytest.mark.slow)])
def test_on_a_disk_of_any_size_what_was_written_is_readable_and_goes_on(tmp_path: Path, count: int) -> None:
    if not can_mount():
        pytest.skip("no disks of one's own on this system")
    done = subprocess.run(
        in_a_namespace("-m", "tests.run.full_disk", tmp_path, 2, count),
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert len(told) == 2 * count
    assert {each["code"] for each in told} >= {2}


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: CliRunner().invoke(app, [str(each) for each in arguments])


@contextmanager
def limited(kind, soft):
    before = resource.getrlimit(kind)
    resource.setrlimit(kind, (soft, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(kind, before)


def one_sentence(done, said, code=2):
    assert (done.exit_code, "Traceback" in done.stderr) == (code, False), done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("evsim: ")
    assert said in last


@pytest.mark.parametrize("kind", ["trained", pytest.param("dry", marks=pytest.mark.slow)])
def test_files_that_may_not_grow(here, kind):
    with limited(resource.RLIMIT_FSIZE, 4 << 10):
        one_sentence(here("run", "quickstart", *OPTIONS[kind], "--out", "r"), "limit for files")
    assert load_run("r", partial=True).partial
    done = here("run", "quickstart", *OPTIONS[kind], "--out", "r", "--resume")
    assert done.exit_code == 0, done.stderr


@pytest.mark.parametrize("kind", OPTIONS)
def test_a_folder_that_is_removed_in_the_middle(here, monkeypatch, kind):
    @contextmanager
    def removing(_start_ms):
        yield lambda snapshot: shutil.rmtree("r", ignore_errors=True) if snapshot.server_step >= 2 else None

    monkeypatch.setattr("evsim.run.simulation._PROGRESS_EVERY_S", 0)
    monkeypatch.setattr("evsim.cli.progress.progress", removing)
    one_sentence(here("run", "quickstart", *OPTIONS[kind], "--out", "r"), "No such file or directory")


def test_too_few_files_may_be_open(here):
    taken = {int(fd) for fd in os.listdir("/proc/self/fd")}  # noqa: PTH208
    free = [fd for fd in range(len(taken) + 8) if fd not in taken]
    with limited(resource.RLIMIT_NOFILE, free[3] + 1):  # a limit on numbers, of which four are free
        done = here("run", "quickstart", *OPTIONS["dry"], "--out", "r")
    one_sentence(done, "too many open files")


def program(code: str, where: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(
        [sys.executable, "-c", code], cwd=where, env=env, capture_output=True, text=True, check=False, timeout=100
    )


@pytest.mark.slow
def test_without_a_home_it_runs(tmp_path):
    """The calibration has nowhere to keep what it found, matplotlib neither: both do without."""
    command = ["run", "quickstart", *OPTIONS["trained"], "-o", 'executor={kind="auto"}', "--out", "r"]
    code = f"import os; os.environ.pop('HOME'); from evsim.cli import app; app({command})"
    done = program(code, tmp_path, HOME="", XDG_CACHE_HOME="/proc/nowhere")
    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
    assert load_run(tmp_path / "r").manifest["server_steps"] == 12


MEMORY = """
import resource
from evsim.cli import app
import evsim.run.simulation, evsim.scenario, evsim.results.plots
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (256 << 20), resource.RLIM_INFINITY))
app(["run", "replay", "-o", "population={clients=100000000,availability='always'}", "--out", "r"])
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_out_of_memory(tmp_path):
    done = program(MEMORY, tmp_path)
    assert (done.returncode, "Traceback" in done.stderr) == (2, False), done.stderr
    assert "not enough memory" in done.stderr.splitlines()[-1]


@pytest.mark.filterwarnings("ignore:a worker was ended:RuntimeWarning")
@pytest.mark.parametrize(("times", "code"), [(1, 0), (99, 2)])
def test_a_worker_that_the_system_kills(here, monkeypatch, times, code):
    """As it does when memory runs out: its task is tried again; a run that ends of it goes on from its checkpoint."""
    killed = []
    gives = Pool.give

    def give(self, group, tasks, weights):
        given = gives(self, group, tasks, weights)
        if given and tasks[group[0]].version >= 3 and len(killed) < times:
            killed.append(min(self._alive, key=lambda each: -len(each.groups)).process.pid)
            os.kill(killed[-1], signal.SIGKILL)
        return given

    options = [part.replace('"serial"', '"workers"') for part in OPTIONS["trained"]]
    command = ["run", "quickstart", *options, "-o", "executor.workers=2", "--out", "r"]
    with monkeypatch.context() as patch:
        patch.setattr(Pool, "give", give)
        done = here(*command)
    assert done.exit_code == code, done.stderr
    if code:
        one_sentence(done, "a worker was ended by signal SIGKILL; perhaps the machine ran out of memory")
        assert load_run("r").manifest["end"]["reason"].startswith("error: a worker was ended")
    done = here(*command, "--resume")
    assert (done.exit_code, load_run("r").manifest["server_steps"]) == (0, 12), done.stderr


def test_a_fault_of_evsim_leaves_its_traceback_in_the_run_folder(here, monkeypatch):
    def broken(*_, **__):
        raise KeyError("oh")

    monkeypatch.setattr("evsim.timeline.server.LiveServer.record", broken)
    done = here("run", "quickstart", *OPTIONS["dry"], "--out", "r")
    one_sentence(done, "a fault of evsim (KeyError: 'oh'); its traceback is in r/evsim-error-", code=1)
    assert "in broken" in next(Path("r").glob("evsim-error-*.txt")).read_text()
    assert load_run("r").manifest["end"]["reason"] == "error: 'oh'"
