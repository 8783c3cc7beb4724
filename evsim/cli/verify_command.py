"""``evsim verify``: recompute a run from its folder."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from evsim.base.units import format_bytes, format_duration
from evsim.cli.base import say, say_table

if TYPE_CHECKING:
    from evsim.verify import Check, Verdict

_VIOLATED = 1


def verify(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    trace: Annotated[
        str | None, typer.Option(help="A trace file, or the name of a bundled trace, to compare the sessions with.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Say it as JSON.")] = False,
) -> None:
    """Recompute a run from its folder: ends, outcomes, closes, versions, bytes, waste; exit code 1 if one differs."""
    from evsim.verify import verify as recompute

    verdict = recompute(folder, trace)
    if as_json:
        say(json.dumps({"ok": verdict.ok, **asdict(verdict)}, indent=2))
    else:
        _tell(folder, verdict)
    if not verdict.ok:
        raise typer.Exit(_VIOLATED)


def _tell(folder: Path, verdict: Verdict) -> None:
    say_table([(check.name, f"{check.rows:,}", _result(check)) for check in verdict.checks])
    if verdict.lacks:
        say(f"an older folder: it lacks {', '.join(verdict.lacks)}; what needs them was not checked")
    say_table([(name.replace("_", " "), _figure(name, value)) for name, value in verdict.figures.items()])
    wrong = [check.name for check in verdict.checks if not check.ok]
    said = f"{len(wrong)} checks are violated: {', '.join(wrong)}" if wrong else "everything that was checked is right"
    say(f"{folder}: {said}")


def _figure(name: str, value: float | None) -> str:
    if value is None:
        return "never"
    if name.endswith("_ms"):
        return format_duration(value)
    return format_bytes(value) if name.startswith("bytes") else f"{value:.1%}"


def _result(check: Check) -> str:
    if check.skipped:
        return f"not checked: {check.skipped}"
    return "ok" if check.ok else f"WRONG: {check.violation}"
