"""Plots of runs, for files and notebooks. Each function returns a figure; `plot_run` also writes it."""

from __future__ import annotations

from pathlib import Path

from evsim.results.canvas import save
from evsim.results.run import Run
from evsim.results.run_figure import run_figure

__all__ = ["plot_run", "run_figure", "save"]


def plot_run(run: Run, path: str | Path) -> Path:
    """Write the picture of a run as PNG: accuracy over virtual time, round ends, devices, lost tasks.

    Raises:
        RunFolderError: if the file cannot be written.
    """
    return save(run_figure(run), path)
