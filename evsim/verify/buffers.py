"""Buffers: in which order reports are taken, when a buffer closes and why, who is too stale."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from evsim.verify.asking import Asking
from evsim.verify.fates import Fates
from evsim.verify.folder import Folder
from evsim.verify.story import PUT, Story, base_versions, in_order, without_server
from evsim.verify.table import NEVER, NULL, OF, Check, Column, Flags, Ints, counted


def story(run: Folder, fate: Fates) -> Story:
    """What became of each report: the rows say how many a buffer held, all else follows from the order."""
    steps, tasks, count = run.server_steps, run.tasks, len(run.server_steps)
    train = tasks["kind"] == "train"
    outcome = without_server(run, fate)
    order = in_order(run, fate.known, train & (outcome == PUT))
    stale = tasks["outcome"][order] == OF["stale"]
    row = _rows(run, Asking(run).handled(fate.known[order]), stale)
    handled = row < count
    base = base_versions(run)[row]
    most = run.setting("aggregation", "max_staleness")
    late = base - tasks["version"][order]
    # What arrives at the instant at which a run ends by a step of that instant is not looked at.
    heard = Asking(run).handled(fate.known[order])
    looked_at = handled | (heard < run.end) | stale
    refused = looked_at & (late > (NEVER if most is None else most)) & ~_unheard(run, order)
    outcome[order] = np.where(refused, OF["stale"], np.where(handled & ~stale, PUT, OF["in_flight"]))
    step, staleness = np.full(len(train), -1, np.int64), np.full(len(train), NULL, np.int64)
    step[order[handled & ~refused & ~stale]] = row[handled & ~refused & ~stale]
    staleness[order] = np.where(refused | (step[order] >= 0), late, NULL)

    held = counted(row, count, handled & ~stale)
    late_ones = counted(row, count, handled & stale)
    losses = train & (fate.lost | fate.stopped) & (fate.known <= run.end)
    lost_row = np.searchsorted(steps["closed_at"], fate.known)
    dropped = counted(lost_row, count, losses)
    closed_at, reason = _closes(run, heard, row, stale, held)
    return Story(outcome, fate.sure, step, staleness, closed_at, reason, held + late_ones, dropped, late_ones)


def _unheard(run: Folder, order: Ints) -> Flags:
    """Reports that the run left in flight though they arrived: only at its very end, which `checks` looks at."""
    return np.asarray(run.tasks["outcome"][order] == OF["in_flight"])


def _size(run: Folder) -> int:
    return int(run.setting("aggregation", "buffer_size"))


def _rows(run: Folder, heard: Ints, stale: Flags) -> Ints:
    """The buffer that each report, in the order of arrival, came to; the number of steps: none that was closed."""
    steps = run.server_steps
    held = np.cumsum(steps["reports"] - steps["late"])
    before: Ints = np.cumsum(~stale) - ~stale
    row: Ints = np.searchsorted(held, before, side="right").astype(np.int64)
    # A refused report may be the last of a buffer that closed because its period was over.
    earlier = np.searchsorted(held, before, side="left")
    safe = np.minimum(earlier, max(len(held) - 1, 0))
    if len(held):
        partial = (steps["reports"] - steps["late"])[safe] < _size(run)
        here = stale & (earlier < row) & partial & (heard <= steps["closed_at"][safe])
        row = np.where(here, earlier, row)
    return row


def _closes(run: Folder, handled: Ints, row: Ints, stale: Flags, held: Ints) -> tuple[Ints, Column]:
    """A full buffer closes with its last report; another one when the period is over."""
    count = len(run.server_steps)
    last = np.full(count, -1, np.int64)
    mine = (row < count) & ~stale
    np.maximum.at(last, row[mine], handled[mine])
    full = held >= _size(run)
    return np.where(full, last, _next_period(run, last)), np.where(full, "buffer", "period").astype(object)


def _next_period(run: Folder, at: Ints) -> Ints:
    """When the period is over that each instant lies in; never without periods."""
    period = run.duration("aggregation", "period")
    over = np.array([NEVER]) if period is None else np.append(Asking(run).periods(period, run.end), NEVER)
    return over[np.searchsorted(over, at)]


def checks(run: Folder) -> Iterator[Check]:
    """Buffers follow one another, hold no more than they may, and never more tasks run than allowed."""
    steps, count = run.server_steps, len(run.server_steps)
    begins = np.concatenate([np.zeros(1, np.int64), steps["closed_at"]])[:count]
    yield steps.equal("a buffer begins when the last one closed", "started_at", begins)
    yield steps.equal("buffers have no deadline", "deadline_at", NULL)
    yield steps.equal("goals of buffers", "goal", _size(run))
    yield _concurrency(run)
    yield from _left_over(run)


def _concurrency(run: Folder) -> Check:
    """Never more tasks of training at work than allowed."""
    tasks, most = run.tasks, run.setting("aggregation", "concurrency")
    train = tasks["kind"] == "train"
    known = np.sort(np.where(tasks["known_at"] == NULL, NEVER, tasks["known_at"])[train])
    begin = tasks["dispatched_at"]
    running = np.searchsorted(np.sort(begin[train]), begin, side="right") - np.searchsorted(known, begin, side="right")
    return tasks.holds("no more tasks at work than allowed", running <= most, "dispatched_at", f"{most} at most", train)


def _left_over(run: Folder) -> Iterator[Check]:
    """What waits at the end of the run is less than a buffer, and no period was passed over."""
    if run.was_cut:
        return
    tasks = run.tasks
    handled = Asking(run).handled(tasks["known_at"])
    waits = (tasks["outcome"] == OF["in_flight"]) & (tasks["known_at"] != NULL) & (handled < run.end)
    waits &= tasks["kind"] == "train"
    full = np.ones(len(waits), np.bool_)
    full[in_order(run, tasks["known_at"], waits)[_size(run) - 1 :]] = False
    yield tasks.holds("what waits at the end is less than a buffer", full, "outcome", PUT, waits)
    soon = _next_period(run, handled)
    good = np.where(waits, soon > run.end, tasks["used_at"] <= soon)
    yield tasks.holds("no period is passed over", good, "used_at", soon, waits | (tasks["used_at"] != NULL))
