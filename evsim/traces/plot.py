"""One picture of an availability trace: who is online at which hour, and for how long."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from evsim.base.errors import TraceError
from evsim.base.figures import is_narrow, new_figure, titled, write
from evsim.base.units import MS_PER_DAY, MS_PER_HOUR, MS_PER_SECOND
from evsim.traces.describe import grid, online_counts

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.axes import Axes

    from evsim.traces.availability import AvailabilityTrace

# Okabe and Ito: told apart with any color vision.
_BLUE, _VERMILION, _GRAY = "#0072B2", "#D55E00", "#999999"
_TICKS = {1: "1 s", 60: "1 min", 600: "10 min", 3_600: "1 h", 36_000: "10 h", 360_000: "100 h"}


def plot_trace(availability: AvailabilityTrace, path: Path, *, title: str = "") -> None:
    """Draw online share by hour of day, each day and their mean, beside the distribution of session lengths.

    Raises:
        TraceError: if the trace has no devices or no intervals, the file's ending is unknown, or it cannot be written.
    """
    if availability.n_intervals == 0:
        raise TraceError("a trace without intervals cannot be plotted; expected at least one device that comes online")
    narrow = is_narrow()
    figure = new_figure(11, 8.0 if narrow else 4.2)
    left, right = figure.subplots(*((2, 1) if narrow else (1, 2)))
    _draw_hours(left, availability)
    _draw_sessions(right, availability)
    titled(figure, title or f"{availability.n_devices:,} devices, {availability.n_intervals:,} sessions")
    write(figure, path, TraceError)


def _draw_hours(axes: Axes, trace: AvailabilityTrace) -> None:
    instants = grid(trace)
    percent = 100 * online_counts(trace, instants) / trace.n_devices
    for day in range(0, int(instants[-1]) + 1, MS_PER_DAY):
        today = (instants >= day) & (instants < day + MS_PER_DAY)
        label = "each day" if day == 0 else None
        axes.plot((instants[today] - day) / MS_PER_HOUR, percent[today], color=_GRAY, linewidth=0.8, label=label)
    slot = instants % MS_PER_DAY
    slots, member = np.unique(slot, return_inverse=True)
    mean = np.bincount(member, weights=percent) / np.bincount(member)
    axes.plot(slots / MS_PER_HOUR, mean, color=_BLUE, linewidth=2.5, label="mean of days")
    axes.set(xlabel="time of day (h)", ylabel="devices online (%)", xlim=(0, 24), xticks=range(0, 25, 4))
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)


def _draw_sessions(axes: Axes, trace: AvailabilityTrace) -> None:
    seconds = np.sort(trace.stops - trace.starts) / MS_PER_SECOND
    points = np.linspace(0, len(seconds) - 1, min(len(seconds), 2_000)).astype(np.int64)
    sessions = 100 * (points + 1) / len(seconds)
    online = 100 * np.cumsum(seconds)[points] / seconds.sum()
    axes.plot(seconds[points], sessions, color=_BLUE, linewidth=2, label="of all sessions")
    axes.plot(seconds[points], online, color=_VERMILION, linewidth=2, linestyle="--", label="of all time online")
    axes.set_xscale("log")
    if seconds[-1] > 1:
        axes.set_xlim(left=max(1.0, float(seconds[0])))
    axes.set_xticks(list(_TICKS), list(_TICKS.values()))
    axes.minorticks_off()
    axes.set(xlabel="session length", ylabel="in sessions up to this length (%)", ylim=(0, 100))
    axes.legend(frameon=False)
