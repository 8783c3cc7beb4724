"""How each task ends and when the server knows, from sessions, planned phases, deadlines and timeouts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

import numpy as np

from evsim.verify import changes
from evsim.verify.folder import Folder
from evsim.verify.prices import planned_end
from evsim.verify.sessions import Presence
from evsim.verify.table import NEVER, NULL, Check, Flags, Ints


@final
@dataclass(frozen=True, eq=False)
class Fates:
    """What must have become of each task, one entry each; instants may lie beyond the run's end.

    Attributes:
        ended: when its report arrived, its device left, or it was stopped.
        known: when the server knew.
        arrives, lost, stopped: how it ended; exactly one holds.
        sure: whether all this is known of it: not for tasks of aggregators and queries of selectors from elsewhere.
        round_row: the row of `server_steps` of a task's round or buffer; -1: it was not closed.
        would_be_known: `known`, had the round's close not stopped it.
        would_arrive: `arrives`, likewise.
    """

    ended: Ints
    known: Ints
    arrives: Flags
    lost: Flags
    stopped: Flags
    sure: Flags
    round_row: Ints
    would_be_known: Ints
    would_arrive: Flags


def style(run: Folder) -> str:
    """How the server organizes its time: rounds, buffers, or nothing for an aggregator from elsewhere."""
    if changes.had_outages(run):
        return ""  # what the server put off cannot be read from the scenario
    return {"synchronous": "rounds", "buffered": "buffers"}.get(run.kind("aggregation"), "")


def recompute(run: Folder, presence: Presence) -> Fates:
    """The fate of every task."""
    tasks = run.tasks
    client, begin, plan = tasks["client"], tasks["dispatched_at"], planned_end(tasks)
    until = presence.until_of(client, begin)
    if run.manifest["cost"]["availability_check"] == "throughout":
        ended, arrives = np.minimum(plan, until), plan <= until
    else:  # a report that arrives exactly at check-out counts
        ended, arrives = plan, presence.online(client, plan) | presence.online(client, plan - 1)
    query = tasks["kind"] == "query"
    limit = _limits(run, query)
    stopped = ended > limit
    ended = np.minimum(ended, limit)
    row, deadline = _rounds(run, query)
    lost, arrives = ~arrives & ~stopped, arrives & ~stopped
    known = ended.copy()
    back = presence.next_check_in(client[lost], ended[lost])
    known[lost] = np.maximum(ended[lost], np.minimum(back, np.minimum(deadline, limit)[lost]))
    would, would_arrive = known.copy(), arrives.copy()
    if style(run) == "rounds" and run.setting("aggregation", "on_close") == "abort":
        close = run.server_steps.at("closed_at", np.where(query, -1, row), NEVER)
        cut, late = ended > close, known > close
        ended, known = np.where(cut, close, ended), np.where(late, close, known)
        stopped, arrives, lost = stopped | cut, arrives & ~cut, lost & ~cut
    known_query = run.kind("selection") == "power_of_choice" and not changes.had_outages(run)
    sure = np.where(query, known_query, style(run) != "")
    return Fates(ended, known, arrives, lost, stopped, sure, row, would, would_arrive)


def _limits(run: Folder, query: Flags) -> Ints:
    """The instant at which each task is stopped at the latest."""
    asking = run.duration("selection", "query_timeout")
    training = run.duration("aggregation", "task_timeout")
    begin = run.tasks["dispatched_at"]
    limits = (NEVER if timeout is None else begin + timeout for timeout in (asking, training))
    of_query, of_task = limits
    return np.where(query, of_query, of_task).astype(np.int64)


def _rounds(run: Folder, query: Flags) -> tuple[Ints, Ints]:
    """The closed round of each task and the reporting deadline it was given under."""
    steps = run.server_steps
    never = np.full(len(query), NEVER, np.int64)
    if not len(steps):
        row = np.full(len(query), -1, np.int64)
    else:
        order = np.argsort(steps["round"], kind="stable")
        place = np.searchsorted(steps["round"][order], run.tasks["round"])
        found = order[np.minimum(place, len(order) - 1)]
        row = np.where(steps["round"][found] == run.tasks["round"], found, -1)
    if style(run) != "rounds":
        return row, never
    fixed = run.duration("aggregation", "reporting_deadline")
    open_until = never if fixed is None else run.tasks["dispatched_at"] + fixed
    closed = steps.at("deadline_at", row)
    deadline = np.where(row < 0, open_until, np.where(closed == NULL, NEVER, closed))
    return row, np.where(query, NEVER, deadline)


def presence_checks(run: Folder, presence: Presence) -> Iterator[Check]:
    """Nothing begins offline, and nobody has two tasks at once."""
    tasks = run.tasks
    begin, client = tasks["dispatched_at"], tasks["client"]
    online = presence.online(client, begin)
    yield tasks.holds("tasks begin while their client is online", online, "dispatched_at", "an instant of a session")
    order = np.lexsort((tasks["task"], client))
    known = np.where(tasks["known_at"] == NULL, NEVER, tasks["known_at"])[order]
    free = np.ones(len(order), np.bool_)
    same = client[order][1:] == client[order][:-1]
    free[order[1:]] = ~same | (begin[order][1:] >= known[:-1])
    yield tasks.holds("no client has two tasks at once", free, "dispatched_at", "an instant after its last task")


def session_checks(run: Folder) -> Iterator[Check]:
    """Sessions of a client are apart from each other and within the run."""
    table = run.sessions
    client, begin, end = table["client"], table["check_in_at"], table["check_out_at"]
    good = (begin >= 0) & (begin <= run.end) & ((end == NULL) | ((end > begin) & (end <= run.end)))
    yield table.holds("sessions are within the run", good, "check_out_at", "later than the check-in, within the run")
    after = np.ones(len(table), np.bool_)
    after[1:] = (client[1:] > client[:-1]) | ((client[1:] == client[:-1]) & (begin[1:] > end[:-1]) & (end[:-1] != NULL))
    yield table.holds("sessions are apart and in order", after, "check_in_at", "later than the check-out before it")


def fates(run: Folder, fate: Fates) -> Iterator[Check]:
    """Ends and the instants at which they become known; what lies beyond the run's end is empty."""
    ended = np.where(fate.ended > run.end, NULL, fate.ended)
    known = np.where((fate.known > run.end) | (ended == NULL), NULL, fate.known)
    yield run.tasks.equal("ends of tasks", "ended_at", ended, fate.sure)
    yield run.tasks.equal("when ends are known", "known_at", known, fate.sure)
    unsure = ~fate.sure
    if unsure.any():
        early = run.tasks["ended_at"] <= np.minimum(planned_end(run.tasks), run.end)
        yield run.tasks.holds("nothing lasts longer than planned", early, "ended_at", "an earlier instant", unsure)


def partial_work(run: Folder, fate: Fates) -> Iterator[Check]:
    """A task cut to fit its deadline makes it, unless its device leaves."""
    most = run.tasks["max_steps"]
    if not (most > 0).any() or run.setting("work") is not None:  # which says itself how much each client does
        return
    _, deadline = _rounds(run, run.tasks["kind"] == "query")
    limit = np.minimum(deadline, _limits(run, run.tasks["kind"] == "query"))
    good = planned_end(run.tasks) <= limit
    yield run.tasks.holds("a task cut to fit makes its deadline", good, "max_steps", "fewer steps", most > 0)
