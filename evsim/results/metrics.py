"""What a run cost and how fairly, from its rows. Each metric says its definition and where it comes from.

Device time of a task is ``download_ms + compute_ms + upload_ms``: the time from dispatch to its end, or to the run's
end for a task still running. Frames are functions of a `Run`; nothing is cached or written.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import pandas as pd

from evsim.base.errors import Problem, RunFolderError, report, require
from evsim.base.metrics import Target
from evsim.base.vocabulary import FloatArray, IntArray
from evsim.results.curves import Crossing, crossing, version_at_crossing
from evsim.results.groups import by_group as by_group  # noqa: PLC0414  metrics.by_group is its public place
from evsim.results.run import Run

#: The headline crosses with the mean of so many evaluations: single ones and their spacing shift it.
RUNNING_MEAN = 5
#: Outcomes whose device time did the model good. A query's answer is used too: it informed a selection.
USED = ("aggregated", "answered")
#: Neither used nor wasted: the run ended first.
OPEN = ("in_flight",)
_PHASES = ["download_ms", "compute_ms", "upload_ms"]


def time_to(
    run: Run, metric: str = "accuracy", *, at_least: float | None = None, at_most: float | None = None
) -> dict[str, pd.Timedelta | None]:
    """Virtual time to a target, in the three ways people report it; None where it is never reached.

    ``first``: the first evaluation at the target or better (MLPerf, DAWNBench). ``interpolated``: on the line between
    it and the evaluation before; never later than ``first``. ``running_mean``: the first instant at which the mean of
    the newest five evaluations is at the target or better, which one lucky evaluation cannot fake (the headline).

    Raises:
        PolicyError: if the target is impossible, or is the worse way of a known metric.
    """
    found = partial(run.time_to, metric, at_least=at_least, at_most=at_most)
    return {
        "first": found(),
        "interpolated": found(interpolate=True),
        "running_mean": found(running_mean=RUNNING_MEAN),
    }


def time_to_accuracy(run: Run, target: float, *, metric: str = "accuracy") -> dict[str, pd.Timedelta | None]:
    """`time_to` in the metric's own direction."""
    run.curve(metric)  # a metric that is not there is told before its direction is asked for
    goal = Target.of(metric, target)
    return time_to(run, metric, at_least=goal.at_least, at_most=goal.at_most)


def headline(run: Run, target: Target, *, running_mean: int = RUNNING_MEAN) -> Crossing | None:
    """The crossing by the running mean; None: not reached, the run is censored at its end."""
    return crossing(run.curve(target.metric), target, running_mean)


def headline_ms(run: Run, target: float, *, metric: str = "accuracy", running_mean: int = RUNNING_MEAN) -> float | None:
    """Time to a target by the running mean, ms, in the metric's own direction; None: not reached."""
    found = headline(run, Target.of(metric, target), running_mean=running_mean)
    return None if found is None else float(found.at)


def accuracy_at(run: Run, at_ms: int, *, metric: str = "accuracy") -> float:
    """The newest value of a metric known at an instant; NaN before the first evaluation and after the run's end."""
    return run.curve(metric, final=True).value_at(at_ms) if at_ms <= run.end_ms else float("nan")


def rounds_to_accuracy(run: Run, target: float, *, metric: str = "accuracy", running_mean: int = 1) -> int | None:
    """Server steps applied when a metric first reaches a target: McMahan et al. 2017, table 2; None if never."""
    return version_at_crossing(run.curve(metric).smooth(running_mean), Target.of(metric, target))


def device_time(run: Run) -> pd.Series:
    """Device time by outcome, ms; sums to the time of all tasks (REFL, Abdelmoniem et al. 2023: resource usage)."""
    spent = run.tasks[_PHASES].sum(axis=1)
    total: pd.Series = spent.groupby(run.tasks["outcome"], observed=False).sum()
    return total.rename("device_ms").astype("int64")


def device_time_shares(run: Run) -> dict[str, float]:
    """Shares of device time used, wasted and open (still running at the end); they sum to 1, or are 0 without tasks."""
    spent = device_time(run)
    total = max(int(spent.sum()), 1)
    used, left = int(spent[list(USED)].sum()), int(spent[list(OPEN)].sum())
    return {"used": used / total, "wasted": (int(spent.sum()) - used - left) / total, "open": left / total}


def wasted_time(run: Run) -> pd.Series:
    """Device time that did the model no good, by cause, ms.

    Causes are outcomes: dropped, late, stale, surplus (over-commitment), round_failed, aborted, invalid. With
    `device_time` of the outcomes used and in flight it sums to the total.
    """
    return device_time(run).drop([*USED, *OPEN])


def traffic(run: Run) -> pd.DataFrame:
    """Bytes down and up by outcome, cut where a task was cut short."""
    sizes = run.tasks[["bytes_down", "bytes_up"]]
    return sizes.groupby(run.tasks["outcome"], observed=False).sum()


def jain(counts: IntArray | FloatArray) -> float:
    """Jain's fairness index, (sum x)^2 / (n sum x^2): 1/n (one has all) to 1 (equal); Jain, Chiu, Hawe 1984.

    NaN if there is nothing to share.
    """
    values = np.asarray(counts, np.float64)
    squares = len(values) * float((values**2).sum())
    return float(values.sum()) ** 2 / squares if squares else float("nan")


def gini(counts: IntArray | FloatArray) -> float:
    """The Gini coefficient: 0 (equal) to 1 - 1/n (one has all); Gini 1912. NaN if there is nothing to share."""
    values = np.sort(np.asarray(counts, np.float64))
    total = float(values.sum())
    if not total:
        return float("nan")
    ranks = np.arange(1, len(values) + 1)
    return float(2 * (ranks * values).sum() / (len(values) * total) - (len(values) + 1) / len(values))


def tasks_per_client(run: Run, *, outcome: str | None = None) -> IntArray:
    """Training tasks of each client of the population, those never asked included; of one outcome if given.

    Raises:
        PolicyError: if there is no such outcome.
    """
    tasks = run.tasks[run.tasks["kind"] == "train"]
    if outcome is not None:
        known = list(tasks["outcome"].cat.categories)
        require(outcome in known, f"outcome must be one of {', '.join(known)}", outcome=outcome)
        tasks = tasks[tasks["outcome"] == outcome]
    counts: IntArray = np.bincount(tasks["client"].to_numpy(), minlength=len(run.clients)).astype(np.int64)
    return counts


def participation(run: Run) -> pd.DataFrame:
    """How evenly clients take part, over **all** clients: those asked, and those whose updates were merged.

    Columns: `unique` clients with at least one, `share` of the population, `jain`, `gini`.
    """
    rows = {}
    for name, counts in (("asked", tasks_per_client(run)), ("merged", tasks_per_client(run, outcome="aggregated"))):
        unique = int((counts > 0).sum())
        rows[name] = {
            "unique": unique,
            "share": unique / max(len(counts), 1),
            "jain": jain(counts),
            "gini": gini(counts),
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def staleness(run: Run) -> pd.Series:
    """How many merged updates had which staleness (FedBuff, Nguyen et al. 2022), in server steps."""
    return run.tasks["staleness"].dropna().astype("int64").value_counts().sort_index()


def rates(run: Run) -> dict[str, float]:
    """Drop-out rate: share of ended training tasks whose device left first. Round-failure rate: share of failed rounds.

    NaN where there are none to count.
    """
    ended = run.tasks[(run.tasks["kind"] == "train") & (run.tasks["outcome"] != "in_flight")]
    failed = ~run.server_steps["applied"].to_numpy()
    return {
        "drop_out": float((ended["outcome"] == "dropped").mean()) if len(ended) else float("nan"),
        "round_failure": float(failed.mean()) if len(failed) else float("nan"),
    }


def concurrency(run: Run) -> pd.DataFrame:
    """Tasks running over time, as steps: from `at` (ms) on, `running` of them.

    Little's law holds exactly: the integral up to the run's end equals the device time of all tasks.
    """
    begins = run.tasks["dispatched_at"].to_numpy()
    ends = run.tasks["ended_at"].dropna().to_numpy(np.int64)
    at, inverse = np.unique(np.concatenate([begins, ends]), return_inverse=True)
    change = np.zeros(len(at), np.int64)
    np.add.at(change, inverse, np.repeat([1, -1], [len(begins), len(ends)]))
    return pd.DataFrame({"at": at, "running": np.cumsum(change)})


def mean_concurrency(run: Run) -> float:
    """Time average of running tasks over the run; 0 for a run without length."""
    steps = concurrency(run)
    widths = np.diff(np.append(steps["at"].to_numpy(), run.end_ms))
    return float((widths * steps["running"].to_numpy()).sum() / run.end_ms) if run.end_ms else 0.0


def final_value(run: Run, metric: str, k: int = RUNNING_MEAN) -> float:
    """Mean of the last k evaluations of the test set on their grid; of all if there are fewer."""
    return float(run.curve(metric).value[-k:].mean())


def spent_until(run: Run, at_ms: float) -> tuple[int, int]:
    """Updates that arrived at the server by an instant, and bytes down and up of all tasks that ended by then."""
    tasks = run.tasks[run.tasks["ended_at"].fillna(np.iinfo(np.int64).max) <= at_ms]
    arrived = (tasks["kind"] == "train") & ~tasks["outcome"].isin(["dropped", "aborted"]) & (tasks["bytes_up"] > 0)
    return int(arrived.sum()), int(tasks["bytes_down"].sum() + tasks["bytes_up"].sum())


def client_spread(run: Run, metric: str = "accuracy") -> pd.DataFrame:
    """Mean, standard deviation, 10th and 90th percentile of a metric over clients, by time (`at`, ms).

    q-FedAvg (Li et al. 2020) reports such spreads. Needs `evaluation.per_client = true`.

    Raises:
        RunFolderError: if the run was not evaluated per client.
    """
    rows = run.evaluations
    chosen = rows[(rows["split"] == "clients") & rows["metric"].astype(str).str.startswith(f"{metric}_")]
    if chosen.empty:
        hint = "set evaluation.per_client = true in the scenario"
        problem = Problem(f"{run.folder}: evaluations", f"no {metric!r} per client", "", hint)
        raise RunFolderError(report([problem]))
    wide = chosen.assign(metric=chosen["metric"].astype(str)).pivot_table(index="at", columns="metric", values="value")
    return wide.rename(columns=lambda name: name.removeprefix(f"{metric}_"))
