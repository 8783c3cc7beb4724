"""The notebooks of analysis/ run from top to bottom."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ANALYSIS = Path(__file__).parents[2] / "analysis"
NOTEBOOKS = ("first_look", "time_to_accuracy", "trace_effects")


@pytest.mark.slow
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebook_runs(name, tmp_path):
    pytest.importorskip("jupytext", reason="install evsim[analysis] to execute notebooks: make notebooks")
    notebook = tmp_path / f"{name}.ipynb"
    convert = [
        sys.executable,
        "-m",
        "jupytext",
        "--to",
        "ipynb",
        "--output",
        str(notebook),
        str(ANALYSIS / f"{name}.py"),
    ]
    subprocess.run(convert, check=True, capture_output=True)
    execute = [sys.executable, "-m", "nbconvert", "--to", "notebook", "--execute", "--inplace", str(notebook)]
    done = subprocess.run(execute, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "image/png" in notebook.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebook_is_python(name):
    path = ANALYSIS / f"{name}.py"
    compile(path.read_text(encoding="utf-8"), path.name, "exec")
