"""Whether the traces a scenario names can be there, without reading them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from evsim.base.bundled import bundled, bundled_trace
from evsim.base.errors import Problem, TraceError, suggest
from evsim.scenario.paths import looked_for
from evsim.scenario.tables import PopulationTable
from evsim.traces.sources import load_availability, load_speed

_LOADERS: dict[str, Callable[..., object]] = {"availability": load_availability, "speed": load_speed}
_KEY = re.compile(r"^( *)((?:availability|speed)(?:\.\w+)*: )", re.MULTILINE)
_HEAD = re.compile(r"\d+ problems?")


def problems(population: PopulationTable, places: Callable[[str], Sequence[Path]]) -> Iterator[Problem]:
    """Everything wrong with the sources of availability and speed; `where` is a dotted key.

    Args:
        population: the table.
        places: the folders in which a key's relative path is looked for, the scenario's last.
    """
    for axis, loader in _LOADERS.items():
        spec, (*_, folder) = getattr(population, axis), places(f"population.{axis}")
        path = spec.get("path") if isinstance(spec, dict) else spec
        if _is_cheap(path, folder):
            continue
        if isinstance(path, str) and path != "always":
            names = [found.name for found in bundled("traces")] + ["always"] * (axis == "availability")
            hint = "; ".join((suggest(path, names), looked_for(path, *places(f"population.{axis}"))))
            yield Problem(
                f"population.{axis}", f"{path!r}: no such file", "a path or the name of a bundled trace", hint
            )
            continue
        small = {**spec, "devices": 1} if isinstance(spec, Mapping) and "path" not in spec and _counts(spec) else spec
        try:
            loader(small, n_devices=1, seed=0, folder=folder)
        except TraceError as error:
            yield from (_problem(line, axis) for line in _lines(str(error)))


@contextmanager
def keyed(spec: Any, folder: Path) -> Iterator[None]:
    """Errors of a source name their keys as the scenario does: ``population.availability.slot``, not a file's name.

    Args:
        spec: the source.
        folder: where its relative path begins.
    """
    path = spec.get("path") if isinstance(spec, Mapping) else spec
    file = str(folder / path) if isinstance(path, str) else None
    try:
        yield
    except TraceError as error:
        text = str(error)
        raise TraceError(_KEY.sub(lambda key: _put(key, text, file), text)) from error


def _put(key: re.Match[str], text: str, file: str | None) -> str:
    """The key with its table, unless it is the beginning of the file's name."""
    is_file = file is not None and text.startswith(file, key.start(2))
    return key[0] if is_file else f"{key[1]}population.{key[2]}"


def _is_cheap(path: Any, folder: Path) -> bool:
    """Whether a source names a file that is there: it is read when the run starts."""
    try:
        return isinstance(path, str) and (bundled_trace(path) is not None or (folder / path).exists())
    except (OSError, ValueError):  # too long for a path, or with a zero in it: who opens it says so
        return True


def _counts(spec: Mapping[str, Any]) -> bool:
    """Whether the table asks for a number of devices that is fine: one will do to check the rest."""
    count = spec.get("devices")
    return isinstance(count, int) and not isinstance(count, bool) and count >= 1


def _lines(message: str) -> list[str]:
    """The problems in a message of `errors.report`."""
    first, *rest = message.splitlines()
    return [line.strip() for line in rest] if rest and _HEAD.fullmatch(first) else [message]


def _problem(line: str, axis: str) -> Problem:
    """A problem that says where it is as ``availability.days: ...``, one table further up."""
    match = re.match(rf"({axis}(?:\.\w+)*): (.*)", line, re.DOTALL)
    return Problem(f"population.{match[1]}", match[2], "") if match else Problem(f"population.{axis}", line, "")
