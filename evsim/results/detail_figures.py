"""Plots of one run in detail: rounds, the day, a window of tasks, participation, waste."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from evsim.base.units import MS_PER_DAY, MS_PER_HOUR, MS_PER_MINUTE
from evsim.base.vocabulary import FloatArray, Outcome
from evsim.results.canvas import (
    BLUE,
    GRAY,
    GREEN,
    ORANGE,
    OUTCOME_COLORS,
    SKY,
    VERMILION,
    is_narrow,
    legend_above,
    new_figure,
    shade_nights,
    tidy,
    time_axis,
)
from evsim.results.metrics import concurrency, device_time, participation, tasks_per_client
from evsim.results.run import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_REASONS = {"goal": BLUE, "buffer": BLUE, "deadline": ORANGE, "exhausted": SKY}
_MOST_ROWS = 60
_QUARTERS = 96
_MARKERS = {"goal": "o", "buffer": "o", "deadline": "^", "exhausted": "s"}


def rounds_figure(run: Run) -> Figure:
    """How long each round lasted, in minutes, and why it closed."""
    figure = new_figure(10, 3.2)
    axes = figure.subplots()
    tidy(axes)
    steps = run.server_steps
    shade_nights(axes, 0, max(run.end_ms, 1), run.start_ms)
    minutes = (steps["closed_at"] - steps["started_at"]) / MS_PER_MINUTE
    for reason in dict.fromkeys(steps["reason"].astype(str)):
        mine = ((steps["reason"] == reason) & steps["applied"]).to_numpy()
        color, marker = _REASONS.get(reason, GREEN), _MARKERS.get(reason, "D")
        label = f"{reason}: {int(mine.sum()):,}"
        axes.plot(steps["closed_at"][mine], minutes[mine], marker, color=color, markersize=3.5, label=label)
    failed = ~steps["applied"].to_numpy()
    if failed.any():
        label = f"failed: {int(failed.sum()):,}"
        axes.plot(steps["closed_at"][failed], minutes[failed], "x", color=VERMILION, markersize=6, label=label)
    axes.set_ylabel("round lasted, minutes")
    axes.set_ylim(0, 1.08 * float(minutes.max()) if len(steps) and minutes.max() > 0 else 1)
    time_axis(axes, 0, max(run.end_ms, 1), run.start_ms)
    if len(steps):
        legend_above(axes, 4)
    return figure


def day_figure(run: Run) -> Figure:
    """Clients online and clients at work by time of day, averaged over the days of the run."""
    figure = new_figure(10, 3.2)
    axes = figure.subplots()
    tidy(axes)
    quarters = np.arange(_QUARTERS) / 4
    online = _by_quarter(run.availability["at"], run.availability["online"], run)
    axes.fill_between(quarters, online, color=SKY, alpha=0.35, linewidth=0, step="mid", label="online")
    steps = concurrency(run)
    at = np.arange(0, max(run.end_ms, 1), MS_PER_MINUTE)
    where = np.searchsorted(steps["at"].to_numpy(), at, side="right") - 1
    running = np.where(where >= 0, steps["running"].to_numpy()[np.maximum(where, 0)], 0) if len(steps) else at * 0
    working = _by_quarter(pd.Series(at), pd.Series(running), run)
    axes.step(quarters, working, where="mid", color=VERMILION, label="at work")
    axes.set_ylabel("clients, mean")
    axes.set_ylim(bottom=0)
    axes.set_xlim(0, 24)
    hours = range(0, 25, 6 if is_narrow() else 3)
    axes.set_xticks(hours, [f"{hour:02d}:00" for hour in hours])
    axes.set_xlabel("time of day")
    legend_above(axes, 2)
    return figure


def _by_quarter(at: pd.Series, value: pd.Series, run: Run) -> FloatArray:
    """The mean value in each quarter of an hour of the day; NaN where the run has none."""
    quarter = (at.to_numpy() + run.start_ms) % MS_PER_DAY * _QUARTERS // MS_PER_DAY
    means = pd.Series(value.to_numpy(np.float64)).groupby(quarter).mean()
    found: FloatArray = means.reindex(range(_QUARTERS)).to_numpy(np.float64)
    return found


def tasks_figure(run: Run, begin_ms: int | None = None, end_ms: int | None = None) -> Figure:
    """What each client did in a window: download, compute, upload, and how it ended.

    Args:
        run: whose tasks.
        begin_ms: of the window; default: the run's first task.
        end_ms: of the window; default: an hour later.
    """
    figure = new_figure(10, 5.2)
    axes = figure.subplots()
    tidy(axes, grid="x")
    first = int(run.tasks["dispatched_at"].min()) if len(run.tasks) else 0
    begin = first if begin_ms is None else begin_ms
    end = begin + MS_PER_HOUR if end_ms is None else end_ms
    tasks = run.tasks[run.tasks["dispatched_at"] < end]
    spent = tasks["download_ms"] + tasks["compute_ms"] + tasks["upload_ms"]
    tasks = tasks[tasks["dispatched_at"] + spent >= begin]
    clients = pd.unique(tasks["client"])[:_MOST_ROWS]
    shown = tasks[tasks["client"].isin(clients)]
    rows = shown["client"].map({client: row for row, client in enumerate(clients)}).to_numpy()
    _phases(axes, shown, rows)
    _ends(axes, shown, rows)
    axes.set_yticks([])
    axes.set_ylim(len(clients) - 0.4, -0.6)
    hidden = tasks["client"].nunique() - len(clients)
    axes.set_ylabel(f"{len(clients)} clients, a row each" + (f"\n({hidden:,} more not shown)" if hidden else ""))
    time_axis(axes, begin, end, run.start_ms)
    legend_above(axes, 9)
    return figure


def _phases(axes: Axes, tasks: pd.DataFrame, rows: FloatArray) -> None:
    left = tasks["dispatched_at"].to_numpy()
    for phase, color in (("download", SKY), ("compute", BLUE), ("upload", GREEN)):
        width = tasks[f"{phase}_ms"].to_numpy()
        axes.barh(rows, width, 0.62, left, color=color, label=phase, linewidth=0)
        left = left + width


def _ends(axes: Axes, tasks: pd.DataFrame, rows: FloatArray) -> None:
    signs = {"dropped": "x", "late": ">", "stale": "s", "surplus": "+", "aborted": "|", "round_failed": "*"}
    for outcome, sign in signs.items():
        mine = (tasks["outcome"] == outcome).to_numpy()
        if mine.any():
            at, color = tasks.loc[mine, "ended_at"].to_numpy(np.int64), OUTCOME_COLORS[outcome]
            color = "#B8860B" if outcome == "surplus" else color  # yellow signs vanish on white
            axes.plot(at, rows[mine], sign, color=color, markersize=5, label=outcome.replace("_", " "))


def participation_figure(run: Run) -> Figure:
    """How evenly tasks fall on the clients (Lorenz curves), and how often those online often were merged."""
    narrow = is_narrow()
    figure = new_figure(10, 7.6 if narrow else 3.6)
    left, right = figure.subplots(*((2, 1) if narrow else (1, 2)))
    figures = participation(run)
    for name, color, line, outcome in (("asked", BLUE, "-", None), ("merged", VERMILION, "--", "aggregated")):
        counts = np.sort(tasks_per_client(run, outcome=outcome))
        share = np.concatenate([[0.0], np.cumsum(counts) / max(counts.sum(), 1)])
        label = f"{name}: Gini {figures['gini'][name]:.2f}, Jain {figures['jain'][name]:.2f}"
        left.plot(np.linspace(0, 1, len(share)), share, line, color=color, label=label)
    left.plot([0, 1], [0, 1], color=GRAY, linewidth=0.8, linestyle=":")
    left.set_xlabel("share of clients, least used first")
    left.set_ylabel("share of tasks")
    legend_above(left, 1)
    online = run.clients["online_share"].to_numpy() * 24
    right.plot(online, tasks_per_client(run, outcome="aggregated"), ".", color=BLUE, alpha=0.5)
    right.set_xlabel("online, hours per day")
    right.set_ylabel("updates merged")
    for axes in (left, right):
        tidy(axes)
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0)
    return figure


def waste_figure(run: Run) -> Figure:
    """Device time by what became of it, in hours and as a share."""
    figure = new_figure(10, 2.8)
    axes = figure.subplots()
    tidy(axes, grid="x")
    spent = device_time(run) / MS_PER_HOUR
    shown = [outcome.label for outcome in Outcome if spent[outcome.label] > 0]
    total = max(float(spent.sum()), 1e-9)
    for row, name in enumerate(shown):
        axes.barh(row, spent[name], color=OUTCOME_COLORS[name], edgecolor=GRAY, linewidth=0.5)
        axes.annotate(f"{spent[name] / total:.1%}", (spent[name], row), (4, 0), textcoords="offset points", va="center")
    axes.set_yticks(range(len(shown)), [name.replace("_", " ") for name in shown])
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set_xlabel("device time, hours")
    return figure
