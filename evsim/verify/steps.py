"""What every aggregator owes: versions, counts, the step that used a report, merge weights, conservation."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from evsim.verify import buffers, rounds
from evsim.verify.asking import Asking
from evsim.verify.draws import ties
from evsim.verify.fates import Fates, style
from evsim.verify.folder import Folder
from evsim.verify.sessions import Presence
from evsim.verify.story import PUT, Story, base_versions
from evsim.verify.table import NEVER, NULL, OF, OUTCOMES, Check, Column, Flags, Ints, counted


def rows(run: Folder) -> Iterator[Check]:
    """Ids and instants ascend; every cell names something that exists."""
    tasks, steps = run.tasks, run.server_steps
    yield tasks.equal("ids of tasks", "task", np.arange(len(tasks)))
    yield tasks.holds("kinds of tasks", np.isin(tasks["kind"], ["train", "query"]), "kind", "train or query")
    yield tasks.holds("outcomes of tasks", tasks["outcome"] >= 0, "outcome", "an outcome of the data dictionary")
    begin = tasks["dispatched_at"]
    rising = np.diff(begin, prepend=0) >= 0
    yield tasks.holds("dispatches never go back in time", rising & (begin <= run.end), "dispatched_at", "no earlier")
    yield tasks.equal("a client's tasks are numbered", "nth", _numbered(tasks["client"]))
    if _is_alone(run):
        yield steps.equal("rounds are numbered", "round", np.arange(len(steps)))
    else:
        _, first = np.unique(steps["round"], return_index=True)
        once = np.isin(np.arange(len(steps)), first)
        yield steps.holds("rounds are numbered", once, "round", "a number of its own")
    closed = steps["closed_at"]
    rising = (np.diff(closed, prepend=0) >= 0) & (closed <= run.end) & (closed >= steps["started_at"])
    yield steps.holds("closes never go back in time", rising, "closed_at", "no earlier, and no later than the end")
    yield steps.equal("versions of steps", "version", base_versions(run)[1:])
    yield run.clients.equal("ids of clients", "client", np.arange(len(run.clients)))
    for table in (tasks, run.sessions):
        there = (table["client"] >= 0) & (table["client"] < len(run.clients))
        yield table.holds(f"clients of {table.name}", there, "client", f"less than {len(run.clients)}")
    yield tasks.equal("the order of one instant", "order", ties(int(run.manifest["seed"]), tasks["task"]))
    if style(run):
        yield steps.equal("one process of the server", "by", "")


def _is_alone(run: Folder) -> bool:
    """Whether the server is one process, so that its rounds and buffers come one after the other."""
    return bool((run.server_steps["by"] == "").all())


def _numbered(clients: Ints) -> Ints:
    order = np.argsort(clients, kind="stable")
    first = np.searchsorted(clients[order], clients[order])
    numbers = np.empty(len(clients), np.int64)
    numbers[order] = np.arange(len(clients)) - first
    return numbers


def dispatches(run: Folder) -> Iterator[Check]:
    """A task belongs to the attempt that is under way, and starts from the model of that instant."""
    begin, closes = run.tasks["dispatched_at"], run.server_steps["closed_at"]
    closed = np.searchsorted(closes, begin, side="right")
    if _is_alone(run):
        yield run.tasks.equal("rounds of tasks and queries", "round", closed)
    else:
        yield Check("rounds of tasks and queries", skipped="several processes of the server have rounds at a time")
    yield run.tasks.equal("versions of tasks", "version", base_versions(run)[closed])


def story_checks(run: Folder, fate: Fates) -> Iterator[Check]:
    """What the server must have done with each task, and when."""
    kind = style(run)
    if not kind:
        yield Check("outcomes and closes", skipped="the aggregator is not one of evsim's own")
        return
    story = rounds.story(run, fate) if kind == "rounds" else buffers.story(run, fate)
    yield from outcomes(run, story)
    yield from closes(run, story)
    yield from rounds.checks(run, fate) if kind == "rounds" else buffers.checks(run)


def outcomes(run: Folder, story: Story) -> Iterator[Check]:
    """What became of each task, the step that used it, and how stale it was."""
    tasks = run.tasks
    invalid = tasks["outcome"] == OF["invalid"]
    found = np.where(invalid, PUT, tasks["outcome"])
    yield tasks.holds("outcomes", found == story.outcome, "outcome", story.outcome, story.sure)
    yield tasks.equal("staleness", "staleness", story.staleness, story.sure)
    steps = run.server_steps
    used_at = steps.at("closed_at", story.step)
    yield tasks.equal("when reports are used", "used_at", used_at, story.sure)
    merged = np.where(invalid, NULL, steps.at("version", story.step))
    yield tasks.equal("steps that used a report", "server_step", merged, story.sure)


def closes(run: Folder, story: Story) -> Iterator[Check]:
    """When each step was made and why, and what it counts."""
    steps, tasks, count = run.server_steps, run.tasks, len(run.server_steps)
    yield steps.equal("closes", "closed_at", story.closed_at)
    merged = counted(story.step, count, (story.step >= 0) & (tasks["outcome"] != OF["invalid"]))
    put = counted(story.step, count, story.step >= 0)
    yield steps.equal("a step is applied if it has an update", "applied", merged > 0)
    reason = np.where((put > 0) & (merged == 0), "invalid", story.reason)
    yield steps.equal("reasons of closes", "reason", reason)
    train = tasks["kind"] == "train"
    yield steps.equal("tasks of a step", "invited", counted(tasks["round"], count, train))
    for column in ("reports", "dropped", "late"):
        yield steps.equal(f"{column} of a step", column, getattr(story, column))
    total = np.bincount(story.step[story.step >= 0], story.staleness[story.step >= 0], minlength=count)
    mean = np.divide(total, put, out=np.full(count, np.nan), where=put > 0)
    found = steps["mean_staleness"]
    good = (np.abs(found - mean) <= 1e-9 * (1 + np.abs(mean))) | (np.isnan(found) & np.isnan(mean))
    yield steps.holds("mean staleness", good, "mean_staleness", mean)


def choices(run: Folder) -> Iterator[Check]:
    """What the selector said is about clients that got a task at that instant, for that round."""
    said, tasks = run.selections, run.tasks
    if not said.columns or not len(said):
        return
    train = tasks["kind"] == "train"
    rows = (tasks[name][train].tolist() for name in ("round", "client", "dispatched_at"))
    given = set(zip(*rows, strict=True))
    columns = (said[name].tolist() for name in ("round", "client", "at"))
    good = [client == NULL or (number, client, at) in given for number, client, at in zip(*columns, strict=True)]
    yield said.holds("the selector speaks of clients that it chose", np.array(good), "client", "one that got a task")


def used(run: Folder) -> Iterator[Check]:
    """The least that holds whoever aggregates: a merged report names an applied step, and no other one does."""
    tasks, steps = run.tasks, run.server_steps
    merged = tasks["outcome"] == OF["aggregated"]
    yield tasks.holds(
        "merged reports name a step", (tasks["server_step"] > 0) == merged, "server_step", "one if merged"
    )
    applied = steps["applied"].astype(np.bool_)
    made = np.zeros(int(base_versions(run)[-1]) + 1, np.int64)
    made[steps["version"][applied]] = steps["closed_at"][applied]
    exists = tasks["server_step"] < len(made)
    at = made[np.clip(tasks["server_step"], 0, len(made) - 1)]
    yield tasks.holds(
        "reports are used when their step is made", exists & (tasks["used_at"] == at), "used_at", at, merged
    )
    count = counted(tasks["server_step"], len(made), merged)
    yield steps.holds("an applied step merged something", ~applied | (count[steps["version"]] > 0), "applied", "false")


def weights(run: Folder) -> Iterator[Check]:
    """What each update counted in its merge, from samples and staleness; nothing if it was not merged."""
    tasks, kind = run.tasks, run.kind("weighting")
    merged = (tasks["outcome"] == OF["aggregated"]) & (run.manifest["training"] == "real")
    yield tasks.equal("no weight without a merge", "weight", np.nan, ~merged)
    expected = _weights(run, kind)
    if expected is None:
        good = np.isfinite(tasks["weight"]) & (tasks["weight"] >= 0)
        yield tasks.holds("weights are finite", good, "weight", "a finite number >= 0", merged)
        return
    good = np.abs(tasks["weight"] - expected) <= 1e-9 * np.abs(expected)
    yield tasks.holds("merge weights", good, "weight", expected, merged)


def _weights(run: Folder, kind: str) -> Column | None:
    own, late = run.tasks["samples"].astype(np.float64), np.maximum(run.tasks["staleness"], 0).astype(np.float64)
    option = run.scenario.get("weighting", {})
    if kind in ("samples", "uniform"):
        return own if kind == "samples" else np.ones(len(own))
    if kind == "polynomial_staleness":
        discount = (1 + late) ** -option.get("exponent", 0.5)
    elif kind == "hinge_staleness":
        discount = 1 / (option.get("slope", 10.0) * np.maximum(late - option.get("tolerance", 4), 0) + 1)
    elif kind == "exponential_staleness":
        discount = np.where(late > 0, np.exp(-1 - late), 1.0)
    else:
        return None
    return np.asarray(discount * own if option.get("base") == "samples" else discount)


def conservation(run: Folder) -> Iterator[Check]:
    """Dispatched = the sum over outcomes; the manifest counts as the tables do."""
    tasks, steps = run.tasks, run.server_steps
    by_outcome = np.bincount(tasks["outcome"][tasks["outcome"] >= 0], minlength=len(OUTCOMES))
    short = len(tasks) - int(by_outcome.sum())
    yield Check("dispatched = sum over outcomes", len(tasks), f"{short} tasks without an outcome" if short else "")
    found, applied = run.manifest["server_steps"], int(steps["applied"].sum())
    wrong = f"manifest: server_steps is {found}, expected {applied}" if found != applied else ""
    yield Check("server steps of the manifest", len(steps), wrong)


def idle(run: Folder, presence: Presence) -> Iterator[Check]:
    """Idle clients at a selection: reachable, with data, without a task; at least those whose sessions are known."""
    steps, tasks = run.server_steps, run.tasks
    if run.manifest["cost"]["availability_check"] != "throughout" or not style(run):
        yield Check("idle clients", skipped="only for tasks that need their device throughout, and evsim's aggregators")
        return
    at, asked = _selections(run)
    has_data = run.clients["samples"] > 0
    known = np.where(tasks["known_at"] == NULL, NEVER, tasks["known_at"])
    until = presence.until_of(tasks["client"], tasks["dispatched_at"])
    ends, begins = np.sort(np.minimum(known, until)), np.sort(tasks["dispatched_at"])
    busy = np.searchsorted(begins, at, side="left") - np.searchsorted(ends, at, side="right")
    expected = presence.count(at, has_data) - busy
    complete = bool(run.setting("record", "sessions", default=False))
    found = steps["idle"]
    good = found == expected if complete else (found >= expected) & (found <= int(has_data.sum()))
    if style(run) == "buffers":
        good |= found == 0  # a later selection found nobody
    yield steps.holds("idle clients" if complete else "idle clients at least", good, "idle", expected, asked)


def _selections(run: Folder) -> tuple[Ints, Flags]:
    """The instant of the last selection before each close that led to a task, and whether there was one."""
    begin = run.tasks["dispatched_at"][run.tasks["kind"] == "train"]
    if style(run) == "rounds":
        return run.server_steps["started_at"], np.ones(len(run.server_steps), np.bool_)
    closed = run.server_steps["closed_at"]
    first = Asking(run).ends_at(closed)
    place = np.where(first, np.searchsorted(begin, closed, side="right"), np.searchsorted(begin, closed)) - 1
    if not len(begin):
        return closed, np.zeros(len(closed), np.bool_)
    return begin[np.maximum(place, 0)], place >= 0
