"""Runs on disks that are too small, each a tmpfs of its own: what is there must be readable.

A program of its own, because such a disk needs a mount namespace: ``unshare -rm python -m tests.run.full_disk``.
"""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
from typer.testing import CliRunner

from evsim import load_run
from evsim.base import rng
from evsim.base.errors import RunFolderError
from evsim.cli import app
from evsim.run.schema import TABLES
from tests.run.small import OPTIONS

_SMALLEST, _LARGEST = 16 << 10, 320 << 10


def on_a_disk(folder: Path, size: int, options: list[str], whole: Path) -> dict[str, object]:
    """Run on a disk of so many bytes; how it ended, and how many rows can be read of each table."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=True)
    try:
        done = CliRunner().invoke(app, ["run", "quickstart", *options, "--out", str(folder / "run")])
        told = {"size": size, "code": done.exit_code, "said": done.stderr.splitlines()[-1], "rows": {}}
        assert "Traceback" not in done.stderr, done.stderr
        if done.exit_code == 0:
            return told
        assert done.exit_code == 2, done.stderr
        assert "the disk is full" in done.stderr, done.stderr
        told["rows"] = readable(folder / "run", whole)
        subprocess.run(["mount", "-o", f"remount,size={8 * _LARGEST}", folder], check=True)  # space was made
        done = CliRunner().invoke(app, ["run", "quickstart", *options, "--out", str(folder / "run"), "--resume"])
        assert done.exit_code == 0, done.stderr
        for name in TABLES:
            assert (folder / "run" / f"{name}.parquet").read_bytes() == (whole / f"{name}.parquet").read_bytes(), name
        return told
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def readable(run: Path, whole: Path) -> dict[str, int]:
    """How many rows can be read of each table; all of them are those of the whole run."""
    try:
        found = load_run(run, partial=True)
    except RunFolderError:  # not even the journal could be begun
        return {}
    expected, counts = load_run(whole), {}
    for name in ("tasks", "server_steps", "evaluations"):
        rows, all_rows = getattr(found, name), getattr(expected, name)
        counts[name] = len(rows)
        for column in {"task", "client", "dispatched_at", "closed_at", "version", "value"} & set(rows):
            np.testing.assert_array_equal(rows[column], all_rows[column].iloc[: len(rows)])
    return counts


def main(folder: Path, seed: int, count: int) -> None:
    """As many disks as asked for, of random sizes; a line of JSON for each."""
    warnings.simplefilter("ignore")
    draw = rng.stream(seed, "disks")
    for kind, options in OPTIONS.items():
        whole = folder / f"whole-{kind}"
        assert CliRunner().invoke(app, ["run", "quickstart", *options, "--out", str(whole)]).exit_code == 0
        for _ in range(count):
            size = int(np.exp(draw.uniform(np.log(_SMALLEST), np.log(_LARGEST))))
            (folder / "disk").mkdir(exist_ok=True)
            told = on_a_disk(folder / "disk", size, options, whole)
            sys.stdout.write(json.dumps({"kind": kind, **told}) + "\n")
    read_only(folder / "disk")


def read_only(folder: Path) -> None:
    """A disk that was mounted read-only is refused before anything runs."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k,ro", "tmpfs", folder], check=True)
    done = CliRunner().invoke(app, ["run", "quickstart", *OPTIONS["dry"], "--out", str(folder / "run")])
    assert done.exit_code == 2
    assert "cannot be written (Read-only file system)" in done.stderr, done.stderr
    subprocess.run(["umount", "-l", folder], check=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
