"""What all plots share: figures without global state, colors for every eye, time axes, saving."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, final

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator

from evsim.base.errors import Problem, RunFolderError, report
from evsim.base.units import MS_PER_DAY, MS_PER_HOUR, MS_PER_MINUTE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito, "Color universal design", 2008: told apart with any color vision.
BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
YELLOW, BLUE, VERMILION, PINK = "#F0E442", "#0072B2", "#D55E00", "#CC79A7"
GRAY, LIGHT = "#767676", "#E4E4E4"
#: Arms in their order; line styles differ too, for prints without color.
ARM_COLORS = (BLUE, VERMILION, GREEN, PINK, ORANGE, SKY, BLACK)
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
_NIGHT = ((0, 6), (22, 24))  # hours of the day
_NIGHT_GROUND = "#F4F4F6"
_MOST_NIGHTS = 21
_NOTEBOOK_DPI = 80


@final
class Picture(Figure):
    """A figure that a notebook shows by itself, without pyplot."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=_NOTEBOOK_DPI)
        return buffer.getvalue()


def new_figure(width: float = 9.0, height: float = 5.0) -> Figure:
    """An empty figure that is no part of pyplot's state; sizes in inches."""
    figure = Picture(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def tidy(axes: Axes, *, grid: str = "y") -> None:
    """Few lines: no box, a light grid behind the data."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GRAY)
    axes.tick_params(color=GRAY, labelcolor="#333333")
    axes.set_axisbelow(True)
    if grid:
        axes.grid(axis=grid, color=LIGHT, linewidth=0.8)  # type: ignore[arg-type]  # one of "x", "y", "both"


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
    step = _tick_step(end_ms - begin_ms)
    first = -(-(begin_ms + start_ms) // step) * step
    clock = np.arange(first, end_ms + start_ms + 1, step)
    axes.set_xlim(begin_ms, end_ms)
    axes.xaxis.set_major_locator(FixedLocator([float(tick) for tick in clock - start_ms]))
    axes.set_xticklabels(_tick_labels([int(tick) for tick in clock], step))
    if label:
        axes.set_xlabel("virtual time (day and time of day)")


def _tick_step(span_ms: int) -> int:
    fitting = (minutes * MS_PER_MINUTE for minutes in _STEPS if span_ms / (minutes * MS_PER_MINUTE) <= _MOST_TICKS)
    return next(fitting, -(-span_ms // (_MOST_TICKS * MS_PER_DAY)) * MS_PER_DAY)


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


def save(figure: Figure, path: str | Path, *, dpi: int = 150) -> Path:
    """Write a figure as PNG or, by its ending, SVG.

    Raises:
        RunFolderError: if the file cannot be written.
    """
    target = Path(path)
    kind = "svg" if target.suffix == ".svg" else "png"
    try:
        figure.savefig(target, dpi=dpi, format=kind)
    except OSError as error:
        problem = Problem(str(target), f"cannot be written ({error.strerror or error})", "a path that can be written")
        raise RunFolderError(report([problem])) from error
    return target
