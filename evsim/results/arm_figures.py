"""Plots that compare arms beyond their curves: durations, waste, who takes part, who learns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from evsim.base.errors import Problem, RunFolderError, report
from evsim.base.units import MS_PER_MINUTE
from evsim.base.vocabulary import FloatArray, Outcome
from evsim.results.arms import Arms
from evsim.results.canvas import GRAY, OUTCOME_COLORS, arm_look, legend_above, log_axis, new_figure, tidy, titled
from evsim.results.groups import by_group
from evsim.results.metrics import device_time, tasks_per_client

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.figure import Figure

    from evsim.results.run import Run

_TENTHS = 10


def durations_figure(arms: Arms) -> Figure:
    """The share of reports that took at most so long, from dispatch to arrival, over all runs of an arm (ECDF)."""
    figure = new_figure(8, 4.6)
    axes = figure.subplots()
    tidy(axes)
    for place, (arm, runs) in enumerate(arms.runs.items()):
        minutes = np.sort(np.concatenate([_minutes(run) for run in runs]))
        share = np.arange(1, len(minutes) + 1) / max(len(minutes), 1)
        look = arm_look(place)
        every = (len(minutes) * (1 + place % 7) // 56, max(1, len(minutes) // 7))
        axes.plot(minutes, share, drawstyle="steps-post", **look, markevery=every, linewidth=1.4, label=arm)
    log_axis(axes)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("from dispatch to report, minutes")
    axes.set_ylabel("share of reports")
    legend_above(axes, 4)
    titled(figure, f"{arms.name}: how long tasks take")
    return figure


def _minutes(run: Run) -> FloatArray:
    """Durations of the tasks whose report arrived."""
    tasks = run.tasks[~run.tasks["outcome"].isin(["dropped", "aborted", "in_flight"])].dropna(subset=["ended_at"])
    found: FloatArray = (tasks["ended_at"] - tasks["dispatched_at"]).to_numpy(np.float64) / MS_PER_MINUTE
    return found[found > 0]


def waste_by_arm_figure(arms: Arms) -> Figure:
    """What became of device time, as shares of all of it, by arm; hatched where it did the model no good."""
    figure = new_figure(9, 1.6 + 0.5 * len(arms.runs))
    axes = figure.subplots()
    tidy(axes, grid="x")
    spent = {arm: sum(device_time(run) for run in runs) for arm, runs in arms.runs.items()}
    left = np.zeros(len(spent))
    for outcome in _OUTCOMES:
        share = np.array([each[outcome] / max(each.sum(), 1) for each in spent.values()])  # type: ignore[index,union-attr]
        if share.max() < _TOO_THIN:
            left += share
            continue
        hatch = None if outcome in {"aggregated", "answered", "in_flight"} else "////"
        color = OUTCOME_COLORS[outcome]
        style: dict[str, Any] = {"color": color, "edgecolor": "white", "linewidth": 0.5, "hatch": hatch}
        axes.barh(np.arange(len(spent)), 100 * share, left=100 * left, label=outcome.replace("_", " "), **style)
        left += share
    axes.set_yticks(range(len(spent)), list(spent))
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xlabel("share of device time, %")
    legend_above(axes, 5)
    titled(figure, f"{arms.name}: what became of device time")
    return figure


#: What became of tasks, those that nobody knows yet last.
_OUTCOMES = (*(each.label for each in Outcome if each is not Outcome.IN_FLIGHT), Outcome.IN_FLIGHT.label)
_TOO_THIN = 0.002  # of all device time, for a color of its own in the legend


def speed_figure(arms: Arms) -> Figure:
    """Updates merged per client by tenths of clients from the slowest to the fastest, relative to the mean."""
    figure = new_figure(8, 4.6)
    axes = figure.subplots()
    tidy(axes)
    axes.axhline(1, color=GRAY, linewidth=0.8)
    for place, (arm, runs) in enumerate(arms.runs.items()):
        shares = np.mean([_by_tenth(run) for run in runs], axis=0)
        axes.plot(np.arange(1, len(shares) + 1), shares, **arm_look(place), linewidth=1.4, label=arm)
    axes.set_xticks(range(1, _TENTHS + 1))
    axes.set_ylim(bottom=0)
    axes.set_xlabel("tenth of the clients, slowest first")
    axes.set_ylabel("updates merged,\nof the mean client")
    legend_above(axes, 4)
    titled(figure, f"{arms.name}: who takes part")
    return figure


def _by_tenth(run: Run) -> FloatArray:
    counts = tasks_per_client(run, outcome="aggregated").astype(np.float64)
    order = np.argsort(-run.clients["compute_ms_per_sample"].to_numpy(np.float64), kind="stable")
    tenths = [part.mean() if len(part) else np.nan for part in np.array_split(counts[order], _TENTHS)]
    return np.array(tenths) / max(float(counts.mean()), 1e-12)


def groups_figure(arms: Arms, by: str = "speed") -> Figure:
    """The metric of clients by tenths of a property of theirs, at the last evaluation; the mean over seeds.

    Raises:
        RunFolderError: if a run was not evaluated per client, has no such property, or does not tell the metric.
    """
    figure = new_figure(8, 4.6)
    axes = figure.subplots()
    tidy(axes)
    for place, (arm, runs) in enumerate(arms.runs.items()):
        values = _group_means(runs, by, arms.metric)
        axes.plot(np.arange(1, len(values) + 1), values, **arm_look(place), linewidth=1.4, label=arm)
    axes.set_xlabel(f"group of clients by {by.replace('_', ' ')}, least first")
    axes.set_ylabel(f"{arms.metric} of the clients")
    legend_above(axes, 4)
    titled(figure, f"{arms.name}: who learns")
    return figure


def _group_means(runs: Sequence[Run], by: str, metric: str) -> FloatArray:
    """The mean over runs; with as many groups as the run with the fewest has."""
    tables = [by_group(run, by, quantiles=_TENTHS) for run in runs]
    for run, table in zip(runs, tables, strict=True):
        if metric not in table:
            known = ", ".join(name for name in table.columns[4:] if not name.endswith("_gap"))
            problem = Problem(f"{run.folder}: client_evaluations", f"no {metric} of clients", f"one of {known}")
            raise RunFolderError(report([problem]))
    found = [table[metric].to_numpy(np.float64) for table in tables]
    fewest = min(len(each) for each in found)
    if any(len(each) != fewest for each in found):
        found = [by_group(run, by, quantiles=fewest)[metric].to_numpy(np.float64)[:fewest] for run in runs]
    return np.asarray(np.mean([each[:fewest] for each in found], axis=0))
