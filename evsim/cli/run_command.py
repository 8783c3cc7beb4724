"""``evsim run``: one scenario, from file to run folder, table and plot."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Literal

import typer

from evsim.cli.base import INTERRUPTED, Overrides, say, say_table

_PLOT = "run.png"


def run(
    scenario: Annotated[str, typer.Argument(help="A scenario file, a run folder, or the name of a bundled scenario.")],
    override: Overrides = None,
    seed: Annotated[int | None, typer.Option(help="Same as -o seed=N.")] = None,
    out: Annotated[Path | None, typer.Option(help="The run folder; default: the next free runs/<name>-<n>.")] = None,
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Where training runs.")] = "auto",
    profiled: Annotated[bool, typer.Option("--profile", help="Say where the wall-clock time went.")] = False,
) -> None:
    """Run a scenario and write its run folder, with a plot."""
    from evsim.base.profiling import profile
    from evsim.cli.cautions import cautioned
    from evsim.cli.folders import claimed
    from evsim.cli.progress import progress
    from evsim.run.simulation import Simulation
    from evsim.scenario import Scenario

    seeds = [] if seed is None else [f"seed={seed}"]
    chosen = Scenario.load(scenario, [*(override or ()), *seeds])
    watch = profile() if profiled else nullcontext()
    with cautioned(), claimed(out, chosen.name) as folder, progress(chosen.start) as show, watch as told:
        Simulation(chosen, device=device).run(folder, show)
    if told is not None:
        say("\n".join(told.lines()))
    if conclude(folder) == "interrupted":
        raise typer.Exit(INTERRUPTED)


def conclude(folder: Path) -> str:
    """Say what came out of a run, draw it, and return why it ended."""
    from evsim.results import load_run
    from evsim.results.plots import plot_run
    from evsim.results.summary import summary_table

    found = load_run(folder)
    say_table(summary_table(found))
    plot_run(found, folder / _PLOT)
    say(f"run folder  {folder}")
    say(f"plot        {folder / _PLOT}")
    return str(found.manifest["end"]["reason"])
