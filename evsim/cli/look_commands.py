"""Commands that look and change nothing: list, describe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from evsim.cli.base import say, say_table


def list_kinds(
    slot: Annotated[str | None, typer.Argument(help="One slot; default: all of them.")] = None,
) -> None:
    """List what can be plugged in, by slot; and the algorithms, scenarios and traces that ship."""
    from evsim.cli.catalog import catalog

    for name, rows in catalog(slot).items():
        say(name)
        say_table([("", *row) for row in rows] or [("", "(nothing)")])


def describe(
    path: Annotated[
        str, typer.Argument(help="A scenario, a run folder, a trace, a store of data, or the name of a bundled one.")
    ],
) -> None:
    """Describe a trace, a scenario, a run or a store of data in words and numbers."""
    from evsim.cli.catalog import kind_of_path

    _DESCRIBERS[kind_of_path(path)](path)


def _describe_scenario(path: str) -> None:
    from evsim.run.assembly import population_of
    from evsim.scenario import Scenario
    from evsim.scenario.words import devices_in_words, in_words

    found = Scenario.load(path)
    say_table([*in_words(found), ("", ""), *devices_in_words(found, population_of(found))])


def _describe_run(path: str) -> None:
    from evsim.results import load_run
    from evsim.results.summary import summary_table

    say_table(summary_table(load_run(Path(path))))


def _describe_trace(path: str) -> None:
    from evsim.cli.trace_commands import show

    show(path)


def _describe_data(path: str) -> None:
    from evsim.cli.data_commands import show

    show(path)


_DESCRIBERS = {
    "scenario": _describe_scenario,
    "run": _describe_run,
    "trace": _describe_trace,
    "data": _describe_data,
}
