"""The whole stream of a run as one tidy frame, from its tables."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from evsim.base.vocabulary import Rank

if TYPE_CHECKING:
    from evsim.results.run import Run

COLUMNS = ("at", "event", "client", "task", "round", "detail")
#: What happens at one instant, in the order in which the engine has it.
_RANKS = {
    "outage begins": Rank.WORLD,
    "outage ends": Rank.WORLD,
    "link cut": Rank.WORLD,
    "reported": Rank.REPORT,
    "dropped": Rank.DROPOUT,
    "checked_out": Rank.CHECK_OUT,
    "checked_in": Rank.CHECK_IN,
    "stopped": Rank.DEADLINE,
    "deadline_passed": Rank.DEADLINE,
    "round_closed": Rank.SERVER,
    "dispatched": Rank.SERVER,
    "evaluated": Rank.EVALUATION,
    "ended": Rank.END,
}
_AFTER = {"dispatched": 1}  # of one rank: a round is closed before the next one is begun


def events_of(run: Run) -> pd.DataFrame:
    """Everything that the tables of a run tell, a row each, in order.

    Check-ins and check-outs are those of the clients in `sessions`: of those that got a task, or of all with
    `record.sessions = true`. Reports of one instant are in the order in which the server heard of them.
    """
    parts = [part for part in (*_of_tasks(run), *_of_sessions(run), *_of_server(run), *_of_world(run)) if len(part)]
    frame = pd.concat(parts, ignore_index=True)
    rank = frame["event"].map({name: int(value) for name, value in _RANKS.items()})
    after = frame["event"].map(_AFTER).fillna(0)
    order = np.lexsort((frame["tie"], after, rank, frame["at"]))
    found = frame.iloc[order][list(COLUMNS)].reset_index(drop=True)
    return found.astype({"event": "category", "client": "Int64", "task": "Int64", "round": "Int64"})


def _rows(event: str, at: object, **columns: object) -> pd.DataFrame:
    frame = pd.DataFrame({"at": at, "event": event, **columns})
    for name, empty in (("client", pd.NA), ("task", pd.NA), ("round", pd.NA), ("detail", ""), ("tie", 0)):
        if name not in frame:
            frame[name] = empty
    return frame.astype({"at": np.int64, "client": "Int64", "task": "Int64", "round": "Int64"})


def _of_tasks(run: Run) -> Iterator[pd.DataFrame]:
    tasks, outcome = run.tasks, run.tasks["outcome"].astype(str)
    lost, stopped = outcome == "dropped", outcome == "aborted"
    arrived = tasks["known_at"].notna() & ~lost & ~stopped
    for event, rows, at, tie in (
        ("dispatched", outcome.notna(), "dispatched_at", "task"),
        ("reported", arrived, "known_at", "order"),
        ("dropped", lost, "ended_at", "task"),
        ("stopped", stopped, "ended_at", "task"),
    ):
        some = tasks[rows]
        yield _rows(
            event,
            some[at].to_numpy(np.int64),
            client=some["client"].to_numpy(),
            task=some["task"].to_numpy(),
            round=some["round"].to_numpy(),
            detail="" if event == "dispatched" else outcome[rows].to_numpy(),
            tie=some[tie].to_numpy(),
        )


def _of_sessions(run: Run) -> Iterator[pd.DataFrame]:
    for event, column in (("checked_in", "check_in_at"), ("checked_out", "check_out_at")):
        some = run.sessions.dropna(subset=[column])
        clients = some["client"].to_numpy()
        yield _rows(event, some[column].to_numpy(np.int64), client=clients, tie=clients)


def _of_server(run: Run) -> Iterator[pd.DataFrame]:
    steps = run.server_steps
    passed = steps[steps["deadline_at"].notna() & (steps["reason"].astype(str) == "deadline")]
    yield _rows("deadline_passed", passed["deadline_at"].to_numpy(np.int64), round=passed["round"].to_numpy())
    words = [
        f"{reason}, {reports} reports, version {version}"
        for reason, reports, version in zip(steps["reason"], steps["reports"], steps["version"], strict=True)
    ]
    number = steps["round"].to_numpy()
    yield _rows(
        "round_closed", steps["closed_at"].to_numpy(np.int64), round=number, detail=words, tie=range(len(steps))
    )
    values = run.evaluations[["at", "version", "metric", "value"]].drop_duplicates(["at", "version", "metric"])
    told = [
        (
            at,
            f"version {version}: "
            + ", ".join(f"{m} {v:.6g}" for m, v in zip(own["metric"], own["value"], strict=True)),
        )
        for (at, version), own in values.groupby(["at", "version"], observed=True)
    ]
    yield _rows("evaluated", [at for at, _ in told], detail=[text for _, text in told])
    yield _rows("ended", [run.end_ms], detail=str(run.manifest["end"]["reason"]))


def _of_world(run: Run) -> Iterator[pd.DataFrame]:
    if "changes" in run.missing:
        return
    changes = run.changes
    down, cut = (changes[changes["what"].astype(str) == what] for what in ("outage", "link"))
    yield _rows("outage begins", down["at"].to_numpy(np.int64), detail=down["by"].astype(str).to_numpy())
    over = down[down["until"] <= run.end_ms]
    yield _rows("outage ends", over["until"].to_numpy(np.int64), detail=over["by"].astype(str).to_numpy())
    yield _rows(
        "link cut",
        cut["at"].to_numpy(np.int64),
        client=cut["client"].to_numpy(),
        detail=[f"until {until} ms" for until in cut["until"]],
        tie=cut["client"].to_numpy(np.int64),
    )
