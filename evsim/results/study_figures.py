"""Plots of many runs: learning curves with interval bands, and times to the target."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import stats

from evsim.base.units import MS_PER_HOUR
from evsim.base.vocabulary import FloatArray, IntArray
from evsim.results.arms import Arms
from evsim.results.canvas import ARM_COLORS, ARM_LINES, BLACK, GRAY, new_figure, shade_nights, tidy, time_axis
from evsim.results.comparison import compare
from evsim.results.run import Run

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_POINTS = 400


def study_figure(arms: Arms) -> Figure:
    """Accuracy over virtual time with bands above, time to the target below."""
    figure = new_figure(10, 5.6 + 0.5 * len(arms.runs))
    top, bottom = figure.subplots(2, 1, height_ratios=(4.0, 0.6 + 0.5 * len(arms.runs)))
    accuracy_bands(top, arms)
    time_bars(bottom, arms)
    figure.suptitle(f"{arms.name}: time to {arms.metric} {arms.target:g}", x=0.01, ha="left", fontsize=12)
    return figure


def accuracy_bands(axes: Axes, arms: Arms) -> None:
    """The mean over seeds of each arm and its 95 % interval (Student's t), up to where all its runs go."""
    tidy(axes)
    runs = [run for group in arms.runs.values() for run in group]
    end, start = max(run.end_ms for run in runs), runs[0].start_ms
    shade_nights(axes, 0, end, start)
    for place, (arm, group) in enumerate(arms.runs.items()):
        at, mean, half = band(group, arms.metric)
        color, line = ARM_COLORS[place % len(ARM_COLORS)], ARM_LINES[place % len(ARM_LINES)]
        axes.plot(at, mean, color=color, linestyle=line, linewidth=1.8, label=f"{arm} ({len(group)} runs)")
        axes.fill_between(at, mean - half, mean + half, color=color, alpha=0.18, linewidth=0)
    axes.axhline(arms.target, color=BLACK, linewidth=1, linestyle=(0, (1, 3)), label=f"target {arms.target:g}")
    axes.set_ylabel(f"test {arms.metric}\n(mean, 95 % interval)")
    time_axis(axes, 0, end, start)
    axes.legend(frameon=False, loc="lower right", fontsize=9)


def band(runs: Sequence[Run], metric: str) -> tuple[IntArray, FloatArray, FloatArray]:
    """Instants, mean and half width of the 95 % interval over runs (0 for one run)."""
    curves = [run.curve(metric, final=True) for run in runs]
    at = np.linspace(0, min(run.end_ms for run in runs), _POINTS).astype(np.int64)
    values = np.array([[curve.value_at(int(instant)) for instant in at] for curve in curves])
    if len(runs) == 1:
        return at, values[0], np.zeros(len(at))
    factor = stats.t.ppf(0.975, len(runs) - 1) / np.sqrt(len(runs))
    return at, values.mean(axis=0), factor * values.std(axis=0, ddof=1)


def time_bars(axes: Axes, arms: Arms) -> None:
    """Restricted mean time of each arm with its interval; each run a dot, censored ones as arrows at the horizon."""
    tidy(axes, grid="x")
    table, times, horizon = compare(arms), arms.times(), arms.horizon_ms() / MS_PER_HOUR
    for place, arm in enumerate(arms.runs):
        color = ARM_COLORS[place % len(ARM_COLORS)]
        row = table.loc[arm]
        axes.barh(place, row["mean_h"], color=color, alpha=0.3, height=0.6)
        low, high = row["mean_low_h"], row["mean_high_h"]
        if np.isfinite(low):
            axes.plot([low, high], [place, place], color=color, linewidth=2.5)
        hours = [None if time is None else time / MS_PER_HOUR for time in times[arm].values()]
        known = [hour for hour in hours if hour is not None]
        spread = np.linspace(-0.2, 0.2, len(hours))
        axes.plot(known, place + spread[: len(known)], "o", color=color, markersize=4)
        lost = len(hours) - len(known)
        axes.plot([horizon] * lost, place + spread[len(known) :], ">", color=color, markerfacecolor="none")
        share = f"{len(known)} of {len(hours)} reached"
        axes.annotate(share, (1.01, place), xycoords=("axes fraction", "data"), va="center", fontsize=8, color=GRAY)
    axes.set_yticks(range(len(arms.runs)), list(arms.runs))
    axes.invert_yaxis()
    axes.set_xlim(left=0)
    axes.set_xlabel("virtual time to the target, hours: mean with 95 % interval, runs as dots, arrows never arrived")
