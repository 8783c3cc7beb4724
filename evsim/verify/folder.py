"""Reads a run folder as it is on the disk: Parquet, JSON and TOML, nothing of what wrote it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import pyarrow as pa

from evsim.base.documents import load_json, load_toml
from evsim.base.errors import PolicyError, RunFolderError
from evsim.base.parquet import read_parquet
from evsim.base.units import parse_duration
from evsim.verify.table import NULL, OF, Column, Table

_LABELS = {
    "tasks": lambda c, i: f"task {c['task'][i]} (client {c['client'][i]}, dispatched at {c['dispatched_at'][i]} ms)",
    "server_steps": lambda c, i: f"round {c['round'][i]} (closed at {c['closed_at'][i]} ms)",
    "evaluations": lambda c, i: f"evaluation of version {c['version'][i]} at {c['at'][i]} ms",
    "client_evaluations": lambda c, i: f"version {c['version'][i]} on client {c['client'][i]}",
    "clients": lambda c, i: f"client {c['client'][i]}",
    "availability": lambda c, i: f"instant {c['at'][i]} ms",
    "selections": lambda c, i: f"{c['name'][i]} of a selection for round {c['round'][i]} at {c['at'][i]} ms",
    "changes": lambda c, i: f"{c['what'][i]} at {c['at'][i]} ms",
    "energy": lambda c, i: f"battery of client {c['client'][i]}",
    "sessions": lambda c, i: f"session of client {c['client'][i]} from {c['check_in_at'][i]} ms",
}
_LATER = frozenset({"client_evaluations", "selections", "changes", "energy"})  # tables that older folders do not have
FORMAT = 2  # of run folders; an older one lacks columns
_REAL = (
    *("weight", "compute_factor", "link_factor", "mean_staleness", "value", "online_share", "compute_share"),
    *("compute_ms_per_sample", "download_kbps", "upload_kbps", "latency_ms"),
    *("first_j", "charged_j", "idle_j", "tasks_j", "last_j"),
)


@final
@dataclass(frozen=True, eq=False)
class Folder:
    """A run as it was written.

    Attributes:
        manifest: of the run.
        scenario: resolved, as TOML has it.
        tasks, server_steps, evaluations, client_evaluations, clients, availability, sessions: the tables.
        selections: what the selector said; without columns in a folder from before there was that.
        changes, energy: what actors did, and what batteries gave and took; likewise.
    """

    manifest: Mapping[str, Any]
    scenario: Mapping[str, Any]
    tasks: Table
    server_steps: Table
    evaluations: Table
    client_evaluations: Table
    clients: Table
    availability: Table
    sessions: Table
    selections: Table
    changes: Table
    energy: Table

    @property
    def end(self) -> int:
        """The last instant of the run, ms."""
        return int(self.manifest["end"]["at"])

    @property
    def was_cut(self) -> bool:
        """Whether the run was ended from outside, between any two events."""
        return str(self.manifest["end"]["reason"]).startswith(("interrupted", "terminated", "error"))

    def setting(self, *path: str, default: Any = None) -> Any:
        """A key of the scenario."""
        table: Any = self.scenario
        for name in path:
            if not isinstance(table, Mapping) or name not in table:
                return default
            table = table[name]
        return table

    def duration(self, *path: str) -> int | None:
        """A duration of the scenario, ms; None if it is "none" or not set."""
        value = self.setting(*path)
        try:
            return None if value in (None, "none") else parse_duration(value)
        except PolicyError as error:
            raise RunFolderError(f"scenario.toml: {'.'.join(path)}: {error}") from error

    def kind(self, slot: str) -> str:
        """The kind of a policy."""
        return str(self.setting(slot, "kind", default=""))


def read(folder: Path) -> Folder:
    """Read a run folder.

    Raises:
        RunFolderError: if it is none, or a file of it cannot be read.
    """
    if (folder / "journal").is_dir():
        raise RunFolderError(f"{folder}: the run was killed before it wrote its tables; run it again to verify it")
    for name in ("manifest.json", "scenario.toml", "tasks.parquet"):
        if not (folder / name).is_file():
            raise RunFolderError(f"{folder}: not a run folder, it has no {name}; expected what `evsim run` wrote")
    try:
        manifest = load_json(folder / "manifest.json", what="the manifest of a run", raising=RunFolderError)
        scenario = load_toml(folder / "scenario.toml", what="the scenario of a run", raising=RunFolderError)
        tables = {name: _table(folder / f"{name}.parquet", name) for name in _LABELS}
    except (OSError, ValueError, pa.ArrowException) as error:
        raise RunFolderError(f"{folder}: cannot be read as a run folder ({error})") from error
    if not isinstance(manifest.get("end"), dict) or not isinstance(manifest["end"].get("at"), int):
        raise RunFolderError(f"{folder}: manifest.json does not say when the run ended (end.at)")
    given = manifest.get("format", 1)
    if not isinstance(given, int) or given > FORMAT:
        raise RunFolderError(f"{folder}: manifest.json: format {given!r}; expected {FORMAT} or older")
    return Folder(manifest, scenario, **tables)


def _table(path: Path, name: str) -> Table:
    if name in _LATER and not path.is_file():
        return Table(name, {}, _LABELS[name])  # asking for a column says that it lacks
    found = read_parquet(path)
    columns = {field.name: _column(field.name, found.column(field.name)) for field in found.schema}
    return Table(name, columns, _LABELS[name])


def _column(name: str, cells: pa.ChunkedArray) -> Column:
    if name == "outcome":
        return _codes(cells)
    if pa.types.is_string(cells.type) or pa.types.is_large_string(cells.type):
        return np.asarray(cells.to_pandas().to_numpy(dtype=object))
    if pa.types.is_boolean(cells.type) or name in _REAL:
        return np.asarray(cells.to_numpy())
    whole = cells.cast(pa.int64())  # other programs write a column with empty cells as floating-point numbers
    return np.asarray(whole.fill_null(NULL).to_numpy(), np.int64)


def _codes(cells: pa.ChunkedArray) -> Column:
    encoded = cells.combine_chunks().dictionary_encode()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.combine_chunks()
    names = encoded.dictionary.to_pylist()
    known = np.array([OF.get(name, -1) for name in names], np.int64)
    return known[np.asarray(encoded.indices)] if names else np.empty(0, np.int64)
