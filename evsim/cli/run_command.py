"""``evsim run``: one scenario, from file to run folder, table and plot."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from evsim.cli.base import INTERRUPTED, TERMINATED, Overrides, say, say_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from evsim.base.caveat import Caveat

_PLOT = "run.png"
_CODES = {"interrupted": INTERRUPTED, "terminated": TERMINATED}


def run(  # noqa: PLR0913, PLR0917  the options of a command
    scenario: Annotated[str, typer.Argument(help="A scenario file, a run folder, or the name of a bundled scenario.")],
    override: Overrides = None,
    seed: Annotated[int | None, typer.Option(help="Same as -o seed=N.")] = None,
    out: Annotated[Path | None, typer.Option(help="The run folder; default: the next free runs/<name>-<n>.")] = None,
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Where training runs.")] = "auto",
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in --out DIR if it was interrupted or killed.")
    ] = False,
    extend: Annotated[
        list[str] | None,
        typer.Option(
            "--extend",
            metavar="KEY=VALUE",
            help="Go on with a run that is over to a later end, such as "
            "stop.virtual_time=14d; its folder is --out DIR, or SCENARIO.",
        ),
    ] = None,
    profiled: Annotated[bool, typer.Option("--profile", help="Say where the wall-clock time went.")] = False,
) -> None:
    """Run a scenario and write its run folder, with a plot."""
    from evsim.base.profiling import profile
    from evsim.cli.cautions import cautioned
    from evsim.cli.folders import claimed
    from evsim.cli.progress import progress
    from evsim.run.resuming import longer
    from evsim.run.simulation import Simulation
    from evsim.scenario import Scenario

    if resume and extend:
        raise typer.BadParameter("--extend goes on with a run that is over, --resume with one that is not: give one")
    if resume and out is None:
        raise typer.BadParameter("--resume needs --out DIR, the folder of the run to go on with")
    seeds = [] if seed is None else [f"seed={seed}"]
    changes = [*(override or ()), *seeds, *(extend or ())]
    if extend and out is None:
        out = Path(scenario)
        chosen = longer(out, changes)
    else:
        chosen = Scenario.load(scenario, changes)
    watch = profile() if profiled else nullcontext()
    with cautioned() as said, claimed(out, chosen.name) as folder, progress(chosen.start) as show, watch as told:
        Simulation(chosen, device=device).run(folder, show, resume=resume, extend=bool(extend))
    if told is not None:
        say("\n".join(told.lines()))
    raise typer.Exit(_CODES.get(conclude(folder, said), 0))


def resume(
    folder: Annotated[Path, typer.Argument(help="The folder of a run that was interrupted or killed.")],
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Where training runs.")] = "auto",
) -> None:
    """Go on with a run that was interrupted or killed; what it writes is what it would have written without."""
    from evsim.cli.cautions import cautioned
    from evsim.cli.progress import progress
    from evsim.run.resuming import is_over, leave_over, scenario_of
    from evsim.run.simulation import Simulation

    said: list[Caveat] = []
    if is_over(folder):
        leave_over(folder)
    else:
        chosen = scenario_of(folder)
        with cautioned() as said, progress(chosen.start) as show:
            Simulation(chosen, device=device).run(folder, show, resume=True)
    raise typer.Exit(_CODES.get(conclude(folder, said), 0))


def conclude(folder: Path, said: Sequence[Caveat] = ()) -> str:
    """Say what came out of a run, beside the caveats that were said; draw it, and return why it ended."""
    from evsim.cli.cautions import unsaid
    from evsim.results import load_run
    from evsim.results.plots import plot_run
    from evsim.results.summary import summary_table

    found = load_run(folder)
    say_table([*summary_table(found, caveats=False), *(("caveat", str(each)) for each in unsaid(found.caveats, said))])
    plot_run(found, folder / _PLOT)
    say(f"run folder  {folder}")
    say(f"plot        {folder / _PLOT}")
    return str(found.manifest["end"]["reason"])
