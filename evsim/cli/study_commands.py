"""Commands over many runs: sweep, compare, report."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from evsim.cli.base import complain, console, say, say_table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from evsim.base.caveat import Caveat
    from evsim.base.metrics import Target
    from evsim.results.caveats import Counted
    from evsim.study import Progress, Study


_CSV, _PNG, _HTML = "comparison.csv", "comparison.png", "report.html"

Value = Annotated[float | None, typer.Option(help="Value to reach; default: the study's, or the runs'.")]
Metric = Annotated[str | None, typer.Option(help="Of the test set; default: the study's, else the runs' first.")]
AtLeast = Annotated[float | None, typer.Option(help="A target of a metric whose direction is not known.")]
AtMost = Annotated[float | None, typer.Option(help="Likewise, reached from above.")]
Baseline = Annotated[str | None, typer.Option(help="The arm speed-ups refer to; default: the first.")]
RunningMean = Annotated[int, typer.Option(help="Evaluations that a crossing averages; 1: the first crossing.")]


def sweep(
    study: Annotated[str, typer.Argument(help="A study file: a scenario, arms, seeds; with --status, its folder.")],
    out: Annotated[Path | None, typer.Option(help="The study's folder; default: runs/<name>.")] = None,
    processes: Annotated[int | None, typer.Option(help="Runs at a time; default: the cores.", min=1)] = None,
    retry: Annotated[int, typer.Option(help="Try a run that fails so many times again.", min=0, max=100)] = 0,
    keep_going: Annotated[bool, typer.Option("--keep-going", help="Compare and report even if runs failed.")] = False,
    status: Annotated[bool, typer.Option("--status", help="Only say how far a study is, by its folder.")] = False,
) -> None:
    """Run a study: every arm with every seed, in parallel, going on where it was; then compare and report.

    All other runs go on when one fails; the command then ends with exit code 2 and names what failed.
    """
    if status:
        _say_status(Path(study))
        return
    from evsim.study import RunsFailedError, Study
    from evsim.study import sweep as run_study

    found = Study.load(study)
    folder = Path("runs") / found.name if out is None else out
    said = _caution(found)
    failed: RunsFailedError | None = None
    try:
        with _progress() as show:
            run_study(found, folder, processes=processes, retry=retry, on_progress=show)
    except RunsFailedError as error:
        if not keep_going:
            raise
        failed = error
    _conclude(found, folder, said)
    if failed is not None:
        raise failed


def _conclude(study: Study, folder: Path, said: Sequence[Caveat]) -> None:
    """Compare and report what is there, beside the caveats that were said."""
    if study.target() is None:
        _say_runs(folder, said)
        return
    _compare([folder], folder, said)
    report(folder)


def _say_status(folder: Path) -> None:
    """How far a study is; nothing but its folder is read."""
    from evsim.base.lock import holder
    from evsim.results.arms import read_study
    from evsim.results.standing import State, counted, standings

    told = read_study(folder)
    found = standings(folder, told)
    who = holder(folder)
    say(f"{told['name']}: {counted(found)} of {len(found)} runs; {'nobody works on it' if who is None else who}")
    rows = [(each.arm, str(each.seed), each.state.value, each.why) for each in found if each.state is not State.DONE]
    if rows:
        say_table(rows, headers=("arm", "seed", "state", "why"))


def compare(  # noqa: PLR0913, PLR0917  a command has the options that it has
    runs: Annotated[list[Path], typer.Argument(help="The folder of a study, or run folders.")],
    target: Value = None,
    baseline: Baseline = None,
    running_mean: RunningMean = 5,
    out: Annotated[Path | None, typer.Option(help="Also write comparison.csv and comparison.png there.")] = None,
    metric: Metric = None,
    at_least: AtLeast = None,
    at_most: AtMost = None,
) -> None:
    """Compare arms: time to a target with intervals over seeds, paired speed-ups, runs that never arrive."""
    goal = _goal(target, metric, at_least, at_most)
    _compare(runs, out, target=goal, baseline=baseline, running_mean=running_mean, metric=metric)


def _compare(runs: Sequence[Path], out: Path | None, said: Sequence[Caveat] = (), **options: Any) -> None:
    """Compare, with the options of `load_arms`."""
    from evsim.results.arms import load_arms
    from evsim.results.caveats import comparison_caveats
    from evsim.results.comparison import compare as compare_arms
    from evsim.results.comparison import executors_in_words, in_words
    from evsim.results.study_figures import study_figure
    from evsim.results.writing import write_csv, write_figure

    arms = load_arms(runs, **options)
    table = compare_arms(arms)
    head, *rows = in_words(arms, table)
    say(f"{arms.name}: time to {arms.goal}, crossed by the mean of {arms.running_mean} evaluations")
    say_table(rows, headers=head)
    for line in executors_in_words(arms.executors):
        say(f"trained by  {line}")
    _say_counted(comparison_caveats(arms), said)
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


def _goal(
    target: float | None, metric: str | None, at_least: float | None, at_most: float | None
) -> float | Target | None:
    """A target with its direction if one was given."""
    from evsim.base.errors import require
    from evsim.base.metrics import Target

    if at_least is None and at_most is None:
        return target
    require(target is None, "give one of --target, --at-least, --at-most", target=target)
    return Target(metric=metric or "accuracy", at_least=at_least, at_most=at_most)


def _caution(study: Study) -> list[Caveat]:
    """What the scenarios of a study have against themselves, once each, before hours are spent; gives it, too."""
    from evsim.base.caveat import as_caveat
    from evsim.scenario.caveats import caveats

    arms: dict[str, list[str]] = {}
    said: list[Caveat] = []
    for (arm, seed), scenario in study.scenarios().items():
        if seed == study.seeds[0]:
            for each in caveats(scenario):
                said.append(as_caveat(each))
                arms.setdefault(str(said[-1]), []).append(arm)
    if len(study.arms) > 1 and study.target() is not None:
        for text in _step_grids(study):
            arms[text] = list(study.arms)
    for text, which in arms.items():
        concerned = "all arms" if len(which) == len(study.arms) else ", ".join(which)
        complain(f"caveat: {text} [{concerned}]")
    return said


def _step_grids(study: Study) -> Iterator[str]:
    """Whether steps come at different rates shows when the runs are over: say it before."""
    if any(scenario.evaluation.every_steps is not None for scenario in study.scenarios().values()):
        yield (
            "evaluations every n server steps are compared only if the steps of all arms come at one rate; a grid "
            'of virtual time always is: evaluation.every = "10min"'
        )


def _say_counted(found: Sequence[Counted], said: Sequence[Caveat]) -> None:
    from evsim.cli.cautions import unsaid

    left = unsaid([each.caveat for each in found], said)
    for each in found:
        if each.caveat in left:
            say(f"caveat: {each}")


def _say_runs(folder: Path, said: Sequence[Caveat]) -> None:
    """A study without a target has nothing to compare, but its runs have something to say."""
    from evsim.results import load_runs
    from evsim.results.caveats import counted

    _say_counted(counted(load_runs(folder / "*" / "seed-*")), said)
    say(f"study       {folder}")


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
