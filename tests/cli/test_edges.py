"""Where the program meets the system: closed and full outputs, ASCII, no home, limits; always one sentence."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from evsim.cli import app

ROOT = Path(__file__).parents[2]
DRY = ["run", "quickstart", "-o", "training=none", "-o", "stop.target_accuracy=", "-o", "stop.virtual_time=2h"]


def evsim(*arguments, where, **options):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MPLBACKEND": "agg"} | options.pop("env", {})
    command = [sys.executable, "-m", "evsim.cli", *map(str, arguments)]
    return subprocess.run(command, cwd=where, env=environment, stderr=subprocess.PIPE, check=False, **options)


def one_sentence(done, code=2):
    text = done.stderr.decode()
    assert done.returncode == code, text
    assert "Traceback" not in text
    assert "Exception ignored" not in text
    assert text.startswith("evsim: ")
    return text


def test_a_closed_stdout_is_told_before_the_work(tmp_path):
    done = evsim("list", "merge", where=tmp_path, preexec_fn=lambda: os.close(1))
    assert "stdout is closed" in one_sentence(done)


def test_a_full_disk_behind_stdout_is_told(tmp_path):
    with Path("/dev/full").open("wb") as full:
        assert "the disk is full" in one_sentence(evsim("list", where=tmp_path, stdout=full))


def test_a_reader_that_left_is_told(tmp_path):
    reading, writing = os.pipe()
    os.close(reading)
    done = evsim("list", where=tmp_path, stdout=writing)
    os.close(writing)
    assert "nobody reads" in one_sentence(done)


def test_ascii_and_no_home_are_enough(tmp_path):
    environment = {"PYTHONIOENCODING": "ascii:strict", "HOME": "/nowhere", "LC_ALL": "C", "PYTHONUTF8": "0"}
    assert "is no slot" in one_sentence(evsim("list", "n\u00e4", where=tmp_path, env=environment))
    assert r"\xe4" in said_in_ascii(
        "import evsim.cli.base as base; base._ready_to_write(); base.say(chr(228))", environment
    )


def said_in_ascii(program, environment):
    environment = {**os.environ, **environment, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-c", program], env=environment, check=True, capture_output=True
    ).stdout.decode()


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: CliRunner().invoke(app, [str(each) for each in arguments])


def test_a_full_disk_is_a_sentence(here):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
        done = here(*DRY, "--out", "r")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert done.exit_code == 2, done.stderr
    assert "limit for files" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("out", ["/proc/evsim", "/dev/null/x", "file/x"])
def test_a_folder_that_cannot_be_made_is_a_sentence(here, tmp_path, out):
    (tmp_path / "file").touch()
    (tmp_path / "s.toml").write_text('scenario = "quickstart"\n[arms]\na = []\n')
    for arguments in ([*DRY, "--out", out], ["sweep", "s.toml", "--out", out]):
        done = here(*arguments)
        assert (done.exit_code, out in done.stderr, "Traceback" in done.stderr) == (2, True, False), done.stderr


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (MemoryError(), 2, "out of memory"),
        (OSError(28, "No space left on device", "x"), 2, "x: the disk is full"),
        (PermissionError(13, "Permission denied", "x"), 2, "x: Permission denied"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (KeyError("oh"), 1, "a fault of evsim (KeyError: 'oh'); its traceback is in evsim-error-"),
        (RecursionError("deep"), 1, "a fault of evsim (RecursionError: deep)"),
    ],
    ids=lambda each: type(each).__name__,
)
def test_whatever_happens_is_a_sentence(tmp_path, monkeypatch, error, code, told):
    monkeypatch.chdir(tmp_path)

    def fail(_):
        raise error

    monkeypatch.setattr("evsim.cli.catalog.catalog", fail)
    monkeypatch.setattr("evsim.base.registry.plug_ins", dict)
    done = CliRunner().invoke(app, ["list"])
    assert (done.exit_code, told in done.stderr) == (code, True), done.stderr
    assert "Traceback" not in done.stderr
    files = list(tmp_path.glob("evsim-error-*.txt"))
    assert len(files) == (code == 1)
    assert all("in fail" in file.read_text() for file in files)
