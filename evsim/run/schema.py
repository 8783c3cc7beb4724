"""The tables of a run folder: one dataclass a table, one field a column.

Columns in ms end in ``_at`` (an instant) or ``_ms`` (a duration). ``docs/data_dictionary.md`` explains each column.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

#: Of run folders; raised whenever a column or a file changes its meaning. 2: everything `evsim verify` needs.
FORMAT = 2


@dataclass(frozen=True, slots=True)
class Task:
    """One piece of work given to one client: a row of ``tasks.parquet``."""

    task: int
    kind: str
    client: int
    nth: int
    round: int
    version: int
    dispatched_at: int
    ended_at: int | None
    known_at: int | None
    order: int
    outcome: str
    staleness: int | None
    server_step: int | None
    used_at: int | None
    weight: float
    samples: int
    steps: int
    max_steps: int | None
    charged_samples: int
    bytes_down: int
    bytes_up: int
    download_ms: int
    compute_ms: int
    upload_ms: int
    planned_samples: int
    planned_download_ms: int
    planned_compute_ms: int
    planned_upload_ms: int
    compute_factor: float
    link_factor: float


@dataclass(frozen=True, slots=True)
class ServerStep:
    """One attempt of the server to improve the model, failed ones included: a row of ``server_steps.parquet``."""

    round: int
    by: str
    version: int
    started_at: int
    deadline_at: int | None
    closed_at: int
    reason: str
    applied: bool
    idle: int | None
    invited: int
    goal: int | None
    reports: int
    dropped: int
    late: int
    mean_staleness: float


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One metric of one model version on one split: a row of ``evaluations.parquet`` (long form)."""

    at: int
    version: int
    trigger: str
    split: str
    metric: str
    value: float


@dataclass(frozen=True, slots=True)
class ClientEvaluation:
    """One metric of one version on one client's samples: a row of ``client_evaluations.parquet`` (long form)."""

    at: int
    version: int
    client: int
    split: str
    metric: str
    value: float
    samples: int


@dataclass(frozen=True, slots=True)
class Client:
    """Who a client is: a row of ``clients.parquet``."""

    client: int
    device: int
    clone: int
    speed_device: int
    samples: int
    compute_ms_per_sample: float
    download_kbps: float
    upload_kbps: float
    latency_ms: float
    group: int
    compute_share: float
    batch_size: int
    online_share: float


@dataclass(frozen=True, slots=True)
class Availability:
    """How many clients were online at an instant of a regular grid: a row of ``availability.parquet``."""

    at: int
    online: int


@dataclass(frozen=True, slots=True)
class Session:
    """A client was reachable, whoever asked: a row of ``sessions.parquet``."""

    client: int
    check_in_at: int
    check_out_at: int | None


@dataclass(frozen=True, slots=True)
class Selection:
    """A number that the selector said of a selection, or of a client it chose: a row of ``selections.parquet``."""

    round: int
    by: str
    at: int
    client: int | None
    name: str
    value: float


@dataclass(frozen=True, slots=True)
class Change:
    """Something that an actor did to the world: a row of ``changes.parquet``."""

    at: int
    until: int | None
    what: str
    client: int | None
    by: str


@dataclass(frozen=True, slots=True)
class Energy:
    """What a client's battery gave and took over the whole run: a row of ``energy.parquet``; joules."""

    client: int
    by: str
    first_j: float
    charged_j: float
    idle_j: float
    tasks_j: float
    last_j: float


TABLES: dict[str, type] = {
    "tasks": Task,
    "server_steps": ServerStep,
    "evaluations": Evaluation,
    "client_evaluations": ClientEvaluation,
    "clients": Client,
    "availability": Availability,
    "sessions": Session,
    "selections": Selection,
    "changes": Change,
    "energy": Energy,
}


def columns(table: str) -> tuple[str, ...]:
    """The column names of a table, in order."""
    return tuple(field.name for field in fields(TABLES[table]))
