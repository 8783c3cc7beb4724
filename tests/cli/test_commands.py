"""The command line: what each command says, its exit codes, and what it does not import."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from evsim import load_run
from evsim.base.errors import RunFolderError, TrainingError
from evsim.base.outside import Stopped
from evsim.base.units import MS_PER_HOUR
from evsim.cli import app
from evsim.cli.base import say_table
from evsim.cli.progress import line, progress, share_done
from evsim.run.simulation import Snapshot
from evsim.scenario import Scenario

SMALL = ["-o", "stop.virtual_time=3h", "-o", "population.clients=200"]
BAD_INPUT, INTERRUPTED, TERMINATED = 2, 130, 143


@pytest.fixture
def evsim(tmp_path, monkeypatch):
    """Runs a command in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: CliRunner().invoke(app, [str(each) for each in arguments], catch_exceptions=False)


# -- what is imported --------------------------------------------------------------------------------------------------


def test_help_imports_nothing_heavy():
    code = (
        "import sys\n"
        "from evsim.cli import app\n"
        "try:\n    app(['--help'])\n"
        "except SystemExit as end:\n    assert end.code == 0\n"
        "print([name for name in ('torch', 'pandas', 'numpy', 'pydantic', 'matplotlib') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    for command in ("run", "check", "list", "describe", "traces"):
        assert command in done.stdout


def test_the_version_is_said(evsim):
    assert evsim("--version").stdout == "evsim 0.1.0\n"


# -- check, list, describe ---------------------------------------------------------------------------------------------


def test_check_says_what_a_scenario_means(evsim):
    done = evsim("check", "quickstart", "-o", "seed=7", "-o", "evaluation.every=5")
    assert done.exit_code == 0
    assert "at 18:00, seed 7" in done.stdout
    assert "every 5 server steps" in done.stdout
    assert done.stdout.endswith("quickstart: runs, with caveats\n")
    assert "evsim: caveat: the same samples are dealt to several clients" in done.stderr
    assert evsim("check", "quickstart", "--fast").stdout.endswith("quickstart: fine (nothing was opened)\n")


def test_tables_print_what_they_are_given(capsys):
    say_table([("listener", "my.py:Watch: most 100 [bold]")])  # neither an emoji nor markup
    assert "my.py:Watch: most 100 [bold]" in capsys.readouterr().out


def test_check_reports_every_problem_on_stderr(evsim):
    done = evsim("check", "quickstart", "-o", "sede=7", "-o", "stop.rounds=x")
    assert done.exit_code == BAD_INPUT
    assert done.stdout == ""
    assert done.stderr.startswith("evsim: 2 problems\n")
    assert "did you mean 'seed'?" in done.stderr


def test_list_shows_every_slot_with_a_line_for_each_kind(evsim):
    done = evsim("list")
    assert done.exit_code == 0
    for name in ("aggregation", "synchronous", "client_rule", "fedprox", "scenarios", "quickstart", "phones"):
        assert name in done.stdout


def test_list_of_one_slot_shows_only_that(evsim):
    done = evsim("list", "join")
    assert "modulo" in done.stdout
    assert "synchronous" not in done.stdout
    wrong = evsim("list", "joins")
    assert wrong.exit_code == BAD_INPUT
    assert "did you mean 'join'?" in wrong.stderr


def test_describe_knows_scenarios_traces_and_runs(evsim):
    assert "distinct devices" in evsim("describe", "replay").stdout
    assert "online, mean device" in evsim("describe", "phones").stdout
    assert evsim("run", "replay", *SMALL, "--out", "r").exit_code == 0
    assert "server steps" in evsim("describe", "r").stdout


def test_describe_by_the_hours_of_the_day_whatever_the_start(evsim):
    def busiest(start: str) -> str:
        Path("s.toml").write_text(f'extends = "replay"\nstart = "{start}"\n', encoding="utf-8")
        return next(row for row in evsim("describe", "s.toml").stdout.splitlines() if "busiest" in row)

    assert busiest("18:00").split() == busiest("00:00").split()


def test_describe_of_nothing_suggests_something(evsim):
    done = evsim("describe", "phone")
    assert done.exit_code == BAD_INPUT
    assert "did you mean 'phones'?" in done.stderr


# -- run ---------------------------------------------------------------------------------------------------------------


def test_run_leaves_a_folder_a_plot_and_a_table(evsim):
    done = evsim("run", "replay", *SMALL, "--seed", "5")
    assert done.exit_code == 0, done.stderr
    assert "server steps" in done.stdout
    assert "run folder  runs/replay-1\n" in done.stdout
    assert Path("runs/replay-1/run.png").read_bytes().startswith(b"\x89PNG")
    manifest = json.loads(Path("runs/replay-1/manifest.json").read_text(encoding="utf-8"))
    assert (manifest["seed"], manifest["end"]) == (5, {"at": 3 * MS_PER_HOUR, "reason": "virtual_time"})


def test_profile_says_where_the_time_went(evsim):
    done = evsim("run", "replay", *SMALL, "--profile")
    shares = [float(row.split()[-2]) for row in done.stdout.splitlines() if row.endswith(" %")]
    assert sum(shares) == pytest.approx(100, abs=0.5)
    assert not any(row.endswith(" %") for row in evsim("run", "replay", *SMALL).stdout.splitlines())


def test_runs_take_the_next_free_folder(evsim):
    for number in (1, 2):
        assert f"runs/replay-{number}\n" in evsim("run", "replay", *SMALL).stdout
    assert Scenario.load("runs/replay-1") == Scenario.load("runs/replay-2")


def test_a_run_folder_can_be_run_again(evsim):
    evsim("run", "replay", *SMALL)
    evsim("run", "runs/replay-1", "--out", "again")
    first, second = load_run("runs/replay-1").manifest, load_run("again").manifest
    assert first["timeline_hash"] == second["timeline_hash"]


def test_a_refused_scenario_leaves_nothing_behind(evsim):
    done = evsim("run", "replay", "-o", "population.clients=-1")
    assert done.exit_code == BAD_INPUT
    assert not Path("runs").exists()


def test_a_run_that_cannot_start_leaves_no_empty_folder(evsim):
    Path("data").mkdir()
    Path("mine.toml").write_text('extends = "quickstart"\n', encoding="utf-8")
    overrides = ["-o", "data.dataset={kind='arrays', path='data'}", "-o", "data.partition=natural"]
    done = evsim("run", "mine.toml", *overrides)
    assert done.exit_code == BAD_INPUT
    assert list(Path("runs").iterdir()) == []


def test_an_out_folder_with_something_in_it_is_refused(evsim):
    Path("mine").mkdir()
    Path("mine/thesis.txt").write_text("precious", encoding="utf-8")
    done = evsim("run", "replay", *SMALL, "--out", "mine")
    assert done.exit_code == BAD_INPUT
    assert "mine" in done.stderr
    assert [path.name for path in Path("mine").iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("out", [["--out", "file/inside"], []], ids=["asked for", "chosen"])
def test_an_unwritable_out_folder_is_refused(evsim, out):
    Path("file").write_text("", encoding="utf-8")
    Path("runs").write_text("", encoding="utf-8")
    done = evsim("run", "replay", *SMALL, *out)
    assert done.exit_code == BAD_INPUT
    assert done.stderr.startswith("evsim: ")


@pytest.mark.parametrize(
    ("number", "code", "reason"),
    [
        (signal.SIGINT, INTERRUPTED, "interrupted"),
        (signal.SIGTERM, TERMINATED, "terminated"),
        (signal.SIGHUP, TERMINATED, "terminated"),
    ],
)
def test_a_signal_ends_a_run_cleanly(evsim, monkeypatch, number, code, reason):
    @contextmanager
    def impatient(_start_ms):
        yield lambda _snapshot: os.kill(os.getpid(), number)

    monkeypatch.setattr("evsim.cli.progress.progress", impatient)
    done = evsim("run", "replay", "-o", "stop.virtual_time=3650d", "--out", "r")
    assert done.exit_code == code
    run = load_run("r")
    assert run.manifest["end"]["reason"] == reason
    assert len(run.tasks) > 0


def test_an_interrupted_run_is_resumed(evsim, monkeypatch):
    @contextmanager
    def impatient(_start_ms):
        yield lambda _snapshot: os.kill(os.getpid(), signal.SIGTERM)

    run = ("run", "replay", "-o", "stop.virtual_time=12h", "--out", "r", "--resume")
    with monkeypatch.context() as patch:
        patch.setattr("evsim.cli.progress.progress", impatient)
        assert evsim(*run).exit_code == TERMINATED
    assert evsim("resume", "r").exit_code == 0
    assert load_run("r").manifest["end"]["reason"] == "virtual_time"
    assert evsim(*run).exit_code == 0
    other = evsim(*run, "--seed", "3")
    assert other.exit_code == BAD_INPUT
    assert "r: scenario: seed: 3 now; expected 0, as when the run was started" in other.stderr


def test_a_run_that_is_over_is_extended(evsim):
    assert evsim("run", "replay", "-o", "stop.virtual_time=2h", "--out", "r").exit_code == 0
    done = evsim("run", "r", "--extend", "stop.virtual_time=3h")
    assert (done.exit_code, "run folder  r" in done.stdout) == (0, True)
    assert load_run("r").manifest["end"]["at"] == 3 * MS_PER_HOUR
    done = evsim("run", "replay", "--out", "r", "--extend", "stop.virtual_time=4h")
    assert (done.exit_code, load_run("r").manifest["end"]["at"]) == (0, 4 * MS_PER_HOUR)
    done = evsim("run", "r", "--extend", "seed=3")
    assert (done.exit_code, "r: scenario: seed: 3 now; expected 0" in done.stderr) == (BAD_INPUT, True)
    done = evsim("run", "replay", "--extend", "stop.virtual_time=4h")
    assert (done.exit_code, "replay: no folder; expected a run that is over" in done.stderr) == (BAD_INPUT, True)
    assert evsim("run", "r", "--extend", "stop.virtual_time=4h", "--resume").exit_code == BAD_INPUT


def test_resuming_needs_a_run(evsim):
    assert evsim("run", "replay", "--resume").exit_code == BAD_INPUT
    done = evsim("resume", "nothing")
    assert (done.exit_code, "a run that was interrupted or killed" in done.stderr) == (BAD_INPUT, True)


@pytest.mark.parametrize(
    ("stop", "code"),
    [
        (KeyboardInterrupt(), INTERRUPTED),
        (Stopped(signal.SIGINT), INTERRUPTED),
        (Stopped(signal.SIGTERM), TERMINATED),
        (Stopped(signal.SIGHUP), TERMINATED),
    ],
    ids=["ctrl-c", "SIGINT", "SIGTERM", "SIGHUP"],
)
def test_a_signal_while_loading_ends_with_the_same_code(evsim, monkeypatch, stop, code):
    def interrupted(*_arguments, **_options):
        raise stop

    monkeypatch.setattr(Scenario, "load", interrupted)
    done = evsim("run", "replay")
    assert (done.exit_code, done.stderr) == (code, "evsim: interrupted\n")


def test_a_folder_that_is_no_run_cannot_be_described_as_one(tmp_path):
    with pytest.raises(RunFolderError):
        load_run(tmp_path)


def test_an_error_in_the_middle_says_where_the_rest_is(evsim, monkeypatch):
    @contextmanager
    def failing(_start_ms):
        def show(_snapshot):
            raise TrainingError("the machine caught fire")

        yield show

    monkeypatch.setattr("evsim.cli.progress.progress", failing)
    done = evsim("run", "replay", "-o", "stop.virtual_time=3650d")
    assert done.exit_code == BAD_INPUT
    assert done.stderr.endswith(
        "evsim: what happened before the error is in runs/replay-1\nevsim: the machine caught fire\n"
    )
    assert load_run("runs/replay-1").manifest["end"]["reason"].startswith("error")


# -- progress ----------------------------------------------------------------------------------------------------------


def _snapshot(**changes):
    values = {
        "now_ms": 7 * MS_PER_HOUR,
        "horizon_ms": 14 * MS_PER_HOUR,
        "server_step": 30,
        "max_steps": 300,
        "round": 31,
        "metrics": {"accuracy": 0.5, "loss": 1.0},
        "online": 1234,
        "in_flight": 26,
        "wall_s": 2.0,
    }
    return Snapshot(**{**values, **changes})


def test_the_progress_line_says_clock_step_accuracy_online_in_flight_and_speed():
    text = line(_snapshot(), start_ms=18 * MS_PER_HOUR)
    assert text == "day 2 01:00  step 30/300  accuracy 0.500  1,234 online  26 in flight  12,600x"


def test_the_progress_line_of_a_dry_run_has_no_accuracy():
    text = line(_snapshot(metrics={}, max_steps=None), start_ms=0)
    assert text == "day 1 07:00  step 30  1,234 online  26 in flight  12,600x"


def test_progress_is_shown_on_a_terminal_only(monkeypatch):
    with progress(0) as show:
        assert show is None
    screen = Console(file=StringIO(), force_terminal=True, width=80)
    monkeypatch.setattr("evsim.cli.progress.console", lambda: screen)
    with progress(0) as show:
        show(_snapshot())
    assert "day 1 07:00  step 30/300" in screen.file.getvalue()


def test_the_bar_follows_whatever_ends_first():
    assert share_done(_snapshot()) == 0.5
    assert share_done(_snapshot(server_step=270)) == 0.9
    assert share_done(_snapshot(horizon_ms=None, max_steps=None)) == 0.0


# -- traces ------------------------------------------------------------------------------------------------------------


def test_a_generated_trace_can_be_described_plotted_imported_and_used(evsim):
    done = evsim("traces", "generate", "t", "--devices", "40", "--seed", "3", "-o", "availability.never_online=0.5")
    assert done.exit_code == 0, done.stderr
    assert "40 (" in evsim("describe", "t").stdout
    assert evsim("traces", "plot", "t", "--out", "t.png").exit_code == 0
    assert Path("t.png").read_bytes().startswith(b"\x89PNG")
    assert evsim("traces", "import", "t", "copy").exit_code == 0
    assert evsim("traces", "import", "t", "speeds", "--what", "speed").exit_code == 0
    assert "devices with a speed" in evsim("describe", "speeds").stdout
    Path("s.toml").write_text(
        'extends = "replay"\npopulation = { availability = "copy", speed = "speeds", clients = 80 }\n', encoding="utf-8"
    )
    assert evsim("check", "s.toml").exit_code == 0


def test_a_trace_is_never_overwritten(evsim):
    assert evsim("traces", "generate", "t", "--devices", "4").exit_code == 0
    done = evsim("traces", "generate", "t", "--devices", "5")
    assert done.exit_code == BAD_INPUT
    assert "a trace is there already" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["traces", "generate", "t", "-o", "days=3"], "expected a key that begins with availability or speed"),
        (["traces", "generate", "t", "-o", "availability.day=3"], "did you mean 'days'?"),
        (["traces", "generate", "t", "-o", "availability.never_online=2"], "never_online must lie in [0, 1]"),
        (["traces", "import", "nowhere", "t"], "nowhere"),
        (["traces", "plot", "nowhere"], "neither a path below . nor a trace's name"),
    ],
)
def test_a_wrong_trace_command_says_why(evsim, arguments, expected):
    done = evsim(*arguments)
    assert done.exit_code == BAD_INPUT
    assert expected in done.stderr
    assert not Path("t").exists()
