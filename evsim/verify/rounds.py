"""Synchronous rounds: when each closes and why, and which reports it takes."""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil

import numpy as np

from evsim.verify.fates import Fates
from evsim.verify.folder import Folder
from evsim.verify.story import PUT, Story, base_versions, in_order, staleness_of, without_server
from evsim.verify.table import NEVER, NULL, OF, Check, Column, Flags, Ints, counted

_MAY_BE_FEWER = ("manager", "fedcs")  # selections that may choose fewer clients than are wanted and idle


def story(run: Folder, fate: Fates) -> Story:
    """What each round did with its tasks."""
    count, train = len(run.server_steps), run.tasks["kind"] == "train"
    row = np.where(train, fate.round_row, -1)
    mine = row >= 0
    closed_at, reason = _closes(run, fate, row)
    close = np.full(len(row), NEVER)
    close[mine] = closed_at[row[mine]]
    in_time = train & (fate.would_be_known <= close)
    arrived = in_time & fate.would_arrive & (fate.known <= run.end)
    reports, dropped = counted(row, count, arrived & mine), counted(row, count, in_time & fate.lost & mine)
    late = counted(row, count, mine) - reports - dropped
    outcome, step = _placed(run, fate, row, arrived, reports, reason)
    staleness = staleness_of(run, step)
    step = np.where(outcome == OF["stale"], -1, step)
    return Story(outcome, fate.sure, step, staleness, closed_at, reason, reports, dropped, late)


def _placed(run: Folder, fate: Fates, row: Ints, arrived: Flags, reports: Ints, reason: Column) -> tuple[Ints, Ints]:
    """The outcome of each task, and the row of the step whose version its report met; -1: of none."""
    steps = run.server_steps
    enough = np.minimum(reports, steps["goal"]) >= run.setting("aggregation", "minimum_reports", default=1)
    outcome = without_server(run, fate)
    reported = (outcome == PUT) & (run.tasks["kind"] == "train")
    outcome[reported & (row < 0)] = OF["in_flight"]  # its round never closed
    before, after = reported & arrived & (row >= 0), reported & ~arrived & (row >= 0)
    fresh = before & (_positions(run, fate, row, arrived) < steps.at("goal", row, NEVER))
    used = fresh.copy()
    used[fresh] = enough[row[fresh]]
    outcome[before & ~fresh] = OF["surplus"]
    outcome[fresh & ~used] = OF["round_failed"]
    outcome[after] = np.where(reason[row[after]] == "goal", OF["surplus"], OF["late"])
    step = np.where(used, row, -1)
    if run.setting("aggregation", "late_reports") == "keep":
        _keep(run, fate, after, enough, outcome, step)
    return outcome, step


def _closes(run: Folder, fate: Fates, row: Ints) -> tuple[Ints, Column]:
    """The instant and the reason of each round's close: the goal-th report, the deadline or the last known end."""
    steps, count = run.server_steps, len(run.server_steps)
    mine = np.flatnonzero(row >= 0)
    known = fate.would_be_known
    at_end = np.full(count, -1, np.int64)
    np.maximum.at(at_end, row[mine], known[mine])
    ordered = mine[np.lexsort((known[mine], row[mine]))]
    ordered = ordered[fate.would_arrive[ordered]]
    first = np.searchsorted(row[ordered], np.arange(count))
    wanted = first + np.maximum(steps["goal"], 1) - 1
    there = wanted < np.searchsorted(row[ordered], np.arange(count), side="right")
    at_goal = np.full(count, NEVER, np.int64)
    at_goal[there] = known[ordered[wanted[there]]]
    deadline = np.where(steps["deadline_at"] == NULL, NEVER, steps["deadline_at"])
    by_goal = at_goal <= np.minimum(deadline, at_end)
    by_deadline = ~by_goal & (deadline <= at_end)
    closed_at = np.where(by_goal, at_goal, np.where(by_deadline, deadline, at_end))
    reason = np.where(by_goal, "goal", np.where(by_deadline, "deadline", "exhausted")).astype(object)
    return closed_at, reason


def _positions(run: Folder, fate: Fates, row: Ints, arrived: Flags) -> Ints:
    """The place of each report among those of its round, from 0."""
    order = in_order(run, fate.would_be_known, arrived)
    order = order[np.argsort(row[order], kind="stable")]
    position = np.full(len(row), NEVER, np.int64)
    first = np.searchsorted(row[order], row[order])
    position[order] = np.arange(len(order)) - first
    return position


def _keep(run: Folder, fate: Fates, late: Flags, enough: Flags, outcome: Ints, step: Ints) -> None:
    """Kept late reports join the next round that has enough of its own, unless they are too stale by then."""
    rows = np.flatnonzero(enough)
    kept = np.flatnonzero(late & fate.arrives & (fate.known <= run.end))
    place = np.searchsorted(run.server_steps["closed_at"][rows], fate.known[kept])
    taken = place < len(rows)
    outcome[kept] = np.where(taken, PUT, OF["in_flight"])
    step[kept[taken]] = rows[place[taken]]
    most = run.setting("aggregation", "max_staleness")
    if most is not None:
        mine = kept[taken]
        staleness = base_versions(run)[step[mine]] - run.tasks["version"][mine]
        outcome[mine[staleness > most]] = OF["stale"]


def checks(run: Folder, fate: Fates) -> Iterator[Check]:
    """Whom a round invites, what it waits for, and until when."""
    steps, tasks, count = run.server_steps, run.tasks, len(run.server_steps)
    wanted, over = run.setting("aggregation", "cohort_goal"), run.setting("aggregation", "over_commitment", default=1.0)
    row = np.where(tasks["kind"] == "train", fate.round_row, -1)
    begin = np.full(count, NEVER, np.int64)
    np.minimum.at(begin, row[row >= 0], tasks["dispatched_at"][row >= 0])
    yield steps.equal("starts of rounds", "started_at", begin)
    mine = row >= 0
    yield tasks.equal("a round's tasks begin together", "dispatched_at", steps.at("started_at", row), mine)
    yield steps.equal("goals of rounds", "goal", _goals(run, steps["invited"]))
    most = np.minimum(ceil(round(wanted * over, 9)), np.where(steps["idle"] < 0, 0, steps["idle"]))
    kind = run.kind("selection")
    fewer = (steps["invited"] >= 1) & (steps["invited"] <= most) & (kind in _MAY_BE_FEWER or ":" in kind)
    asked = (steps["invited"] == most) | fewer  # a selector from elsewhere may choose fewer, too
    yield steps.holds("as many are invited as are idle and wanted", asked, "invited", "min(idle, wanted)")
    yield from _deadlines(run, fate)
    yield _unclosed(run, fate)


def _goals(run: Folder, invited: Ints) -> Ints:
    """Reports that close a round of so many clients."""
    wanted: Ints = np.minimum(run.setting("aggregation", "cohort_goal"), invited)
    if run.setting("aggregation", "short_cohort", default="whole") == "whole":
        return wanted
    share = np.ceil(np.round(invited / run.setting("aggregation", "over_commitment", default=1.0), 9))
    least = np.minimum(run.setting("aggregation", "minimum_reports", default=1), invited)
    shared: Ints = np.minimum(wanted, np.maximum(share, least).astype(np.int64))
    return shared


def _deadlines(run: Folder, fate: Fates) -> Iterator[Check]:
    steps, pace = run.server_steps, run.setting("aggregation", "pacing")
    fixed = run.duration("aggregation", "reporting_deadline")
    if pace is None:
        expected = np.full(len(steps), NULL) if fixed is None else steps["started_at"] + fixed
        yield steps.equal("deadlines of rounds", "deadline_at", expected)
        return
    if pace.get("kind") != "quantile":
        yield Check("deadlines of rounds", skipped="the pacing is not one of evsim's own")
        return
    yield steps.equal("deadlines of rounds", "deadline_at", steps["started_at"] + _paced(run, fate))


def _paced(run: Folder, fate: Fates) -> Ints:
    """How long each round may last: what a share of the last one's clients took, remembered, with some slack."""
    steps, tasks, pace = run.server_steps, run.tasks, run.scenario["aggregation"]["pacing"]
    low, high, lasts = (run.duration("aggregation", "pacing", name) or 0 for name in ("shortest", "longest", "start"))
    in_time = (tasks["kind"] == "train") & fate.would_arrive & (fate.round_row >= 0)
    in_time &= fate.would_be_known <= steps.at("closed_at", fate.round_row)
    rows = np.flatnonzero(in_time)
    rows = rows[np.lexsort((fate.would_be_known[rows], fate.round_row[rows]))]
    took, first = (
        fate.would_be_known[rows] - tasks["dispatched_at"][rows],
        np.searchsorted(fate.round_row[rows], np.arange(len(steps) + 1)),
    )
    found = []
    for row, invited in enumerate(steps["invited"].tolist()):
        found.append(lasts)
        wanted, mine = ceil(round(pace["share"] * invited, 9)), took[first[row] : first[row + 1]]
        target = lasts * pace["growth"]
        if len(mine) >= wanted:
            target = pace["memory"] * lasts + (1 - pace["memory"]) * float(np.sort(mine)[wanted - 1]) * pace["slack"]
        lasts = min(max(round(target), low), high)
    return np.array(found, np.int64)


def _unclosed(run: Folder, fate: Fates) -> Check:
    """A round without a row cannot have been over before the run's end."""
    name = "no round stays open"
    open_tasks = np.flatnonzero((run.tasks["kind"] == "train") & (fate.round_row < 0))
    if not len(open_tasks) or run.was_cut:
        return Check(name, len(run.server_steps))
    known, arrives = fate.known[open_tasks], fate.arrives[open_tasks]
    goal = int(_goals(run, np.array([len(open_tasks)]))[0])
    fixed, begin = run.duration("aggregation", "reporting_deadline"), int(run.tasks["dispatched_at"][open_tasks[0]])
    over = int(known.max()) <= run.end or int(np.count_nonzero(arrives & (known <= run.end))) >= goal
    over = over or (fixed is not None and begin + fixed <= run.end)
    if not over:
        return Check(name, len(run.server_steps) + 1)
    return Check(name, 1, f"round {run.tasks['round'][open_tasks[0]]}: no row, though it was over by {run.end} ms")
