"""What must be the same for a run to go on: written when it starts, compared when it is resumed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tomli_w

from evsim.base.documents import load_json, parse_toml
from evsim.base.errors import Problem, ResumeError, report
from evsim.run.manifest import installed, trace_hash, versions
from evsim.run.plug_ins import plug_ins
from evsim.run.recorder import atomically

if TYPE_CHECKING:
    from evsim.run.assembly import Parts
    from evsim.scenario import Scenario

_FILE = "run.json"
_NOTHING = "nothing"


def identity(scenario: Scenario, parts: Parts) -> dict[str, Any]:
    """Everything that a run's results depend on, as JSON; what comes first is compared first."""
    learning = parts.learning
    return {
        "scenario": scenario.to_toml(),
        "versions": {"evsim": installed("evsim"), **versions()},
        "plug-ins": plug_ins(scenario),
        "device": parts.device,
        "traces": trace_hash(parts.population),
        "data": parts.data_digest,
        "model": "" if learning is None else _digest(learning.tensors()),
        "executor": {} if learning is None else json.loads(json.dumps(dict(learning.plan))),
    }


def keep_identity(folder: Path, scenario: Scenario, told: Mapping[str, Any]) -> None:
    """Write it; with the folder in which the scenario's relative paths begin."""
    text = json.dumps({**told, "paths_from": str(scenario.folder.resolve())}, indent=2)
    atomically(folder / _FILE, lambda path: path.write_text(text, encoding="utf-8"))


def kept_identity(folder: Path) -> dict[str, Any]:
    """What was written.

    Raises:
        ResumeError: if it cannot be read.
    """
    found = load_json(folder / _FILE, what="what a run depends on", raising=ResumeError)
    if not isinstance(found.get("scenario"), str) or not isinstance(found.get("paths_from"), str):
        raise ResumeError(f"{folder / _FILE}: keys are missing; the run cannot be resumed")
    return found


def has_identity(folder: Path) -> bool:
    """Whether a run that can be resumed lies here."""
    return (folder / _FILE).is_file()


def tables_of(scenario_toml: str, where: str) -> dict[str, Any]:
    """The tables of a scenario that was kept.

    Raises:
        ResumeError: if it is damaged.
    """
    return parse_toml(scenario_toml, where=where, what="the scenario of a run", raising=ResumeError)


def without_stop(scenario_toml: str, where: str) -> str:
    """A scenario without its `[stop]` table: what a run that is extended has in common with the longer one."""
    return tomli_w.dumps({key: table for key, table in tables_of(scenario_toml, where).items() if key != "stop"})


def check_same(where: Path, kept: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse to go on with another run.

    Raises:
        ResumeError: with the first difference.
    """
    for name, value in now.items():
        if kept.get(name) != value:
            raise ResumeError(report([_difference(str(where), name, kept.get(name), value)]))


def _difference(where: str, name: str, before: Any, now: Any) -> Problem:
    hint = "resume it with what it was started with, or choose another folder with --out"
    if name == "scenario":
        before, now = tables_of(before or "", where), tables_of(now, where)
    if isinstance(now, dict) and isinstance(before, dict):
        old, new = _flat(before), _flat(now)
        key = next(each for each in {**new, **old} if new.get(each, _NOTHING) != old.get(each, _NOTHING))
        name, before, now = f"{name}: {key}", old.get(key, _NOTHING), new.get(key, _NOTHING)
    return Problem(f"{where}: {name}", f"{now!r} now", f"{before!r}, as when the run was started", hint)


def _flat(tables: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in tables.items():
        found |= _flat(value, f"{above}{key}.") if isinstance(value, Mapping) else {f"{above}{key}": value}
    return found


def _digest(tensors: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].dtype} {tensors[name].shape}".encode())
        digest.update(np.ascontiguousarray(tensors[name]).tobytes())
    return digest.hexdigest()
