"""The vocabulary of the timeline: what can happen, in which order, and the rows that say so.

The order of simultaneous events is `Rank`. The tables of a run folder are the dataclasses below, one field per column;
columns in ms end in ``_at`` (an instant) or ``_ms`` (a duration). ``docs/data_dictionary.md`` explains each column.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]


class Rank(IntEnum):
    """The one written order of events of the same instant, lowest first.

    Ranks start at 2: SimPy keeps 0 and 1 for its own wake-ups.
    """

    REPORT = 2  # a report that arrives exactly at check-out or at the deadline counts
    DROPOUT = 3
    CHECK_OUT = 4
    CHECK_IN = 5  # a device that checks in at the instant of a selection may be selected
    DEADLINE = 6
    SERVER = 7  # select and aggregate: after everything else of the instant
    EVALUATION = 8  # sees the step of its instant
    END = 9  # nothing at the horizon is lost


class Outcome(IntEnum):
    """What became of a task."""

    IN_FLIGHT = 0  # still running when the run ended
    AGGREGATED = 1  # its update was merged
    SURPLUS = 2  # arrived after the round's goal was reached
    LATE = 3  # arrived after the round's deadline or the task's timeout
    STALE = 4  # arrived with more staleness than allowed
    DROPPED = 5  # the device left first
    ROUND_FAILED = 6  # arrived in time in a round with too few reports
    INVALID = 7  # arrived in time with a non-finite update
    ABORTED = 8  # stopped by the server at the round's close
    ANSWERED = 9  # a query (kind "query") whose answer arrived

    @property
    def label(self) -> str:
        """The name as tables write it."""
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class Task:
    """One piece of work given to one client: a row of ``tasks.parquet``."""

    task: int
    kind: str
    client: int
    round: int
    version: int
    dispatched_at: int
    ended_at: int | None
    known_at: int | None
    outcome: str
    staleness: int | None
    server_step: int | None
    samples: int
    charged_samples: int
    bytes_down: int
    bytes_up: int
    download_ms: int
    compute_ms: int
    upload_ms: int


@dataclass(frozen=True, slots=True)
class ServerStep:
    """One attempt of the server to improve the model, failed ones included: a row of ``server_steps.parquet``."""

    round: int
    version: int
    started_at: int
    closed_at: int
    reason: str
    applied: bool
    invited: int
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
class Client:
    """Who a client is: a row of ``clients.parquet``."""

    client: int
    device: int
    clone: int
    samples: int
    compute_ms_per_sample: float
    download_kbps: float
    upload_kbps: float
    online_share: float


@dataclass(frozen=True, slots=True)
class Availability:
    """How many clients were online at an instant of a regular grid: a row of ``availability.parquet``."""

    at: int
    online: int


@dataclass(frozen=True, slots=True)
class Session:
    """A client was reachable, whoever asked: a row of ``sessions.parquet``, empty unless ``record.sessions`` is set."""

    client: int
    check_in_at: int
    check_out_at: int | None


TABLES: dict[str, type] = {
    "tasks": Task,
    "server_steps": ServerStep,
    "evaluations": Evaluation,
    "clients": Client,
    "availability": Availability,
    "sessions": Session,
}


def columns(table: str) -> tuple[str, ...]:
    """The column names of a table, in order."""
    return tuple(field.name for field in fields(TABLES[table]))


@dataclass(frozen=True, slots=True)
class Feedback:
    """What flows from learning back to the timeline: the one declared port.

    All arrays have one entry per task of the request, in its order.
    """

    tasks: IntArray
    utility: FloatArray  # root of the mean squared per-sample training loss; NaN where unknown
    valid: BoolArray  # False: the update was not finite
