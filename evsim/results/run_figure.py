"""The picture of one run: its metric over virtual time above what the devices did."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from evsim.base.metrics import Target, metric_of
from evsim.base.units import MS_PER_DAY, MS_PER_MINUTE, MS_PER_SECOND, format_duration
from evsim.base.vocabulary import IntArray
from evsim.results.canvas import (
    BLUE,
    GRAY,
    GREEN,
    LIGHT,
    ORANGE,
    VERMILION,
    new_figure,
    shade_nights,
    tidy,
    time_axis,
    titled,
)
from evsim.results.energy import task_joules
from evsim.results.links import link_use
from evsim.results.metrics import concurrency
from evsim.results.run import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_BINS = 150
_WIDTHS = (
    *(n * MS_PER_SECOND for n in (1, 5, 15, 30)),
    *(n * MS_PER_MINUTE for n in (1, 2, 5, 10, 15, 30, 60, 120, 360)),
)
_MOST_MARKED = 600
_ENDS = (  # how rounds end: goal reached or buffer full, at the deadline, with too few reports: label, color, row
    ("full", BLUE, 2),
    ("deadline", ORANGE, 1),
    ("failed", VERMILION, 0),
)


def run_figure(run: Run) -> Figure:
    """The headline metric, round ends, devices online, tasks in flight and lost, over one axis of virtual time."""
    learns = run.headline is not None
    figure = new_figure(10, 7.6 if learns else 5.2)
    shared, energy = run.scenario_tables.get("network", {}).get("kind") == "shared", _has_energy(run)
    heights = ([4.2] if learns else []) + [0.9, 2.4, 1.2] + [1.2] * (shared + energy)
    panels = list(figure.subplots(len(heights), 1, sharex=True, height_ratios=heights, squeeze=False)[:, 0])
    draws = ([_metric] if learns else []) + [_round_ends, _devices, _lost]
    draws += ([_link] if shared else []) + ([_energy] if energy else [])
    end = max(run.end_ms, 1)
    for axes, draw in zip(panels, draws, strict=True):
        tidy(axes)
        shade_nights(axes, 0, end, run.start_ms)
        _outages(axes, run)
        draw(axes, run)
    time_axis(panels[-1], 0, end, run.start_ms)
    figure.align_ylabels(panels)
    titled(figure, _title(run))
    return figure


def _title(run: Run) -> str:
    seed = "" if run.seed is None else f", seed {run.seed}"
    reason = str(run.manifest["end"]["reason"]).replace("_", " ")
    return f"{run.name}{seed}: {format_duration(run.end_ms)} of virtual time, ended by {reason}"


def _metric(axes: Axes, run: Run) -> None:
    curve, known = run.curve(final=True), metric_of(str(run.headline))
    dense = len(curve.at) > _MOST_MARKED
    axes.plot(curve.at, curve.value, color=BLUE, linewidth=2, marker="" if dense else "o", markersize=3, clip_on=False)
    axes.set_ylabel(f"test {run.headline}")
    if known is not None and (known.low, known.high) == (0.0, 1.0):
        axes.set_ylim(0, 1)
    if run.goal is not None:
        _target(axes, run, run.goal)


def _target(axes: Axes, run: Run, goal: Target) -> None:
    target = goal.value
    axes.axhline(target, color=GREEN, linewidth=1.2, linestyle="--")
    axes.annotate(
        f"target {target:g}",
        (0, target),
        (6, 3),
        textcoords="offset points",
        color=GREEN,
        va="bottom",
        fontsize="small",
    )
    found = run.time_to(goal.metric, at_least=goal.at_least, at_most=goal.at_most)
    if found is None:
        return
    at = found.total_seconds() * 1000
    axes.plot([at], [target], marker="o", markersize=9, markerfacecolor="none", color=GREEN, clip_on=False)
    side = "right" if at > run.end_ms / 2 else "left"
    text = f"first reached after {format_duration(at)}"
    offset = (-10 if side == "right" else 10, -14)
    axes.annotate(
        text, (at, target), offset, textcoords="offset points", ha=side, va="top", color=GREEN, fontsize="small"
    )


def _outages(axes: Axes, run: Run) -> None:
    """Bands for the times at which the server was down."""
    if "changes" in run.missing or run.partial:
        return
    down = run.changes[run.changes["what"].astype(str) == "outage"]
    for at, until in zip(down["at"].tolist(), down["until"].tolist(), strict=True):
        axes.axvspan(at, min(until, run.end_ms), color=VERMILION, alpha=0.15, linewidth=0, gid="outage")


def _link(axes: Axes, run: Run) -> None:
    """How much of the server's link was in use."""
    use, table = link_use(run), run.scenario_tables["network"]
    for way, color in (("down", BLUE), ("up", ORANGE)):
        axes.step(use["at"], use[way] / 1000, where="post", color=color, linewidth=1.1, label=way)
        if table.get(f"{way}_kbps"):
            axes.axhline(table[f"{way}_kbps"] / 1000, color=color, linewidth=0.8, linestyle="--")
    axes.set_ylabel("server link\nMbit/s")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, loc="upper left", ncols=2, fontsize="small", borderaxespad=0.1)


def _has_energy(run: Run) -> bool:
    return not run.partial and "energy" not in run.missing and len(run.energy) > 0


def _energy(axes: Axes, run: Run) -> None:
    """What tasks took from batteries so far, by the ends of the tasks."""
    tasks = run.tasks.assign(joules=task_joules(run) / 1000)
    tasks = tasks.assign(at=tasks["ended_at"].fillna(run.end_ms).to_numpy(np.int64)).sort_values("at")
    wasted = ~tasks["outcome"].isin(["aggregated", "answered", "in_flight"])
    for rows, color, label in ((tasks, BLUE, "tasks"), (tasks[wasted], VERMILION, "of that in vain")):
        axes.step(rows["at"], rows["joules"].cumsum(), where="post", color=color, linewidth=1.3, label=label)
    axes.set_ylabel("energy, kJ")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, loc="upper left", ncols=2, fontsize="small", borderaxespad=0.1)


def _round_ends(axes: Axes, run: Run) -> None:
    steps = run.server_steps
    failed = ~steps["applied"].to_numpy()
    late = (steps["reason"].isin(["deadline", "exhausted"])).to_numpy() & ~failed
    masks = {2: ~failed & ~late, 1: late, 0: failed}
    names = []
    for label, color, row in _ENDS:
        at = steps["closed_at"].to_numpy()[masks[row]]
        width = float(np.clip(300 / max(len(steps), 1), 0.4, 1.5))
        axes.vlines(at, row - 0.38, row + 0.38, color=color, linewidth=width)
        names.append((row, f"{label} {len(at):,}"))
    axes.grid(visible=False)
    axes.set_ylim(-0.6, 2.6)
    axes.set_yticks([row for row, _ in names], [name for _, name in names], fontsize="small")
    axes.set_ylabel("rounds end")


def _devices(axes: Axes, run: Run) -> None:
    online = run.availability
    if len(online):
        at, count = online["at"].to_numpy(), online["online"].to_numpy()
        axes.fill_between(at, count, step="post", color="#BFDDF0", linewidth=0, label="clients online")
        axes.step(at, count, where="post", color="#56B4E9", linewidth=1)
    steps = concurrency(run)
    at, flying = _thin(steps["at"].to_numpy(), steps["running"].to_numpy(), run.end_ms)
    axes.step(at, flying, where="post", color=VERMILION, linewidth=1.1, label="tasks in flight")
    axes.set_ylabel("clients, tasks")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, loc="upper left", ncols=2, fontsize="small", borderaxespad=0.1)


def _thin(at: IntArray, value: IntArray, end_ms: int, most: int = 4_000) -> tuple[IntArray, IntArray]:
    """At most so many instants of a step function, evenly spread."""
    if len(at) <= most:
        return np.append(at, end_ms), np.append(value, value[-1:] if len(value) else 0)
    grid = np.linspace(0, end_ms, most).astype(np.int64)
    where = np.searchsorted(at, grid, side="right") - 1
    return grid, np.where(where >= 0, value[np.maximum(where, 0)], 0)


def _bin_ms(span_ms: int) -> int:
    """A round width of which about so many fit into the span."""
    wanted = max(span_ms / _BINS, 1)
    return next((width for width in _WIDTHS if width >= wanted), -(-int(wanted) // MS_PER_DAY) * MS_PER_DAY)


def _lost(axes: Axes, run: Run) -> None:
    """Tasks lost per bin of time, by cause."""
    width = _bin_ms(run.end_ms)
    edges = np.arange(0, run.end_ms + 2 * width, width)
    bottom = np.zeros(len(edges) - 1)
    ended = run.tasks.dropna(subset=["ended_at"])
    for outcome, color in (("dropped", VERMILION), ("late", ORANGE), ("stale", "#CC79A7"), ("round_failed", "#000000")):
        at = ended.loc[ended["outcome"] == outcome, "ended_at"].to_numpy(np.int64)
        if not len(at):
            continue
        count, _ = np.histogram(at, edges)
        label = f"{outcome.replace('_', ' ')}: {len(at):,}"
        axes.bar(edges[:-1], count, np.diff(edges), bottom, align="edge", color=color, linewidth=0, label=label)
        bottom += count
    axes.set_ylabel(f"tasks lost\nper {format_duration(width)}")
    axes.set_ylim(0, max(1.0, float(bottom.max()) * 1.35))
    if bottom.any():
        axes.legend(frameon=False, loc="upper left", ncols=4, fontsize="small", borderaxespad=0.1)
    else:
        axes.text(0.01, 0.8, "none", transform=axes.transAxes, color=GRAY, fontsize="small")
    axes.spines["bottom"].set_color(LIGHT)
