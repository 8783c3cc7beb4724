"""What ships and what can be plugged in, and what a path is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from evsim.algorithms.compositions import COMPOSITIONS
from evsim.base import registry
from evsim.base.bundled import bundled, bundled_scenario, bundled_trace
from evsim.base.documents import load_json
from evsim.base.errors import ScenarioError, TraceError, suggest

Rows = list[tuple[str, str]]


def catalog(only: str | None) -> dict[str, Rows]:
    """Kind and summary of everything in every slot, or in one.

    Raises:
        ScenarioError: if there is no such slot.
    """
    shelves: dict[str, Callable[[], Rows]] = {"algorithm": _algorithms}
    shelves |= {slot: lambda slot=slot: _kinds(slot) for slot in registry.slots()}  # type: ignore[misc]
    shelves |= {"scenarios": _scenarios, "traces": _traces}
    if only is None:
        return {name: rows() for name, rows in shelves.items()}
    if only not in shelves:
        raise ScenarioError(f"{only!r} is no slot; {suggest(only, shelves)}")
    return {only: shelves[only]()}


def kind_of_path(path: str) -> str:
    """Whether a path or bundled name is a "scenario", a "run", "data" (a store) or a "trace".

    Raises:
        ScenarioError: if there is nothing of that name.
    """
    place = Path(path)
    if place.suffix == ".toml" and place.is_file():
        return "scenario"
    if place.is_dir() and any((place / name).exists() for name in ("scenario.toml", "tasks.parquet", "journal")):
        return "run"
    if place.is_dir() and _is_store(place):
        return "data"
    if place.exists() or bundled_trace(path) is not None:
        return "trace"
    if bundled_scenario(path) is not None:
        return "scenario"
    known = [found.stem for found in bundled("scenarios")] + [found.name for found in bundled("traces")]
    raise ScenarioError(f"{path}: no such file, folder, bundled scenario or bundled trace; {suggest(path, known)}")


def _is_store(place: Path) -> bool:
    from evsim.training.data.store import is_store

    return is_store(place)


def _kinds(slot: str) -> Rows:
    return [(entry.kind, entry.summary) for entry in registry.entries(slot).values()]


def _algorithms() -> Rows:
    return [(name, composition.summary) for name, composition in COMPOSITIONS.items()]


def _scenarios() -> Rows:
    files = bundled("scenarios")
    return [(_short(path), _first_comment(path)) for path in files]


def _short(path: Path) -> str:
    parts = path.with_suffix("").parts
    return "/".join(parts[len(parts) - parts[::-1].index("scenarios") :])


def _first_comment(path: Path) -> str:
    """The question a scenario answers: the comment it begins with."""
    first = path.read_text(encoding="utf-8").split("\n", 1)[0]
    return first.removeprefix("#").strip() if first.startswith("#") else ""


def _traces() -> Rows:
    found = []
    for folder in bundled("traces"):
        manifest = load_json(folder / "manifest.json", what="the manifest of a trace", raising=TraceError)
        found.append((folder.name, str(manifest.get("description") or f"{manifest.get('devices', '?')} devices")))
    return found
