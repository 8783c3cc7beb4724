"""``evsim export``: a run for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from evsim.base.errors import RunFolderError
from evsim.cli.base import say


def export(
    folder: Annotated[Path, typer.Argument(help="The folder of a run.")],
    perfetto: Annotated[
        Path | None, typer.Option(help="Write a picture of time; open it at ui.perfetto.dev or chrome://tracing.")
    ] = None,
    csv: Annotated[Path | None, typer.Option(help="Write the stream of events, a line each.")] = None,
) -> None:
    """Export a run: its stream of events as CSV, or tracks of server, rounds and clients for Perfetto."""
    from evsim.results import load_run
    from evsim.results.exporting import to_csv, to_perfetto

    if perfetto is None and csv is None:
        raise RunFolderError("nothing to export: say --perfetto FILE, --csv FILE, or both")
    run = load_run(folder)
    for path, write in ((perfetto, to_perfetto), (csv, to_csv)):
        if path is not None:
            write(run, path)
            say(str(path))
