"""What a task takes: local steps, samples, bytes, and the three phases from its client's rates and its jitter."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from math import ceil

import numpy as np

from evsim.verify import networks
from evsim.verify.draws import passes
from evsim.verify.folder import Folder
from evsim.verify.table import NULL, Check, Flags, Ints, Table

_PLAIN = ("sgd", "adam", "fedprox", "fednova", "feddyn", "fedrep")  # client rules that do their steps and nothing else
_KNOWN = (*_PLAIN, "qfedavg", "scaffold", "ditto")
_PHASES = ("download", "compute", "upload")


def samples(run: Folder) -> Iterator[Check]:
    """A task works on its client's own samples, a query on at most so many of them."""
    own = run.clients["samples"][run.tasks["client"]]
    most = run.setting("selection", "max_samples")
    asked = own if most is None else np.minimum(own, most)
    is_query = run.tasks["kind"] == "query"
    sure = ~is_query if ":" in run.kind("selection") else None  # a query of a plug-in may ask for fewer
    yield run.tasks.equal("samples of a task", "samples", np.where(is_query, asked, own), sure)


def steps(run: Folder) -> Iterator[Check]:
    """The mini-batches of a task follow from the client rule, and from the deadline where work may be partial."""
    tasks, train = run.tasks, run.tasks["kind"] == "train"
    yield tasks.equal("queries take no step", "steps", 0, ~train)
    most = tasks["max_steps"]
    if not run.setting("client_rule", "partial_work", default=False) and run.setting("work") is None:
        yield tasks.equal("no partial work", "max_steps", NULL)
    if run.kind("client_rule") not in _KNOWN:
        yield Check("local steps", skipped="the client rule is not one of evsim's own")
        return
    scheduled = _scheduled(run)
    if scheduled is None:
        yield Check("local steps", skipped="how many passes a task makes is not drawn by one of evsim's own kinds")
        return
    good = (most == NULL) | (train & (most > 0) & (most < scheduled))
    yield tasks.holds("partial work is less than all", good, "max_steps", scheduled)
    yield tasks.equal("local steps", "steps", np.where(most > 0, most, scheduled), train)


def prices(run: Folder) -> Iterator[Check]:
    """Each phase is bytes over a rate, or samples times a rate, times the jitter's factor, in whole ms."""
    tasks, cost = run.tasks, run.manifest["cost"]
    for part, jitter in (("compute", "compute_jitter"), ("link", "network_jitter")):
        if jitter not in cost:
            yield Check(f"{part} factors", skipped=f"the manifest lacks cost.{jitter}")
        else:
            factor = tasks[f"{part}_factor"]
            good = factor == 1.0 if cost[jitter] == 0 else (factor > 0) & np.isfinite(factor)
            yield tasks.holds(f"{part} factors", good, f"{part}_factor", 1.0)
    down, up = whole_bytes(run)
    for phase, sizes in (("download", down), ("upload", up)):
        own = alone(run, phase, sizes)
        exact = networks.lasts(run, begins(run, phase), own)
        alike = run.kind("network") in ("", "independent", "shared")
        if networks.kind(run) in ("shared", "cut") and alike:
            yield from networks.plausible(run, phase, own + run.clients["latency_ms"][tasks["client"]])
            continue
        if exact is None:
            yield Check(
                f"{phase} prices", skipped=f"the network is {networks.kind(run)!r}: its rates are not in the folder"
            )
            continue
        if "latency_ms" in run.clients.columns:  # older folders know none
            exact = exact + run.clients["latency_ms"][tasks["client"]]
        yield tasks.near(f"{phase} prices", f"planned_{phase}_ms", exact)
    yield from _computation(run)


def _computation(run: Folder) -> Iterator[Check]:
    tasks, scale = run.tasks, run.manifest["cost"]["sample_scale"]
    factor = run.manifest["cost"]["training_factor"]
    rate = run.clients["compute_ms_per_sample"][tasks["client"]] * tasks["compute_factor"]
    if "compute_share" in run.clients.columns:  # older folders know no parts of models
        rate = np.where(tasks["kind"] == "query", rate, rate * run.clients["compute_share"][tasks["client"]])
    instant = tasks["planned_download_ms"] + tasks["planned_upload_ms"] == 0
    least = np.where(instant, 1, 0)  # a task takes at least 1 ms
    query = tasks["kind"] == "query"
    if run.kind("client_rule") in _KNOWN:
        trained, forward = _work(run, tasks["steps"])
        yield tasks.near("planned samples", "planned_samples", (trained + forward) * scale)
        exact = rate * (trained * factor + forward) * scale
        yield tasks.near("compute prices", "planned_compute_ms", np.maximum(np.rint(exact), least))
        return
    exact = rate * tasks["planned_samples"]
    yield tasks.near("compute prices of queries", "planned_compute_ms", np.maximum(np.rint(exact), least), query)
    dear = np.rint(exact * max(factor, 1)) + 1
    good = (tasks["planned_compute_ms"] >= np.floor(exact * min(factor, 1)) - 1) & (tasks["planned_compute_ms"] <= dear)
    yield tasks.holds("compute prices within bounds", good, "planned_compute_ms", dear, ~query)


def _work(run: Folder, done: Ints) -> tuple[Ints, Ints]:
    """Samples trained on and samples only looked at, per task, in so many steps."""
    own, query = run.tasks["samples"], run.tasks["kind"] == "query"
    size = _batch_size(run)
    batches, used = _pass(run)
    whole, rest = np.divmod(done, np.maximum(batches, 1))
    trained = whole * used + np.minimum(rest * size, used)
    if run.kind("client_rule") == "scaffold" and run.setting("client_rule", "option") == 1:
        trained = trained + own  # the gradient at the received model
    if run.kind("client_rule") == "ditto":
        trained = 2 * trained  # the global model and the client's own
    forward = own if run.kind("client_rule") == "qfedavg" else np.zeros_like(own)  # the loss of the received model
    return np.where(query, 0, trained), np.where(query, own, forward)


def _pass(run: Folder) -> tuple[Ints, Ints]:
    """Mini-batches of one pass over a client's samples, and how many of these are in them, per task."""
    own, size = run.tasks["samples"], _batch_size(run)
    if not run.setting("client_rule", "drop_last", default=False):
        return np.asarray(-(-own // size)), own
    full = own // size
    return np.where(full > 0, full, np.minimum(own, 1)), np.where(full > 0, full * size, own)


def _batch_size(run: Folder) -> Ints:
    """Samples of a full mini-batch, per task; only `work` makes them differ from the client rule's."""
    own = np.full(len(run.tasks["samples"]), int(run.setting("client_rule", "batch_size", default=1)), np.int64)
    if run.setting("work") is None or "batch_size" not in run.clients.columns:
        return own
    return run.clients["batch_size"][run.tasks["client"]]


def _scheduled(run: Folder) -> Ints | None:
    """Local steps of each task, were it not cut to fit a deadline; None where a plug-in draws them."""
    own, rule = run.tasks["samples"], run.scenario["client_rule"]
    if "steps" in rule:
        return np.where(own > 0, np.int64(rule["steps"]), 0)
    batches, epochs = _pass(run)[0], rule.get("epochs", 1)
    if isinstance(epochs, dict):
        if epochs["kind"] != "uniform":
            return None
        least, most = epochs["from"], epochs["to"]
        return batches * passes(run.scenario["seed"], run.tasks["client"], run.tasks["nth"], least, most)
    share = Fraction(epochs).limit_denominator(1_000_000)  # 0.1 means 1/10
    sizes, places = np.unique(batches, return_inverse=True)
    return np.array([max(ceil(share * each), min(each, 1)) for each in sizes.tolist()], np.int64)[places]


def whole_bytes(run: Folder) -> tuple[Ints, Ints]:
    """Bytes down and up of each task, were it not cut short."""
    cost, query = run.manifest["cost"], run.tasks["kind"] == "query"
    down, up = np.full(len(query), cost["bytes_down"]), np.full(len(query), cost["bytes_up"])
    if "bytes_down_of_groups" in cost:
        group = run.clients["group"][run.tasks["client"]]
        down = np.where(query, down, np.array(cost["bytes_down_of_groups"])[group])
        up = np.array(cost["bytes_up_of_groups"])[group]
    return down, np.where(query, cost.get("answer_bytes", 8), up)


def alone(run: Folder, phase: str, sizes: Ints) -> networks.Reals:
    """What each task's transfer would take at its device's own rate, ms."""
    rates = run.clients[f"{phase}_kbps"][run.tasks["client"]]
    return np.asarray(sizes * 8 / rates * run.tasks["link_factor"])


def begins(run: Folder, phase: str) -> Ints:
    """When each task's phase began, or would have, ms."""
    before = _PHASES[: _PHASES.index(phase)]
    return np.asarray(run.tasks["dispatched_at"] + sum(run.tasks[f"planned_{each}_ms"] for each in before), np.int64)


def phases(run: Folder) -> Iterator[Check]:
    """A task that was cut short has spent, received, computed and sent what it had time for, phase after phase."""
    tasks, left = run.tasks, lasted(run)
    planned = {phase: tasks[f"planned_{phase}_ms"] for phase in _PHASES}
    done = left >= sum(planned.values())
    down, up = whole_bytes(run)
    sizes = {"download": ("bytes_down", down), "compute": ("charged_samples", tasks["planned_samples"])}
    sizes["upload"] = "bytes_up", up
    for phase, (column, size) in sizes.items():
        spent = np.clip(left, 0, planned[phase])
        yield tasks.equal(f"{phase} time", f"{phase}_ms", spent)
        begun_next: Flags = done | (left > planned[phase])
        yield _part(run, phase, column, np.where(begun_next, -1, spent), size)
        left = left - spent


def _part(run: Folder, phase: str, column: str, spent: Ints, size: Ints) -> Check:
    """What a phase that was cut after `spent` ms (-1: it was not) had done; bytes where rates change to the byte."""
    tasks, name, whole = run.tasks, column.replace("_", " "), spent < 0
    if phase == "compute" or networks.kind(run) == "independent":
        part = size * spent // np.maximum(tasks[f"planned_{phase}_ms"], 1)
        return tasks.equal(name, column, np.where(whole, size, part))
    share = networks.done(run, begins(run, phase), alone(run, phase, size), np.maximum(spent, 0))
    if share is None:
        good = np.where(whole, tasks[column] == size, (tasks[column] >= 0) & (tasks[column] <= size))
        return tasks.holds(f"{name} within bounds", good, column, size)
    part = np.where(whole, size, np.floor(size * np.clip(share, 0, 1)))
    return tasks.holds(name, np.abs(tasks[column] - part) <= np.where(whole, 0, 1), column, part)


def lasted(run: Folder) -> Ints:
    """From dispatch to a task's end, or to the run's, ms."""
    ended = run.tasks["ended_at"]
    return np.where(ended == NULL, run.end, ended) - run.tasks["dispatched_at"]


def planned_end(tasks: Table) -> Ints:
    """When each task's report would arrive if nothing went wrong, ms."""
    total = sum(tasks[f"planned_{phase}_ms"] for phase in _PHASES)
    return np.asarray(tasks["dispatched_at"] + total, np.int64)
