"""The application object and what every command shares: how errors, interruptions and tables look."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup
from typing_extensions import override

from evsim.base.culprit import explain
from evsim.base.errors import EvsimError

if TYPE_CHECKING:
    from rich.console import Console

BAD_INPUT = 2
INTERRUPTED = 130  # what shells report for SIGINT
TERMINATED = 143  # and for SIGTERM
_LEAVING = ("click", "typer")  # packages whose exceptions are ways to leave
_WIDE = 200  # columns when the output is no terminal: nothing is cut that a program may read

Overrides = Annotated[
    list[str] | None,
    typer.Option("-o", "--override", metavar="KEY=VALUE", help="Set a key of the scenario, such as stop.rounds=10."),
]


class _Group(TyperGroup):
    """Errors that a user can cause end with a message and exit code 2, signals with 130 or 143; never with a traceback.

    So do errors of a plug-in that nobody caught where it was called.
    """

    @override
    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except EvsimError as error:
            complain(str(error))
            raise typer.Exit(BAD_INPUT) from error
        except KeyboardInterrupt as stop:
            complain("terminated" if stop.args == ("terminated",) else "interrupted")
            raise typer.Exit(TERMINATED if stop.args == ("terminated",) else INTERRUPTED) from stop
        except (Exception, SystemExit) as error:
            leaving = type(error).__module__.partition(".")[0] in _LEAVING
            text = None if leaving else explain(error)
            if text is None:  # typer's own ways to leave, or a fault of evsim
                raise
            complain(text)
            raise typer.Exit(BAD_INPUT) from error


app = typer.Typer(
    cls=_Group,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="How long, on real devices, until this federated-learning method reaches this accuracy?",
)


def _show_version(wanted: bool) -> None:
    if wanted:
        from evsim import __version__

        sys.stdout.write(f"evsim {__version__}\n")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Say the version and leave.")
    ] = False,
) -> None:
    """How long, on real devices, until this federated-learning method reaches this accuracy?"""


def complain(message: str) -> None:
    """A message on stderr, as it is."""
    sys.stderr.write(f"evsim: {message}\n")


def say(message: str = "") -> None:
    """A line on stdout, as it is: paths are never wrapped."""
    sys.stdout.write(f"{message}\n")


def console() -> Console:
    """Where tables and progress go."""
    from rich.console import Console

    found = Console(highlight=False, markup=False)
    return found if found.is_terminal else Console(highlight=False, markup=False, width=_WIDE)


def say_table(rows: Sequence[Sequence[str]], *, headers: Sequence[str] = (), title: str = "") -> None:
    """A table without lines."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(
        *headers,
        box=SIMPLE_HEAD if headers else None,
        title=title or None,
        title_justify="left",
        show_header=bool(headers),
    )
    for row in rows:
        table.add_row(*row)
    console().print(table)
