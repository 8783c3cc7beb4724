"""``evsim new``: a commented starting point that runs as it stands."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from evsim.cli.base import say

if TYPE_CHECKING:
    from collections.abc import Iterator

_TEMPLATES = Path(__file__).parent / "templates"
#: Other words for slots.
_WORDS = {"selector": "selection", "rule": "client_rule", "aggregator": "aggregation", "optimizer": "server_optimizer"}
_FILE = "{file}"


def new(
    what: Annotated[str, typer.Argument(help="scenario, study, or what to plug in: selection, client_rule, ...")],
    path: Annotated[Path | None, typer.Argument(help="Of the file, without its ending; default: my_<what>.")] = None,
) -> None:
    """Write a commented file to begin from: a scenario, a study, or a policy of yours with a scenario that uses it.

    It runs as it stands. What is there is never overwritten.
    """
    for file, text in starting_point(what, path).items():
        file.write_text(text, encoding="utf-8")
        say(f"wrote       {file}")
    say(f"next        evsim {'sweep' if what == 'study' else 'check'} {_stem(what, path)}.toml")


def begins() -> list[str]:
    """Everything there is a starting point for."""
    return sorted(file.name.removesuffix(".toml.txt") for file in _TEMPLATES.glob("*.toml.txt"))


def starting_point(what: str, path: Path | None = None) -> dict[Path, str]:
    """The text of each file; nothing is written.

    Raises:
        ScenarioError: if there is no such starting point, the name is no name, or a file exists.
    """
    from evsim.base.errors import Problem, ScenarioError, report, suggest

    kind = _WORDS.get(what, what)
    if kind not in begins():
        raise ScenarioError(f"{what!r} is nothing to begin; {suggest(what, begins())}")
    stem = _stem(what, path)
    if not stem.name.isidentifier():  # it names a run folder, and perhaps a module
        expected = "a name of letters, digits and underscores"
        raise ScenarioError(report([Problem(str(stem), "no name for a file of evsim", expected, "such as my_first")]))
    found = dict(_filled(kind, stem))
    taken = [file for file in found if file.exists()]
    if taken:
        raise ScenarioError(report(Problem(str(each), "exists", "", "choose another name") for each in taken))
    return found


def _filled(kind: str, stem: Path) -> Iterator[tuple[Path, str]]:
    for template in sorted(_TEMPLATES.glob(f"{kind}.*.txt")):
        ending = template.name.split(".")[-2]
        text = template.read_text(encoding="utf-8").replace(_FILE, stem.name)
        yield stem.parent / f"{stem.name}.{ending}", text


def _stem(what: str, path: Path | None) -> Path:
    if path is None:
        return Path(f"my_{what}")
    return path.with_suffix("") if path.suffix in {".py", ".toml"} else path
