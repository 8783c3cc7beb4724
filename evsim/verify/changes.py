"""What actors did to the world, against what the tables say happened meanwhile."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from evsim.verify.folder import Folder
from evsim.verify.table import NEVER, NULL, Check, Flags, Ints

_SLACK = 1e-9


def of(run: Folder, *what: str) -> Flags:
    """The rows of `changes` of some kinds; none where the folder has no such table."""
    if not run.changes.columns:
        return np.zeros(0, np.bool_)
    return np.isin(run.changes["what"].astype(str), what)


def had_outages(run: Folder) -> bool:
    """Whether the server was down at times: what it decided cannot then be recomputed from the scenario alone."""
    return bool(of(run, "outage").any())


def had_cut_links(run: Folder) -> bool:
    """Whether transfers stood still at times."""
    return bool(of(run, "outage", "link").any())


def checks(run: Folder) -> Iterator[Check]:
    """In an outage nothing happens; a device that is kept away is in no session."""
    yield from _energy(run)
    if not run.changes.columns or not len(run.changes):
        return
    down = of(run, "outage")
    begin, end = run.changes["at"][down], _until(run)[down]
    if len(begin):
        tasks, steps = run.tasks, run.server_steps
        for name, table, column, closed in (
            ("nothing is dispatched while the server is down", tasks, "dispatched_at", True),
            ("the server hears of nothing while it is down", tasks, "known_at", False),
            ("no step is made while the server is down", steps, "closed_at", True),
        ):
            good = ~_within(table[column], begin, end, closed=closed)
            yield table.holds(name, good, column, "an instant at which it is up")
        yield Check("closes of rounds and buffers", skipped="the server was down at times")
    yield from _absences(run)


def _within(at: Ints, begin: Ints, end: Ints, *, closed: bool) -> Flags:
    """Whether instants lie in one of some spans; with `closed` their beginnings count."""
    found = np.zeros(len(at), np.bool_)
    for first, last in zip(begin.tolist(), end.tolist(), strict=True):
        found |= ((at >= first) if closed else (at > first)) & (at < last)
    return found


def _until(run: Folder) -> Ints:
    return np.where(run.changes["until"] == NULL, NEVER, run.changes["until"])


def _absences(run: Folder) -> Iterator[Check]:
    away, back = of(run, "device"), of(run, "device back")
    if not away.any():
        return
    client, begin, end = run.changes["client"][away], run.changes["at"][away], _until(run)[away].copy()
    if back.any():  # an absence ends when the device is let back, if that is earlier
        width = run.end + 2
        keys = np.sort(run.changes["client"][back] * width + run.changes["at"][back])
        place = np.searchsorted(keys, client * width + begin, side="left")
        following = keys[np.minimum(place, len(keys) - 1)]
        mine = (place < len(keys)) & (following // width == client)
        end = np.where(mine, np.minimum(end, following % width), end)
    sessions = run.sessions
    good = np.ones(len(sessions), np.bool_)
    order = np.argsort(client, kind="stable")
    first, last = (np.searchsorted(client[order], sessions["client"], side=side) for side in ("left", "right"))
    out = np.where(sessions["check_out_at"] == NULL, NEVER, sessions["check_out_at"])
    for row in np.flatnonzero(last > first).tolist():
        mine = order[first[row] : last[row]]
        good[row] = not ((begin[mine] < out[row]) & (end[mine] > sessions["check_in_at"][row])).any()
    yield sessions.holds("devices that are kept away are in no session", good, "check_in_at", "another session")


def _energy(run: Folder) -> Iterator[Check]:
    """Batteries balance, and their tasks took what the phases of the tasks cost."""
    table = run.energy
    batteries = [each for each in run.setting("actor", default=[]) if each.get("kind") == "battery"]
    if not table.columns or not len(table):
        return
    first, charged, idle, tasks, last = (table[f"{name}_j"] for name in ("first", "charged", "idle", "tasks", "last"))
    near = _SLACK * (first + charged + 1)
    balance = first + charged - idle - tasks
    yield table.holds("batteries balance", np.abs(balance - last) <= near, "last_j", balance)
    if len(batteries) != 1:
        yield Check("energy of tasks", skipped="the scenario has not one battery")
        return
    watts, rows = batteries[0], run.tasks
    radio = (rows["download_ms"] + rows["upload_ms"]) * watts["radio_w"]
    joules = (rows["compute_ms"] * watts["train_w"] + radio) / 1000
    cost = np.bincount(rows["client"], joules, minlength=len(table))[table["client"]]
    full_idle = watts["idle_w"] * run.end / 1000
    never_empty = idle >= full_idle * (1 - _SLACK) - _SLACK
    good = np.where(never_empty, np.abs(tasks - cost) <= near, tasks <= cost + near)
    yield table.holds("energy of tasks", good, "tasks_j", cost)
