"""``evsim plot``: figures of runs and studies, as a paper wants them. And the options of every command that plots."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from evsim.cli.base import say

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from evsim.base.figures import Style
    from evsim.results.arms import Arms
    from evsim.results.run import Run

Shown = TypeVar("Shown")

Width = Annotated[str | None, typer.Option(metavar="LENGTH", help="Such as 3.3in, 84mm; default: the style's.")]
FontSize = Annotated[float | None, typer.Option(metavar="POINTS", help="Default: the style's.")]
StyleName = Annotated[str, typer.Option("--style", help="screen, or paper: one column, no titles, finer dots.")]


def plot(  # noqa: PLR0913, PLR0917  a command has the options that it has
    paths: Annotated[list[Path], typer.Argument(help="A run folder, the folder of a study, or run folders.")],
    figure: Annotated[str, typer.Option(help="Which one; a name that is none lists them.")] = "",
    out: Annotated[Path, typer.Option(help="The file: .pdf, .svg or .png.")] = Path("figure.png"),
    width: Width = None,
    font_size: FontSize = None,
    arms: Annotated[str | None, typer.Option(help="Which ones, in this order: names with ';' between them.")] = None,
    style: StyleName = "screen",
    target: Annotated[float | None, typer.Option(help="Value to reach; default: the study's, or the runs'.")] = None,
    metric: Annotated[str | None, typer.Option(help="Of the test set; default: the study's.")] = None,
) -> None:
    """Plot a run, or compare arms, for a screen or for a paper: fonts embedded, told apart without colors.

    Of a run: run, rounds, day, tasks, participation, waste. Of arms: study, curves, times, durations, waste, speed,
    groups.
    """
    from evsim.base.errors import PolicyError, RunFolderError
    from evsim.base.figures import format_of
    from evsim.results import load_run
    from evsim.results.arms import load_arms
    from evsim.results.standing import STUDY_FILE
    from evsim.results.writing import write_figure

    look = style_of(style, width, font_size)
    format_of(out, RunFolderError)  # before hours of runs are read
    with look.worn():
        if len(paths) == 1 and not (paths[0] / STUDY_FILE).is_file():
            if arms is not None:
                raise PolicyError(f"--arms are of a study or of several runs; {paths[0]} is one run")
            drawn = _chosen(figure or "run", _of_a_run())(load_run(paths[0]))
        else:
            draw = _chosen(figure or "study", _of_arms())
            found = load_arms(paths, target=target, metric=metric)
            drawn = draw(found if arms is None else found.only([each.strip() for each in arms.split(";")]))
        say(f"plot        {write_figure(drawn, out)}")


def style_of(name: str, width: str | None, font_size: float | None) -> Style:
    """The style that the options of a command ask for.

    Raises:
        PolicyError: if there is none of that name, or the width or font size is impossible.
    """
    from dataclasses import replace

    from evsim.base.errors import PolicyError, suggest
    from evsim.base.figures import PAPER, SCREEN, parse_width

    styles = {"screen": SCREEN, "paper": PAPER}
    if name not in styles:
        raise PolicyError(f"--style {name!r} is none; {suggest(name, styles)}")
    found = styles[name]
    found = found if width is None else replace(found, width=parse_width(width))
    return found if font_size is None else replace(found, font_size=font_size)


def _chosen(name: str, known: dict[str, Callable[[Shown], Figure]]) -> Callable[[Shown], Figure]:
    from evsim.base.errors import PolicyError, suggest

    if name not in known:
        raise PolicyError(f"--figure {name!r} is none of these; {suggest(name, known)}")
    return known[name]


def _of_a_run() -> dict[str, Callable[[Run], Figure]]:
    from evsim.results import plots

    return {
        "run": plots.run_figure,
        "rounds": plots.rounds_figure,
        "day": plots.day_figure,
        "tasks": plots.tasks_figure,
        "participation": plots.participation_figure,
        "waste": plots.waste_figure,
    }


def _of_arms() -> dict[str, Callable[[Arms], Figure]]:
    from evsim.results import plots

    return {
        "study": plots.study_figure,
        "curves": plots.curves_figure,
        "times": plots.times_figure,
        "durations": plots.durations_figure,
        "waste": plots.waste_by_arm_figure,
        "speed": plots.speed_figure,
        "groups": plots.groups_figure,
    }
