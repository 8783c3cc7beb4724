"""The application object and what every command shares: how errors, interruptions and tables look."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup
from typing_extensions import override

from evsim.base.culprit import explain
from evsim.base.errors import EvsimError
from evsim.base.outside import Stopped, of_a_file, of_the_system
from evsim.base.user_code import said

if TYPE_CHECKING:
    from rich.console import Console

BAD_INPUT = 2
FAULT = 1  # of evsim itself
INTERRUPTED = 128 + 2  # and the signal's number, as shells report it
TERMINATED = 128 + 15
_LEAVING = ("click", "typer")  # packages whose exceptions are ways to leave
_WIDE = 200  # columns when the output is no terminal: nothing is cut that a program may read

Overrides = Annotated[
    list[str] | None,
    typer.Option("-o", "--override", metavar="KEY=VALUE", help="Set a key of the scenario, such as stop.rounds=10."),
]


class _Group(TyperGroup):
    """Every error ends with a sentence: exit code 2 if a user or the system caused it, 1 if it is a fault of evsim.

    SIGINT ends with 130, SIGTERM and SIGHUP with 143. A traceback is never shown; that of a fault of evsim goes to a
    file. So do errors of a plug-in that nobody caught where it was called.
    """

    @override
    def invoke(self, ctx: Any) -> Any:
        _ready_to_write()
        try:
            found = super().invoke(ctx)
            sys.stdout.flush()  # here a full disk or a reader that left can still be told
        except BrokenPipeError as error:
            _silence(sys.stdout)
            complain("nobody reads the output any more: it ends here")
            raise typer.Exit(BAD_INPUT) from error
        except KeyboardInterrupt as stop:
            complain("interrupted")
            raise typer.Exit(_code_of(stop)) from stop
        except BaseException as error:  # a plug-in may raise anything
            if type(error).__module__.partition(".")[0] in _LEAVING:
                raise
            raise typer.Exit(_tell(error)) from error
        return found


def _code_of(stop: KeyboardInterrupt) -> int:
    """One code for being terminated, however: a terminal that is closed asks for nothing else than a scheduler."""
    return TERMINATED if isinstance(stop, Stopped) and stop.number != signal.SIGINT else INTERRUPTED


def _tell(error: BaseException) -> int:
    """Say what went wrong; returns the exit code."""
    if isinstance(error, EvsimError):
        complain(str(error))
        return BAD_INPUT
    known = of_the_system(error) or explain(error) or of_a_file(error)
    if known is None and isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else BAD_INPUT
    complain(known or _internal(error))
    if isinstance(error, OSError) and error.filename is None:
        _silence(sys.stdout)  # what it still holds would fail again when Python ends
    return BAD_INPUT if known else FAULT


def _internal(error: BaseException) -> str:
    """A fault of evsim in a sentence; its traceback goes to a file in the run folder, or where the user is."""
    text = "".join(traceback.format_exception(error))
    for folder in (*_keep_in[-1:], Path()):
        path = folder / f"evsim-error-{os.getpid()}.txt"
        with suppress(OSError, ValueError):
            path.write_text(text, encoding="utf-8", errors="backslashreplace")
            where = f"its traceback is in {path}"
            break
    else:
        where = f"it happened in {_last_place(error)}"
    return f"a fault of evsim ({said(error)[:500]}); {where}; please report it"


def _last_place(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    return f"{Path(frames[-1].filename).name}, line {frames[-1].lineno}" if frames else "no place that is known"


_keep_in: list[Path] = []


def keep_traceback_in(folder: Path) -> None:
    """Where the traceback of a fault of evsim goes from now on."""
    _keep_in.append(folder)


def _ready_to_write() -> None:
    """Whatever is to be said can be: in ASCII too; without a stdout the work would be for nothing."""
    _keep_in.clear()
    if sys.stderr is None:
        sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115  for as long as the program runs
    if sys.stdout is None:
        sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115
        complain("stdout is closed: nobody would see what comes out; send it to a file or to /dev/null")
        raise typer.Exit(BAD_INPUT)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _silence(stream: Any) -> None:
    """Let what a stream still holds go nowhere, or Python would complain of it when it ends."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


app = typer.Typer(
    cls=_Group,
    no_args_is_help=True,
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
    """A message on stderr, as it is; that nobody reads it ends nothing."""
    with suppress(OSError, ValueError):
        sys.stderr.write(f"evsim: {message}\n")


def say(message: str = "") -> None:
    """A line on stdout, as it is: paths are never wrapped."""
    sys.stdout.write(f"{message}\n")


def console() -> Console:
    """Where tables and progress go."""
    from rich.console import Console

    found = Console(highlight=False, markup=False, emoji=False)
    return found if found.is_terminal else Console(highlight=False, markup=False, emoji=False, width=_WIDE)


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
