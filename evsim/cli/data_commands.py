"""``evsim data``: import data of any kind into evsim's own store, and look at what is there."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from evsim.cli.base import say, say_table
from evsim.cli.plot_command import FontSize, StyleName, Width, style_of

data = typer.Typer(no_args_is_help=True, help="Import data into evsim's own store, and look at it.")

Found = Annotated[str, typer.Argument(help="A store, or a data set that needs no options, such as digits.")]


@data.command(name="import")
def import_(
    kind: Annotated[str, typer.Argument(metavar="FORMAT", help="What it is; see: evsim list data_format.")],
    source: Annotated[str, typer.Argument(metavar="PATH", help="A file or folder; for torch: module:function.")],
    out: Annotated[Path, typer.Option(help="The store: a folder that is not there yet.")],
    min_samples: Annotated[int | None, typer.Option(min=1, help="Leave out clients with fewer.")] = None,
    max_samples: Annotated[int | None, typer.Option(min=1, help="Keep the first so many of a client.")] = None,
    option: Annotated[list[str] | None, typer.Option("-o", "--option", metavar="KEY=VALUE")] = None,
) -> None:
    """Convert data to evsim's own store, once; a scenario then names the store."""
    from evsim.scenario.layers import merge, override
    from evsim.training.data.importing import import_data
    from evsim.training.data.store import open_store
    from evsim.training.data.suggesting import scenario_for
    from evsim.training.data.writing import Limits

    options: dict[str, Any] = {}
    for each in option or ():
        options = merge(options, override(each).tables)
    limits = Limits(min_samples=min_samples, max_samples=max_samples)
    import_data(kind, source, out, options=options, limits=limits)
    show(str(out))
    say("\nA scenario beside it may begin so:\n")
    say(scenario_for(open_store(out), str(out)))


@data.command(name="list")
def list_(
    folder: Annotated[Path, typer.Argument(help="Where to look for stores, and in the folders below.")] = Path(),
) -> None:
    """List the stores of a folder, and the data sets that ship or are one package away."""
    from evsim.base import registry
    from evsim.training.data.looks import found_stores

    stores = found_stores(folder)
    say(f"stores in {folder}")
    say_table(
        [("", *row) for row in stores] or [("", "(none); make one with: evsim data import FORMAT PATH --out NAME")]
    )
    say("data sets")
    say_table([("", kind, entry.summary) for kind, entry in registry.entries("dataset").items()])


@data.command()
def describe(
    name: Found,
    verify: Annotated[bool, typer.Option("--verify", help="Compare the files with their checksums.")] = False,
) -> None:
    """Say what a store or a data set holds: clients, samples and labels per client, skew."""
    if verify:
        from evsim.training.data.store import verify as check

        check(Path(name))
    show(name)
    if verify:
        say("all checksums are right")


@data.command()
def plot(
    name: Found,
    out: Annotated[Path, typer.Option(help="The file: .pdf, .svg or .png.")] = Path("data.png"),
    width: Width = None,
    font_size: FontSize = None,
    style: StyleName = "screen",
) -> None:
    """Draw samples per client, and the labels of clients."""
    from evsim.training.data.looks import look_at, plot_data

    with style_of(style, width, font_size).worn():
        plot_data(look_at(name), out)
    say(str(out))


def show(name: str) -> None:
    """A store or a data set in words and numbers."""
    from evsim.training.data.looks import describe_data, look_at

    say_table(list(describe_data(look_at(name)).items()))
