"""Commands over many runs: sweep, compare, report."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from evsim.cli.base import complain, console, say, say_table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from evsim.study import Progress


_CSV, _PNG, _HTML = "comparison.csv", "comparison.png", "report.html"

Target = Annotated[float | None, typer.Option(help="Value to reach; default: the study's, or the runs'.")]
Metric = Annotated[str | None, typer.Option(help="Of the test set; default: the study's, else accuracy.")]
AtLeast = Annotated[float | None, typer.Option(help="A target of a metric whose direction is not known.")]
AtMost = Annotated[float | None, typer.Option(help="Likewise, reached from above.")]
Baseline = Annotated[str | None, typer.Option(help="The arm speed-ups refer to; default: the first.")]
RunningMean = Annotated[int, typer.Option(help="Evaluations that a crossing averages; 1: the first crossing.")]


def sweep(
    study: Annotated[str, typer.Argument(help="A study file: a scenario, arms, seeds.")],
    out: Annotated[Path | None, typer.Option(help="The study's folder; default: runs/<name>.")] = None,
    processes: Annotated[int | None, typer.Option(help="Runs at a time; default: the cores.", min=1)] = None,
) -> None:
    """Run a study: every arm with every seed, in parallel, going on where it was; then compare and report."""
    from evsim.study import Study
    from evsim.study import sweep as run_study

    found = Study.load(study)
    folder = Path("runs") / found.name if out is None else out
    with _progress() as show:
        run_study(found, folder, processes=processes, on_progress=show)
    if found.target() is None:
        say(f"study       {folder}")
        return
    compare([folder], out=folder)
    report(folder)


def compare(
    runs: Annotated[list[Path], typer.Argument(help="The folder of a study, or run folders.")],
    target: Target = None,
    baseline: Baseline = None,
    running_mean: RunningMean = 5,
    out: Annotated[Path | None, typer.Option(help="Also write comparison.csv and comparison.png there.")] = None,
    metric: Metric = None,
    at_least: AtLeast = None,
    at_most: AtMost = None,
) -> None:
    """Compare arms: time to a target with intervals over seeds, paired speed-ups, runs that never arrive."""
    from evsim.results.arms import load_arms
    from evsim.results.caveats import comparison_caveats
    from evsim.results.comparison import compare as compare_arms
    from evsim.results.comparison import executors_in_words, in_words
    from evsim.results.study_figures import study_figure
    from evsim.results.writing import write_csv, write_figure

    arms = load_arms(
        runs,
        target=target,
        baseline=baseline,
        running_mean=running_mean,
        metric=metric,
        at_least=at_least,
        at_most=at_most,
    )
    table = compare_arms(arms)
    head, *rows = in_words(arms, table)
    say(f"{arms.name}: time to {arms.goal}, crossed by the mean of {arms.running_mean} evaluations")
    say_table(rows, headers=head)
    for line in executors_in_words(arms.executors):
        say(f"trained by  {line}")
    for caveat in comparison_caveats(arms):
        say(f"caveat: {caveat}")
    if out is not None:
        say(f"table       {write_csv(table, out / _CSV)}")
        say(f"plot        {write_figure(study_figure(arms), out / _PNG)}")


def report(
    path: Annotated[Path, typer.Argument(help="A run folder, or the folder of a study.")],
    out: Annotated[Path | None, typer.Option(help="The HTML file; default: report.html in the folder.")] = None,
) -> None:
    """Write one self-contained HTML page: plots, tables, scenario and manifest."""
    from evsim.results.report import write_report

    say(f"report      {write_report(path, path / _HTML if out is None else out)}")


@contextmanager
def _progress() -> Iterator[Callable[[Progress], None]]:
    """A bar on a terminal, a line per run elsewhere."""
    screen = console()
    if not screen.is_terminal:
        yield lambda state: complain(f"{state.done}/{state.total} runs{f': {state.last}' if state.last else ''}")
        return
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Bar(*columns, TextColumn("{task.description}", markup=False), console=screen) as bar:
        task = bar.add_task("choosing an executor", total=None)

        def show(state: Progress) -> None:
            bar.update(task, total=state.total, completed=state.done, description=state.last or "running")

        yield show
