"""What the server must have done with each task: common words of rounds and buffers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np

from evsim.verify.fates import Fates
from evsim.verify.folder import Folder
from evsim.verify.table import NULL, OF, Column, Flags, Ints

PUT = OF["aggregated"]  # put into a server step: merged, or invalid and left out


@final
@dataclass(frozen=True, eq=False)
class Story:
    """One entry per task, then one per server step.

    Attributes:
        outcome: the code it must have; `PUT` stands for aggregated and invalid alike.
        sure: whether that is known.
        step: the row of `server_steps` that its report was put into; -1: none.
        staleness: server steps between its version and its use or refusal; -1: neither.
        closed_at, reason: of each step.
        reports, dropped, late: of each step.
    """

    outcome: Ints
    sure: Flags
    step: Ints
    staleness: Ints
    closed_at: Ints
    reason: Column
    reports: Ints
    dropped: Ints
    late: Ints


def without_server(run: Folder, fate: Fates) -> Ints:
    """Outcomes that follow from fates alone; reports that arrived are `PUT`, to be settled."""
    query = run.tasks["kind"] == "query"
    outcome = np.where(query, OF["answered"], PUT)
    outcome = np.where(fate.lost, OF["dropped"], outcome)
    outcome = np.where(fate.stopped, OF["aborted"], outcome)
    return np.where(fate.ended > run.end, OF["in_flight"], outcome)


def base_versions(run: Folder) -> Ints:
    """The model version before each server step, and after the last."""
    applied = run.server_steps["applied"].astype(np.int64)
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(applied)])


def in_order(run: Folder, known: Ints, chosen: Flags) -> Ints:
    """Rows of the chosen tasks in the order in which the server heard of them."""
    rows = np.flatnonzero(chosen)
    return rows[np.lexsort((run.tasks["order"][rows], known[rows]))]


def staleness_of(run: Folder, step: Ints) -> Ints:
    """How stale each task's report is to the step it was put into; -1 where there is none."""
    base = base_versions(run)[np.maximum(step, 0)]
    return np.where(step >= 0, base - run.tasks["version"], NULL)
