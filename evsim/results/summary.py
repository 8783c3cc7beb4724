"""A run in words and numbers."""

from __future__ import annotations

import numpy as np

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
    if not (run.evaluations["metric"] == "accuracy").any():
        return []
    accuracy = run.curve(final=True).value
    best = np.max(accuracy[np.isfinite(accuracy)], initial=0.0)
    rows = [("accuracy", f"{accuracy[-1]:.3f} at the end, {best:.3f} at best")]
    target = run.manifest.get("target_accuracy")
    return rows if target is None else [*rows, ("time to accuracy", _time_to(run, float(target)))]


def _time_to(run: Run, target: float) -> str:
    first = run.time_to_accuracy(target)
    mean = run.time_to_accuracy(target, running_mean=_SMOOTH)
    text = f"{target:g}: not reached"
    if first is None and run.curve(final=True).value[-1] >= target:
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
