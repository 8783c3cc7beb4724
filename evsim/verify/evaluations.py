"""When the model was evaluated, at which version, and how the run ended; counts of clients online."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from evsim.verify.folder import Folder
from evsim.verify.sessions import Presence
from evsim.verify.story import base_versions
from evsim.verify.table import OF, Check, Column, Flags, Ints, Table


def evaluations(run: Folder) -> Iterator[Check]:
    """Instants on their grid, one evaluation each, of the version of the instant."""
    table = run.evaluations
    if not len(table):
        return
    at, trigger = table["at"], table["trigger"]
    closed = np.searchsorted(run.server_steps["closed_at"], at, side="right")
    yield table.equal("versions evaluated", "version", base_versions(run)[closed])
    yield table.equal("the first evaluation is at time 0", "at", 0, trigger == "start")
    yield table.equal("the last evaluation is at the end", "at", run.end, trigger == "final")
    yield from _grid(run, table, at, trigger)
    rows = np.lexsort((table["metric"].astype(str), table["split"].astype(str), at))
    same = (at[rows][1:] == at[rows][:-1]) & (table["metric"][rows][1:] == table["metric"][rows][:-1])
    same &= table["split"][rows][1:] == table["split"][rows][:-1]
    once = np.ones(len(at), np.bool_)
    once[rows[1:]] = ~same
    yield table.holds("one evaluation per instant", once, "at", "another instant")
    first = np.searchsorted(np.sort(at), at)
    yield table.equal("one trigger per instant", "trigger", trigger[np.argsort(at, kind="stable")][first])


def _grid(run: Folder, table: Table, at: Ints, trigger: Column) -> Iterator[Check]:
    every = _every(run)
    if every is None:
        yield Check("the grid of evaluations", skipped="the scenario does not say it as a time or a number of steps")
        return
    spacing, by_time = every
    on_grid = trigger == ("grid" if by_time else "step")
    value = at if by_time else table["version"]
    good = (value % spacing == 0) & (value > 0)
    column = "at" if by_time else "version"
    yield table.holds("evaluations lie on their grid", good, column, f"a multiple of {spacing}", on_grid)
    due = np.arange(spacing, (run.end if by_time else int(base_versions(run)[-1])) + 1, spacing)
    missing = due[~np.isin(due, value[on_grid])]
    first = f"no evaluation at {column} {missing[0]}" if len(missing) and not run.was_cut else ""
    yield Check("no evaluation is missing", len(due), first)


def _every(run: Folder) -> tuple[int, bool] | None:
    """The spacing, and whether it is in ms: the scenario says "10min", or 5 for server steps."""
    value = run.setting("evaluation", "every")
    if isinstance(value, int):
        return value, False
    every = run.duration("evaluation", "every")
    return None if every is None else (every, True)


def ending(run: Folder) -> Iterator[Check]:
    """Why the run ended, and that it had no reason to end before."""
    reason, name = run.manifest["end"]["reason"], "the end of the run"
    target = run.setting("stop", "target_accuracy")
    reached = _reached(run, target)
    if reached is not None and reached < run.end:
        yield Check(name, 1, f"accuracy {target} was reached at {reached} ms, the run went on to {run.end} ms")
        return
    limits = {
        "virtual_time": run.duration("stop", "virtual_time"),
        "target_accuracy": reached,
        "server_steps": _instant(
            run, run.server_steps["version"] >= run.setting("stop", "server_steps", default=2**60)
        ),
        "rounds": _instant(run, run.server_steps["round"] + 1 >= run.setting("stop", "rounds", default=2**60)),
    }
    for cause, at in limits.items():
        if at is not None and (at < run.end or (cause == reason and at != run.end)):
            yield Check(name, 1, f"end.at is {run.end} ms with reason {reason!r}, but {cause} was due at {at} ms")
            return
        if cause == reason and at is None:
            yield Check(name, 1, f"reason {reason!r}, but the tables do not reach it")
            return
    yield Check(name, 1)


def _instant(run: Folder, there: Flags) -> int | None:
    rows = np.flatnonzero(there)
    return int(run.server_steps["closed_at"][rows[0]]) if len(rows) else None


def _reached(run: Folder, target: float | None) -> int | None:
    table = run.evaluations
    if target is None or not len(table):
        return None
    wanted = (table["metric"] == "accuracy") & (table["split"] == "test") & (table["trigger"] != "final")
    rows = np.flatnonzero(wanted & (table["value"] >= target))
    return int(table["at"][rows[0]]) if len(rows) else None


def online(run: Folder, presence: Presence) -> Iterator[Check]:
    """Clients online on the regular grid; needs the sessions of all."""
    name = "clients online"
    if not run.setting("record", "sessions", default=False):
        yield Check(name, skipped="needs the sessions of all clients: record.sessions = true")
        return
    table = run.availability
    yield table.equal(name, "online", presence.count(table["at"], np.ones(len(run.clients), np.bool_)))


def figures(run: Folder) -> dict[str, float | int | None]:
    """What a paper would quote, from the tables alone: device time and its waste, bytes, time to the target."""
    spent = sum(run.tasks[f"{phase}_ms"] for phase in ("download", "compute", "upload"))
    outcome = run.tasks["outcome"]
    total = max(int(np.sum(spent)), 1)
    useful = np.isin(outcome, [OF["aggregated"], OF["answered"], OF["in_flight"]])
    return {
        "device_time_ms": int(np.sum(spent)),
        "wasted_share": int(np.sum(spent * ~useful)) / total,
        "bytes_down": int(run.tasks["bytes_down"].sum()),
        "bytes_up": int(run.tasks["bytes_up"].sum()),
        "time_to_target_ms": _reached(run, run.setting("stop", "target_accuracy")),
    }
