"""Plots of runs, for files and notebooks. Each function returns a figure; `plot_run` also writes it."""

from __future__ import annotations

from pathlib import Path

from evsim.results.arm_figures import durations_figure, groups_figure, speed_figure, waste_by_arm_figure
from evsim.results.canvas import save
from evsim.results.detail_figures import day_figure, participation_figure, rounds_figure, tasks_figure, waste_figure
from evsim.results.run import Run
from evsim.results.run_figure import run_figure
from evsim.results.study_figures import curves_figure, study_figure, times_figure

__all__ = [
    "curves_figure",
    "day_figure",
    "durations_figure",
    "groups_figure",
    "participation_figure",
    "plot_run",
    "rounds_figure",
    "run_figure",
    "save",
    "speed_figure",
    "study_figure",
    "tasks_figure",
    "times_figure",
    "waste_by_arm_figure",
    "waste_figure",
]


def plot_run(run: Run, path: str | Path) -> Path:
    """Write the picture of a run: accuracy over virtual time, round ends, devices, lost tasks; as PNG, SVG or PDF.

    Raises:
        RunFolderError: if the file cannot be written.
    """
    return save(run_figure(run), path)
