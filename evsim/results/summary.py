"""A run in words and numbers."""

from __future__ import annotations

from functools import partial

import numpy as np

from evsim.base.metrics import Target, as_text, metric_of
from evsim.base.units import format_bytes, format_clock, format_duration
from evsim.base.vocabulary import Outcome
from evsim.results.run import Run

_SMOOTH = 3


def summary_table(run: Run, *, caveats: bool = True) -> list[tuple[str, str]]:
    """What came out of a run: rows of a label and a text, and what speaks against it."""
    said = [("caveat", str(each)) for each in run.caveats] if caveats else []
    return [*_head(run), *_learning(run), *_tasks(run), *said]


def _head(run: Run) -> list[tuple[str, str]]:
    end, steps = run.manifest["end"], run.server_steps
    failed = int((~steps["applied"]).sum())
    rounds = f"{len(steps):,}" + (f", {failed:,} of them failed" if failed else "")
    clock = format_clock(run.end_ms, run.start_ms)
    return [
        ("run", run.name if run.seed is None else f"{run.name}, seed {run.seed}"),
        ("ended", f"{str(end['reason']).replace('_', ' ')}, on {clock}"),
        ("virtual time", format_duration(run.end_ms)),
        ("server steps", f"{int(steps['applied'].sum()):,}"),
        ("rounds", rounds),
    ]


def _learning(run: Run) -> list[tuple[str, str]]:
    name = run.headline
    if name is None:
        return []
    values = run.curve(final=True).value
    known, direction = values[np.isfinite(values)], metric_of(name)
    words = f"{as_text(name, values[-1])} at the end"
    if direction is not None and len(known):
        best = known.max() if direction.larger_is_better else known.min()
        words += f", {as_text(name, best)} at best"
    return [(name, words), *([] if run.goal is None else [(f"time to {name}", _time_to(run, run.goal))])]


def _time_to(run: Run, goal: Target) -> str:
    asked, target = partial(run.time_to, goal.metric, at_least=goal.at_least, at_most=goal.at_most), goal.value
    first, mean = asked(), asked(running_mean=_SMOOTH)
    text = f"{target:g}: not reached"
    if first is None and goal.reached(run.curve(goal.metric, final=True).value[-1]):
        text = f"{target:g}: only at the run's end, between two evaluations"
    if first is not None:
        text = f"{target:g} first after {format_duration(first.total_seconds() * 1000)}"
    if mean is not None:
        text += f"; as mean of {_SMOOTH} after {format_duration(mean.total_seconds() * 1000)}"
    return text


def _tasks(run: Run) -> list[tuple[str, str]]:
    tasks = run.tasks
    if tasks.empty:
        return [("tasks", "none")]
    counts = tasks["outcome"].value_counts()
    listed = [(each.label, int(counts[each.label])) for each in Outcome if counts[each.label]]
    words = ", ".join(f"{count:,} {label.replace('_', ' ')}" for label, count in listed)
    spent = tasks[["download_ms", "compute_ms", "upload_ms"]].sum(axis=1)
    used = spent[tasks["outcome"] == "aggregated"].sum() / max(spent.sum(), 1)
    lost = run.lost_slots()
    held = [] if lost is None else [("slots held by lost devices", f"{lost[0]:.1f} of {lost[1]} on average")]
    return [
        ("tasks", f"{len(tasks):,}: {words}"),
        *held,
        ("clients asked", f"{tasks['client'].nunique():,} of {len(run.clients):,}"),
        ("device time", f"{format_duration(spent.sum())}, {used:.0%} of it in merged updates"),
        ("bytes down, up", f"{format_bytes(tasks['bytes_down'].sum())}, {format_bytes(tasks['bytes_up'].sum())}"),
    ]
