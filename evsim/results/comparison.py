"""Arms compared: time to a target with intervals over seeds, paired by seed, honest about runs that never arrive.

A run that has not reached the target by its end is censored: its time is only known to be longer. Therefore

- `reached` counts runs; the median counts censored runs as longer than all others;
- the restricted mean is the geometric mean of min(time, horizon), where every run was watched up to the common horizon
  (restricted as in Royston and Parmar 2013); its interval is Student's t over seeds on the logarithms, so it never
  reaches below 0 and is the same in every unit;
- the speed-up is the geometric mean over seeds of baseline time / arm time, its interval Student's t on the logarithms.
  If one side of a pair is censored there is a bound instead of a ratio; if both are, or the bounds of several pairs
  contradict, there is none. The difference of restricted times in pairs is always defined.

Runs that are the same row by row compare as exactly 1, with nothing to doubt. Crossings are known up to the spacing of
evaluations only: where all pairs have the same ratio, its interval is what that rounding leaves open.

The headline is the first instant at which the mean of five evaluations is at the target.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from evsim.base.metrics import as_text
from evsim.base.units import format_bytes, format_duration
from evsim.base.vocabulary import FloatArray
from evsim.results.arms import Arms
from evsim.results.comparable import seed_of
from evsim.results.curves import Crossing
from evsim.results.intervals import log_interval, t_interval
from evsim.results.metrics import device_time_shares, final_value, spent_until
from evsim.results.run import Run

IDENTICAL, EQUAL_ON_GRID = "identical runs", "equal on the grid"
_MS_PER_HOUR = 3.6e6
_ONE = {"speedup": 1.0, "speedup_low": 1.0, "speedup_high": 1.0, "bound": ""}
_UNKNOWN = {"speedup": math.nan, "speedup_low": math.nan, "speedup_high": math.nan, "bound": "unknown"}


def compare(arms: Arms) -> pd.DataFrame:
    """One row per arm; times in hours of virtual time.

    Columns: `runs`, `reached`, `median_h` (inf: fewer than half arrive), `mean_h`, `mean_low_h`, `mean_high_h`
    (restricted geometric mean and its 95 % interval), `pairs` (seeds in common with the baseline), `speedup`,
    `speedup_low`, `speedup_high`, `bound` ("", "at least", "at most", "unknown"), `same` ("", "identical runs", "equal
    on the grid"), `saved_h`, `saved_low_h`, `saved_high_h` (paired difference of restricted times), `wasted` (share of
    device time), `final` (the metric: mean over runs of their last evaluations, as many as the running mean has),
    `final_difference`, `final_difference_low`, `final_difference_high` (to the baseline in pairs of one seed, 95 %),
    `uploads` and `traffic_bytes` (until the target, means over runs: updates that arrived, and bytes down and up of all
    tasks that ended; counted up to the horizon where a run never arrived, which `spent_bound` "at least" says).
    """
    times, horizon = arms.times(), arms.horizon_ms()
    rows = {}
    for arm, runs in arms.runs.items():
        mean, low, high = _mean(list(arms.crossings[arm].values()), horizon)
        rows[arm] = {
            "runs": len(runs),
            "reached": sum(time is not None for time in times[arm].values()),
            "median_h": _median(times[arm]),
            "mean_h": mean,
            "mean_low_h": low,
            "mean_high_h": high,
            **_against(arms, arm, horizon),
            "wasted": float(np.mean([device_time_shares(run)["wasted"] for run in runs])),
            **_final(arms, arm),
            **_spent(arms, arm, horizon),
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("arm")


def in_words(arms: Arms, table: pd.DataFrame) -> list[tuple[str, ...]]:
    """The table as people read it: headers first, then a row per arm."""
    mean = f"geometric mean up to {format_duration(arms.horizon_ms())} [95 %]"
    unit = _unit(table["mean_h"].max())
    sooner, final = f"times sooner than {arms.baseline}", f"final {arms.metric} (difference)"
    head = ("arm", "reached", "median", mean, sooner, "wasted", final, "uploads", "bytes")
    rows = [
        (
            str(arm),
            f"{row.reached}/{row.runs}",
            format_duration(row.median_h * _MS_PER_HOUR) if math.isfinite(row.median_h) else "not reached",
            _mean_words(row, unit),
            "baseline" if arm == arms.baseline else _speedup_words(row),
            f"{row.wasted:.0%}",
            _final_words(row, arms, str(arm)),
            f"{_bound(row)}{row.uploads:,.0f}",
            f"{_bound(row)}{format_bytes(row.traffic_bytes)}",
        )
        for arm, row in _rows(table)
    ]
    return [head, *rows]


def executors_in_words(executors: Sequence[Mapping[str, Any]]) -> list[str]:
    """What trained which arms of a study, a line each; none where the scenarios say it themselves."""
    return [f"{_executor(each['executor'], each.get('why', ''))}: {', '.join(each['arms'])}" for each in executors]


def _executor(table: Mapping[str, Any], why: str) -> str:
    said = [f"{key} = {value}" for key, value in table.items() if key != "kind"]
    return f"{table.get('kind')} ({', '.join([*said, *([why] if why else [])])})"


def _rows(table: pd.DataFrame) -> list[tuple[str, Any]]:
    return list(zip(table.index, table.itertuples(), strict=True))


def speedup(base: Sequence[float | None], arm: Sequence[float | None], horizon: float) -> dict[str, Any]:
    """Paired speed-up over common seeds; a bound where pairs are censored.

    Args:
        base: times of the baseline, ms; None: censored at the horizon or later.
        arm: times of the arm in the same order.
        horizon: up to which every run was watched, ms.
    """
    sides = {(b is None, a is None) for b, a in zip(base, arm, strict=True)}
    only_base, only_arm, both = (True, False) in sides, (False, True) in sides, (True, True) in sides
    if not base or both or (only_base and only_arm) or any(time == 0 for time in (*base, *arm)):
        return dict(_UNKNOWN)
    logs = np.array([_log(b, horizon) - _log(a, horizon) for b, a in zip(base, arm, strict=True)])
    if only_base or only_arm:
        return _UNKNOWN | {"speedup": math.exp(logs.mean()), "bound": "at least" if only_base else "at most"}
    mean, low, high = log_interval(np.exp(logs))
    return {"speedup": mean, "speedup_low": low, "speedup_high": high, "bound": ""}


def identical(run: Run, other: Run) -> bool:
    """Whether two runs are the same row by row: the same timeline, the same evaluations."""
    hashes = [each.manifest.get("timeline_hash") for each in (run, other)]
    if hashes[0] != hashes[1]:
        return False
    same_tasks = hashes[0] is not None or run.tasks.equals(other.tasks)
    return same_tasks and run.evaluations.equals(other.evaluations)


def _log(time: float | None, horizon: float) -> float:
    return math.log(horizon if time is None else time)


def _against(arms: Arms, arm: str, horizon: float) -> dict[str, Any]:
    """An arm against the baseline, in pairs of one seed."""
    base, own = arms.crossings[arms.baseline], arms.crossings[arm]
    seeds = [seed for seed in base if seed in own]
    pairs = [(base[seed], own[seed]) for seed in seeds]
    theirs, ours = ({seed: _at(side[seed]) for seed in seeds} for side in (base, own))
    saved = t_interval((_restricted(theirs, horizon) - _restricted(ours, horizon)) / _MS_PER_HOUR)
    found, same = _ratio(pairs, horizon, twins(arms, arm, arms.baseline, seeds))
    return {
        "pairs": len(seeds),
        **found,
        "same": "" if arm == arms.baseline else same,
        **dict(zip(("saved_h", "saved_low_h", "saved_high_h"), saved, strict=True)),
    }


def twins(arms: Arms, arm: str, other: str, seeds: Sequence[int]) -> list[bool]:
    """Of which seeds two arms have identical runs."""
    runs, others = ({seed_of(run): run for run in arms.runs[name]} for name in (arm, other))
    return [runs[seed] is others[seed] or identical(runs[seed], others[seed]) for seed in seeds]


def _ratio(
    pairs: Sequence[tuple[Crossing | None, Crossing | None]], horizon: float, same: Sequence[bool]
) -> tuple[dict[str, Any], str]:
    """The speed-up, and in which way the arms are the same; identical runs count as 1 even if censored."""
    if pairs and all(same):
        return dict(_ONE), IDENTICAL
    base = [horizon if twin else _at(b) for (b, _), twin in zip(pairs, same, strict=True)]
    arm = [horizon if twin else _at(a) for (_, a), twin in zip(pairs, same, strict=True)]
    found = speedup(base, arm, horizon)
    if found["bound"] or found["speedup_low"] < found["speedup_high"] or len(pairs) < 2:  # noqa: PLR2004  a pair of seeds
        equal = not found["bound"] and base == arm
        return found, EQUAL_ON_GRID if equal else ""
    return found | _rounding(pairs), EQUAL_ON_GRID if base == arm else ""


def _rounding(pairs: Sequence[tuple[Crossing | None, Crossing | None]]) -> dict[str, float]:
    """What the spacing of evaluations leaves open of a ratio: each crossing lies after the evaluation before it."""
    known = [(b, a) for b, a in pairs if b is not None and a is not None]
    low = np.mean([math.log(max(b.after, 1)) - math.log(a.at) for b, a in known])
    high = np.mean([math.log(b.at) - math.log(max(a.after, 1)) for b, a in known])
    return {"speedup_low": math.exp(low), "speedup_high": math.exp(high)}


def _at(crossing: Crossing | None) -> float | None:
    return None if crossing is None else float(crossing.at)


def _mean(crossings: Sequence[Crossing | None], horizon: float) -> tuple[float, float, float]:
    """Restricted geometric mean and its interval, hours; of equal times the interval is their rounding to the grid.

    Where nobody arrives the mean is the horizon and has no interval: that all are alike is no knowledge.
    """
    times = np.array([horizon if each is None else max(min(each.at, horizon), 1.0) for each in crossings])
    mean, low, high = log_interval(times / _MS_PER_HOUR)
    known = [each for each in crossings if each is not None]
    if not known:
        return mean, math.nan, math.nan
    if len(known) == len(times) > 1 and np.ptp(times) == 0:
        after = np.log(np.maximum([each.after for each in known], 1.0)).mean()
        return mean, math.exp(after) / _MS_PER_HOUR, mean
    return mean, low, high


def _unit(hours: float) -> tuple[float, str]:
    """The largest unit of which a time has at least one: its length in hours, and its name."""
    units = ((1.0, "h"), (1 / 60, "min"), (1 / 3600, "s"))
    return next((each for each in units if hours >= each[0]), units[-1])


def _mean_words(row: Any, unit: tuple[float, str]) -> str:
    hours, name = unit
    mean = f"{row.mean_h / hours:.2f} {name}"
    if not row.reached:
        return f"{mean} [none arrived: no interval]"
    return f"{mean} {_brackets(row.mean_low_h / hours, row.mean_high_h / hours)}"


def _restricted(times: Mapping[int, float | None], horizon: float) -> FloatArray:
    return np.array([horizon if time is None else min(time, horizon) for time in times.values()], np.float64)


def _final(arms: Arms, arm: str) -> dict[str, float]:
    """The metric at the end, and its difference to the baseline's in pairs of one seed."""
    base, own = (
        {seed_of(run): final_value(run, arms.metric, arms.running_mean) for run in arms.runs[name]}
        for name in (arms.baseline, arm)
    )
    pairs = np.array([own[seed] - base[seed] for seed in base if seed in own])
    names = ("final_difference", "final_difference_low", "final_difference_high")
    found = t_interval(pairs) if len(pairs) else (math.nan, math.nan, math.nan)
    return {"final": float(np.mean(list(own.values()))), **dict(zip(names, found, strict=True))}


def _spent(arms: Arms, arm: str, horizon: float) -> dict[str, Any]:
    """Uploads and bytes until the target, or until the horizon where a run never arrived."""
    found = {seed: _at(each) for seed, each in arms.crossings[arm].items()}
    until = {seed: horizon if at is None else at for seed, at in found.items()}
    counts = [spent_until(run, until[seed_of(run)]) for run in arms.runs[arm]]
    uploads, traffic = np.mean(counts, axis=0).tolist()
    never = any(each is None for each in found.values())
    return {"uploads": uploads, "traffic_bytes": traffic, "spent_bound": "at least" if never else ""}


def _bound(row: Any) -> str:
    return f"{row.spent_bound} " if row.spent_bound else ""


def _final_words(row: Any, arms: Arms, arm: str) -> str:
    words = as_text(arms.metric, row.final)
    if arm == arms.baseline or not math.isfinite(row.final_difference):
        return words
    if row.same == IDENTICAL:
        return f"{words} (0)"
    low, high = row.final_difference_low, row.final_difference_high
    between = f" [{low:+.3g}, {high:+.3g}]" if math.isfinite(low) else ""
    return f"{words} ({row.final_difference:+.3g}{between})"


def _median(times: Mapping[int, float | None]) -> float:
    """Hours; a censored run is longer than all others."""
    values = sorted(math.inf if time is None else time / _MS_PER_HOUR for time in times.values())
    middle = values[(len(values) - 1) // 2], values[len(values) // 2]
    return sum(middle) / 2


def _brackets(low: float, high: float) -> str:
    return f"[{low:.2f}, {high:.2f}]" if math.isfinite(low) else "[one run: no interval]"


def _speedup_words(row: Any) -> str:
    if row.same == IDENTICAL:
        return f"1 ({IDENTICAL})"
    if row.bound == "unknown":
        return f"unknown: {_why_unknown(row)}"
    if row.bound:
        return f"{row.bound} {row.speedup:.2f}"
    words = f"{row.speedup:.2f} {_brackets(row.speedup_low, row.speedup_high)}"
    return f"{words} ({row.same})" if row.same else words


def _why_unknown(row: Any) -> str:
    if not row.pairs:
        return "no seed in common"
    return "runs arrived at once or never" if row.reached == row.runs else "too many runs never arrived"
