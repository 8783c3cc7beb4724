"""What all plots share: figures without global state, colors for every eye, time axes, saving."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter

from evsim.base.errors import RunFolderError
from evsim.base.figures import is_narrow, new_figure, style, titled, write
from evsim.base.units import MS_PER_DAY, MS_PER_HOUR, MS_PER_MINUTE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["is_narrow", "new_figure", "save", "titled"]

# Okabe and Ito, "Color universal design", 2008: told apart with any color vision.
BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
YELLOW, BLUE, VERMILION, PINK = "#F0E442", "#0072B2", "#D55E00", "#CC79A7"
GRAY, LIGHT = "#767676", "#E4E4E4"
#: Arms in their order; line styles differ too, for prints without color.
ARM_COLORS = (BLUE, VERMILION, GREEN, PINK, ORANGE, SKY, BLACK)
ARM_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
ARM_LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 2)), (0, (8, 2)))
OUTCOME_COLORS = {
    "aggregated": BLUE,
    "answered": SKY,
    "surplus": YELLOW,
    "late": ORANGE,
    "stale": PINK,
    "dropped": VERMILION,
    "round_failed": BLACK,
    "invalid": "#8C510A",
    "aborted": GRAY,
    "in_flight": LIGHT,
}

_STEPS = (5, 10, 15, 30, 60, 120, 180, 360, 720, 1440, 2880, 7 * 1440, 14 * 1440)  # minutes
_MOST_TICKS = 9
_LEGEND_WIDTH = 11  # of an entry, likewise
_TICK_WIDTH = 5  # of a label, in letter heights, with the space beside it
_NIGHT = ((0, 6), (22, 24))  # hours of the day
_NIGHT_GROUND = "#F4F4F6"
_MOST_NIGHTS = 21


def tidy(axes: Axes, *, grid: str = "y") -> None:
    """Few lines: no box, a light grid behind the data."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GRAY)
    axes.tick_params(color=GRAY, labelcolor="#333333")
    axes.set_axisbelow(True)
    if grid:
        axes.grid(axis=grid, color=LIGHT, linewidth=0.8)  # type: ignore[arg-type]  # one of "x", "y", "both"


def log_axis(axes: Axes) -> None:
    """A logarithmic x axis with plain numbers at 1, 2 and 5 times the powers of ten."""
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def arm_look(place: int) -> dict[str, Any]:
    """Color, line and marker of the arm at this place: told apart without colors too."""
    which = place % len(ARM_COLORS)
    return {"color": ARM_COLORS[which], "linestyle": ARM_LINES[which], "marker": ARM_MARKERS[which]}


def legend_above(axes: Axes, columns: int) -> None:
    """A legend over the plot, where it hides nothing; in as many columns as the width has room for."""
    figure = axes.get_figure(root=True)
    inches = float(figure.get_size_inches()[0]) if figure is not None else math.inf
    room = max(1, int(72 * inches / (_LEGEND_WIDTH * style().font_size)))
    columns = min(columns, room)
    axes.legend(
        frameon=False, ncols=columns, fontsize="small", loc="lower left", bbox_to_anchor=(0, 1.0), borderaxespad=0.1
    )


def time_axis(axes: Axes, begin_ms: int, end_ms: int, start_ms: int, *, label: bool = True) -> None:
    """Virtual time as time of day: ticks on round hours, the day below where it begins.

    Args:
        axes: whose x axis holds ms since virtual time 0.
        begin_ms: left end, ms.
        end_ms: right end, ms.
        start_ms: time of day at which virtual time 0 falls, ms since midnight.
        label: say what the axis is.
    """
    end_ms = max(end_ms, begin_ms + MS_PER_MINUTE)
    step = _tick_step(end_ms - begin_ms, _most_ticks(axes))
    first = -(-(begin_ms + start_ms) // step) * step
    clock = np.arange(first, end_ms + start_ms + 1, step)
    axes.set_xlim(begin_ms, end_ms)
    axes.xaxis.set_major_locator(FixedLocator([float(tick) for tick in clock - start_ms]))
    axes.set_xticklabels(_tick_labels([int(tick) for tick in clock], step))
    if label:
        axes.set_xlabel("virtual time (day and time of day)" if style().titles else "virtual time")


def _most_ticks(axes: Axes) -> int:
    """How many labels fit side by side."""
    figure = axes.get_figure(root=True)
    width = 0.8 * 72 * float(figure.get_size_inches()[0]) if figure is not None else math.inf
    return int(min(_MOST_TICKS, max(2, width / (_TICK_WIDTH * style().font_size))))


def _tick_step(span_ms: int, most: int = _MOST_TICKS) -> int:
    fitting = (minutes * MS_PER_MINUTE for minutes in _STEPS if span_ms / (minutes * MS_PER_MINUTE) <= most)
    return next(fitting, -(-span_ms // (most * MS_PER_DAY)) * MS_PER_DAY)


def _tick_labels(clock: list[int], step: int) -> list[str]:
    labels, day = [], None
    for tick in clock:
        today, rest = divmod(tick, MS_PER_DAY)
        hours = f"{rest // MS_PER_HOUR:02d}:{rest // MS_PER_MINUTE % 60:02d}"
        new = f"day {today + 1}" if today != day else ""
        labels.append(new if step >= MS_PER_DAY else f"{hours}\n{new}")
        day = today
    return labels


def shade_nights(axes: Axes, begin_ms: int, end_ms: int, start_ms: int) -> None:
    """A gray ground from 22:00 to 06:00, when most phones charge; not where the window is too long to see nights."""
    if end_ms - begin_ms > _MOST_NIGHTS * MS_PER_DAY:
        return
    for day in range((begin_ms + start_ms) // MS_PER_DAY, (end_ms + start_ms) // MS_PER_DAY + 1):
        for hours in _NIGHT:
            dusk, dawn = (day * MS_PER_DAY + hour * MS_PER_HOUR - start_ms for hour in hours)
            if dusk < end_ms and dawn > begin_ms:
                axes.axvspan(max(dusk, begin_ms), min(dawn, end_ms), color=_NIGHT_GROUND, linewidth=0, zorder=0)


def save(figure: Figure, path: str | Path) -> Path:
    """Write a figure as PNG, SVG or PDF, by the ending of the file.

    Raises:
        RunFolderError: if the ending is another one, or the file cannot be written.
    """
    return write(figure, path, RunFolderError)
