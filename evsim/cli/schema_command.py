"""``evsim schema``: what editors want to know of scenario and study files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from evsim.cli.base import say


def schema(
    what: Annotated[str, typer.Argument(help='"scenario" or "study".')] = "scenario",
    plug_ins: Annotated[
        Path | None,
        typer.Option("--plugins", metavar="DIR", help="A folder of Python files: the kinds they define are offered."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The file to write; default: the terminal.")] = None,
) -> None:
    """Write the JSON Schema of scenario or study files, for completion and checks in an editor.

    With `#:schema ./scenario.schema.json` as the first line of a scenario, VS Code's TOML extension and taplo use the
    file of that name beside it. --plugins imports the files of the folder that define policies.
    """
    from evsim.base.errors import ScenarioError, suggest
    from evsim.scenario.schema import scenario_schema, study_schema

    if what not in {"scenario", "study"}:
        raise ScenarioError(f"{what!r} has no schema; {suggest(what, ('scenario', 'study'))}")
    found = study_schema() if what == "study" else scenario_schema(plug_ins)
    text = json.dumps(found, indent=2, ensure_ascii=False)
    if out is None:
        say(text)
        return
    out.write_text(f"{text}\n", encoding="utf-8")
    say(f"schema      {out}")
    say(f'use it with the first line "#:schema ./{out.name}" in a {what} beside it')
