"""Plots of many runs: learning curves with interval bands, and times to the target."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from evsim.base.figures import style
from evsim.base.metrics import metric_of
from evsim.base.units import MS_PER_HOUR
from evsim.base.vocabulary import FloatArray, IntArray
from evsim.results.arms import Arms
from evsim.results.canvas import BLACK, GRAY, arm_look, legend_above, new_figure, shade_nights, tidy, time_axis, titled
from evsim.results.comparison import compare
from evsim.results.intervals import mean_interval
from evsim.results.run import Run

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_POINTS = 400


def study_figure(arms: Arms) -> Figure:
    """The metric over virtual time with bands above, time to the target below."""
    figure = new_figure(10, 5.6 + 0.5 * len(arms.runs))
    top, bottom = figure.subplots(2, 1, height_ratios=(4.0, 0.6 + 0.5 * len(arms.runs)))
    metric_bands(top, arms)
    time_bars(bottom, arms)
    titled(figure, f"{arms.name}: time to {arms.goal}")
    return figure


def curves_figure(arms: Arms) -> Figure:
    """The metric over virtual time alone."""
    figure = new_figure(10, 5.6)
    metric_bands(figure.subplots(), arms)
    titled(figure, f"{arms.name}: test {arms.metric}")
    return figure


def times_figure(arms: Arms) -> Figure:
    """The times to the target alone."""
    figure = new_figure(10, 1.2 + 0.5 * len(arms.runs))
    time_bars(figure.subplots(), arms)
    titled(figure, f"{arms.name}: time to {arms.goal}")
    return figure


def metric_bands(axes: Axes, arms: Arms) -> None:
    """The mean over seeds of each arm and its 95 % interval, up to where all its runs go."""
    tidy(axes)
    runs = [run for group in arms.runs.values() for run in group]
    end, start = max(run.end_ms for run in runs), runs[0].start_ms
    shade_nights(axes, 0, end, start)
    for place, (arm, group) in enumerate(arms.runs.items()):
        at, mean, low, high = band(group, arms.metric)
        look = arm_look(place)
        apart = (_POINTS // 8, _POINTS // 8)
        first = apart[0] * (1 + place % 7) // 8  # markers of two arms never fall together
        label = f"{arm} ({len(group)} runs)"
        axes.plot(at, mean, **look, markevery=(first, apart[1]), linewidth=1.6, label=label)
        axes.fill_between(at, low, high, color=look["color"], alpha=0.13, linewidth=0)
    _limits(axes, arms)
    axes.axhline(arms.target, color=BLACK, linewidth=1, linestyle=(0, (1, 3)), label=f"target {arms.target:g}")
    axes.set_ylabel(f"test {arms.metric}\n(mean, 95 % interval)")
    time_axis(axes, 0, end, start)
    legend_above(axes, 4)


def band(runs: Sequence[Run], metric: str) -> tuple[IntArray, FloatArray, FloatArray, FloatArray]:
    """Instants, mean, and the ends of its 95 % interval over runs, which stay within the metric's bounds."""
    curves = [run.curve(metric, final=True) for run in runs]
    at = np.linspace(0, min(run.end_ms for run in runs), _POINTS).astype(np.int64)
    values = np.array([[curve.value_at(int(instant)) for instant in at] for curve in curves])
    return at, *mean_interval(values, metric_of(metric))


def _limits(axes: Axes, arms: Arms) -> None:
    """The metric's bounds; without them what the runs saw, since a band of few runs may be of any width."""
    known = metric_of(arms.metric)
    if known is not None and np.isfinite([known.low, known.high]).all():
        axes.set_ylim(known.low, known.high)
        return
    values = np.concatenate([run.curve(arms.metric, final=True).value for runs in arms.runs.values() for run in runs])
    finite = np.append(values[np.isfinite(values)], arms.target)
    margin = 0.05 * float(np.ptp(finite)) or 1.0
    axes.set_ylim(finite.min() - margin, finite.max() + margin)


def time_bars(axes: Axes, arms: Arms) -> None:
    """Restricted geometric mean time of each arm, its interval, each run a dot, censored ones arrows at the horizon."""
    tidy(axes, grid="x")
    narrow = not style().titles
    table, times, horizon = compare(arms), arms.times(), arms.horizon_ms() / MS_PER_HOUR
    for place, arm in enumerate(arms.runs):
        color = arm_look(place)["color"]
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
        share = f"{len(known)}/{len(hours)}" if narrow else f"{len(known)} of {len(hours)} reached"
        axes.annotate(
            share, (1.01, place), xycoords=("axes fraction", "data"), va="center", fontsize="small", color=GRAY
        )
    axes.set_yticks(range(len(arms.runs)), list(arms.runs))
    axes.invert_yaxis()
    axes.set_xlim(0, 1.1 * horizon)  # an interval of few runs may be of any width: it then leaves the plot
    what = "" if narrow else ": geometric mean with 95 % interval, runs as dots, arrows never arrived"
    axes.set_xlabel(f"virtual time to the target, hours{what}")
