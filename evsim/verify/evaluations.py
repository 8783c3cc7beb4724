"""When the model was evaluated, at which version, and how the run ended; counts of clients online."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

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


def client_evaluations(run: Folder) -> Iterator[Check]:
    """Each client once per version and metric, at the first evaluation of a version; and what they spread to."""
    table, tests = run.client_evaluations, run.evaluations
    if not run.setting("evaluation", "per_client", default=False):
        if table.columns:
            yield Check("clients by themselves", len(table), "rows, though none were asked for" if len(table) else "")
        return
    version, client, metric = table["version"], table["client"], table["metric"].astype(str)
    there = (client >= 0) & (client < len(run.clients))
    yield table.holds("clients that are judged", there, "client", f"an id below {len(run.clients)}")
    if not there.all():
        return
    split = "train" if run.setting("data", "client_test_fraction") is None else "held_out"
    yield table.equal("samples that clients are judged by", "split", split)
    if split == "train":
        yield table.equal("how many samples judge a client", "samples", run.clients["samples"][client])
    versions, first = np.unique(tests["version"], return_index=True)
    place = np.searchsorted(versions, version)
    known = np.isin(version, versions)
    yield table.holds("versions that clients are judged on", known, "version", "one that was evaluated")
    at = tests["at"][first][np.minimum(place, len(first) - 1)]
    yield table.equal("clients are judged when a version is first evaluated", "at", at, known)
    rows = np.lexsort((metric, client, version))
    same = (version[rows][1:] == version[rows][:-1]) & (client[rows][1:] == client[rows][:-1])
    same &= metric[rows][1:] == metric[rows][:-1]
    once = np.ones(len(table), np.bool_)
    once[rows[1:]] = ~same
    yield table.holds("each client once per version and metric", once, "client", "another client")
    told = run.manifest.get("client_evaluations")
    if isinstance(told, Mapping):
        due = int(told["clients"]) * len(set(metric.tolist())) * len(versions)
        yield Check("no client is left out", due, "" if len(table) == due else f"{len(table)} rows, expected {due}")
    yield from _spread(run, version, metric)


def _spread(run: Folder, version: Ints, metric: Column) -> Iterator[Check]:
    """The rows of split `clients` in evaluations, from the clients' own."""
    table, value = run.evaluations, run.client_evaluations["value"]
    of_clients, name = table["split"] == "clients", table["metric"].astype(str)
    expected = np.full(len(table), np.nan)
    order = np.lexsort((metric, version))
    new = (version[order][1:] != version[order][:-1]) | (metric[order][1:] != metric[order][:-1])
    starts = [0, *(np.flatnonzero(new) + 1).tolist(), len(order)]
    for start, stop in pairwise(starts):
        rows = order[start:stop]
        own = value[rows][~np.isnan(value[rows])]
        for end, number in _SPREAD.items():
            there = of_clients & (table["version"] == version[rows[0]]) & (name == f"{metric[rows[0]]}_{end}")
            expected[there] = number(own) if len(own) else np.nan
    good = np.isclose(table["value"], expected, rtol=1e-9, atol=1e-12, equal_nan=True)
    yield table.holds("the spread over clients", good, "value", expected, of_clients)


_SPREAD: dict[str, Callable[[NDArray[np.float64]], float]] = {
    "mean": lambda values: float(values.mean()),
    "std": lambda values: float(np.sqrt(((values - values.mean()) ** 2).mean())),
    "p10": lambda values: float(np.quantile(values, 0.1)),
    "p90": lambda values: float(np.quantile(values, 0.9)),
}


def _grid(run: Folder, table: Table, at: Ints, trigger: Column) -> Iterator[Check]:
    every = _every(run)
    if every is None:
        yield Check("the grid of evaluations", skipped="the scenario does not say it as a time or a number of steps")
        return
    spacing, by_time = every
    on_grid = trigger == ("grid" if by_time else "step")
    due = np.arange(spacing, run.end + 1, spacing) if by_time else _instants_of_steps(run, spacing)
    expected = f"a multiple of {spacing}" if by_time else f"an instant that brings a version which {spacing} divides"
    yield table.holds("evaluations lie on their grid", np.isin(at, due), "at", expected, on_grid)
    missing = due[~np.isin(due, at[on_grid])]
    first = f"no evaluation at {missing[0]} ms" if len(missing) and not run.was_cut else ""
    yield Check("no evaluation is missing", len(due), first)


def _instants_of_steps(run: Folder, spacing: int) -> Ints:
    """When a version that `spacing` divides was made; its instant may have brought others, and is evaluated once."""
    made = base_versions(run)[1:]
    rows = (run.server_steps["applied"] > 0) & (made % spacing == 0)
    return np.unique(run.server_steps["closed_at"][rows])


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
    target = _target(run)
    reached = _reached(run, target)
    if target is not None and reached is not None and reached < run.end:
        text = f"{target.metric} {target.value:g} was reached at {reached} ms, the run went on to {run.end} ms"
        yield Check(name, 1, text)
        return
    limits = {
        "virtual_time": run.duration("stop", "virtual_time"),
        "target" if run.setting("stop", "target_accuracy") is None else "target_accuracy": reached,
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


@dataclass(frozen=True)
class _Target:
    metric: str
    value: float
    rising: bool


def _target(run: Folder) -> _Target | None:
    """What ends the run: `stop.target_accuracy`, or `stop.target`."""
    accuracy, told = run.setting("stop", "target_accuracy"), run.setting("stop", "target")
    if accuracy is not None:
        return _Target("accuracy", float(accuracy), rising=True)
    if not isinstance(told, Mapping):
        return None
    rising = "at_least" in told
    return _Target(str(told.get("metric", "accuracy")), float(told["at_least" if rising else "at_most"]), rising)


def _reached(run: Folder, target: _Target | None) -> int | None:
    table = run.evaluations
    if target is None or not len(table):
        return None
    wanted = (table["metric"] == target.metric) & (table["split"] == "test") & (table["trigger"] != "final")
    good = table["value"] >= target.value if target.rising else table["value"] <= target.value
    rows = np.flatnonzero(wanted & good)
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
        "time_to_target_ms": _reached(run, _target(run)),
    }
