"""A run for other programs: its stream of events as CSV, or as a picture of time for Perfetto."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from evsim.base.trace_events import CLIENTS, SERVER, WORLD, TraceEvents
from evsim.results.events import events_of
from evsim.results.links import link_use
from evsim.results.metrics import concurrency

if TYPE_CHECKING:
    from evsim.results.run import Run


def to_csv(run: Run, path: Path) -> None:
    """The stream of events, a line each."""
    events_of(run).to_csv(path, index=False)


def to_perfetto(run: Run, path: Path) -> None:
    """Tracks of the server, of rounds, of each client with a task, of outages; clients online, in flight, link use."""
    out = TraceEvents()
    for number, name in ((SERVER, "server"), (CLIENTS, "clients"), (WORLD, "world")):
        out.name(number, name)
    out.name_track(SERVER, 0, "rounds")
    columns = ("round", "started_at", "closed_at", "reason", "reports", "dropped")
    for number, began, closed, *words in zip(*(run.server_steps[name].tolist() for name in columns), strict=True):
        out.bar(f"round {number}", (began, closed), (SERVER, 0), dict(zip(columns[3:], words, strict=True)))
    _tasks(run, out)
    _changes(run, out)
    _curves(run, out)
    out.write(path)


def _tasks(run: Run, out: TraceEvents) -> None:
    tasks = run.tasks
    for client in tasks["client"].unique().tolist():
        out.name_track(CLIENTS, client, f"client {client}")
    ended = tasks["ended_at"].fillna(run.end_ms).to_numpy(np.int64)
    columns = ("task", "client", "dispatched_at", "download_ms", "compute_ms", "upload_ms")
    rows = zip(*(tasks[name].tolist() for name in columns), ended.tolist(), tasks["outcome"].astype(str), strict=True)
    for task, client, begin, down, compute, up, end, outcome in rows:
        place = (CLIENTS, client)
        out.bar(f"task {task}", (begin, end), place, {"end": outcome})
        at = begin
        for phase, lasts in (("download", down), ("compute", compute), ("upload", up)):
            if lasts:
                out.bar(phase, (at, at + lasts), place, {})
            at += lasts


def _changes(run: Run, out: TraceEvents) -> None:
    if "changes" in run.missing:
        return
    changes = run.changes[run.changes["what"].astype(str).isin(["outage"])]
    out.name_track(WORLD, 0, "outages")
    for at, until, by in zip(*(changes[name].tolist() for name in ("at", "until", "by")), strict=True):
        out.bar("outage", (at, min(until, run.end_ms)), (WORLD, 0), {"by": str(by)})


def _curves(run: Run, out: TraceEvents) -> None:
    for at, online in zip(run.availability["at"].tolist(), run.availability["online"].tolist(), strict=True):
        out.count("clients online", at, {"online": online})
    steps = concurrency(run)
    for at, running in zip(steps["at"].tolist(), steps["running"].tolist(), strict=True):
        out.count("tasks in flight", int(at), {"in flight": running})
    for at, down, up in link_use(run).to_numpy().tolist():
        out.count("server link, kbit/s", int(at), {"down": down, "up": up})
    tested = run.evaluations[run.evaluations["split"].astype(str) == "test"]
    tested = tested.dropna(subset=["value"])
    for at, metric, value in zip(*(tested[name].tolist() for name in ("at", "metric", "value")), strict=True):
        out.count(str(metric), at, {str(metric): value})
