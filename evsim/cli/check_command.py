"""``evsim check``: what a scenario means, whether it runs, and what it cannot mean."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from evsim.cli.base import Overrides, say, say_table

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from evsim.base.caveat import Caveat
    from evsim.scenario import Scenario


def check(
    scenario: Annotated[str, typer.Argument(help="A scenario file, a run folder, or the name of a bundled scenario.")],
    override: Overrides = None,
    fast: Annotated[bool, typer.Option("--fast", help="Look at the file only: open no traces, data or model.")] = False,
    plug_ins: Annotated[
        bool,
        typer.Option("--plugins/--no-plugins", help="With --no-plugins, refuse a scenario that brings code."),
    ] = True,
) -> None:
    """Check a scenario and say what it means: what this command calls fine, runs.

    Every problem is reported at once. Traces, data, model and plug-ins are opened as a run opens them, every client is
    priced, aggregation and selection make a few server steps without training, and a few clients train two mini-batches
    through every slot.

    A scenario from somebody else is a program: a kind such as "mine.py:Mine" is code that runs with your rights when
    the scenario is checked or run. --no-plugins refuses such a file without importing anything.
    """
    from evsim.cli.cautions import caution
    from evsim.scenario import Scenario
    from evsim.scenario.words import in_words

    if not plug_ins:
        _refuse_code(scenario, override or ())
    found = Scenario.load(scenario, override or ())
    said = list(dict.fromkeys(_caveats(found, fast=fast)))
    say_table(in_words(found))
    caution(said)
    say(f"{scenario}: {'runs, with caveats' if said else 'fine'}{' (nothing was opened)' if fast else ''}")


def _caveats(scenario: Scenario, *, fast: bool) -> Iterator[Caveat]:
    """Everything worth saying about a scenario; raises if it does not run."""
    from evsim.scenario.caveats import caveats

    yield from caveats(scenario)
    if fast:
        return
    from evsim.run.assembly import open_all
    from evsim.run.doubts import doubts
    from evsim.run.trial import try_out

    opened = open_all(scenario, "cpu")
    yield from doubts(scenario, opened)
    yield from try_out(scenario, opened)


def _refuse_code(scenario: str, overrides: Sequence[str]) -> None:
    from evsim.base.errors import ScenarioError, report
    from evsim.scenario.layers import find, override, read
    from evsim.scenario.paths import code_in

    problems = code_in([*read(find(scenario)), *map(override, overrides)])
    if problems:
        raise ScenarioError(report(problems))
