"""Arms compared: time to accuracy with intervals over seeds, paired by seed, honest about runs that never arrive.

A run that has not reached the target by its end is censored: its time is only known to be longer. Therefore

- `reached` counts runs; the median counts censored runs as longer than all others;
- the restricted mean is the mean of min(time, horizon), where every run was watched up to the common horizon
  (Royston and Parmar 2013); its interval is Student's t over seeds;
- the speed-up is the geometric mean over seeds of baseline time / arm time, its interval Student's t on the logarithms.
  If one side of a pair is censored there is a bound instead of a ratio; if both are, or the bounds of several pairs
  contradict, there is none. The difference of restricted means in pairs is always defined.

The headline is the first instant at which the mean of five evaluations is at the target.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from evsim.base.units import format_duration
from evsim.base.vocabulary import FloatArray
from evsim.results.arms import Arms
from evsim.results.metrics import device_time_shares

_MS_PER_HOUR = 3.6e6


def compare(arms: Arms) -> pd.DataFrame:
    """One row per arm; times in hours of virtual time.

    Columns: `runs`, `reached`, `median_h` (inf: fewer than half arrive), `mean_h`, `mean_low_h`, `mean_high_h`
    (restricted mean and its 95 % interval), `speedup`, `speedup_low`, `speedup_high`, `bound` ("", "at least",
    "at most", "unknown"), `saved_h`, `saved_low_h`, `saved_high_h` (paired difference of restricted times), `wasted`
    (share of device time).
    """
    times, horizon = arms.times(), arms.horizon_ms()
    rows = {}
    for arm, runs in arms.runs.items():
        mean, low, high = t_interval(_restricted(times[arm], horizon) / _MS_PER_HOUR)
        rows[arm] = {
            "runs": len(runs),
            "reached": sum(time is not None for time in times[arm].values()),
            "median_h": _median(times[arm]),
            "mean_h": mean,
            "mean_low_h": low,
            "mean_high_h": high,
            **_against(times[arms.baseline], times[arm], horizon, same=arm == arms.baseline),
            "wasted": float(np.mean([device_time_shares(run)["wasted"] for run in runs])),
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("arm")


def in_words(arms: Arms, table: pd.DataFrame) -> list[tuple[str, ...]]:
    """The table as people read it: headers first, then a row per arm."""
    horizon = format_duration(arms.horizon_ms())
    head = ("arm", "reached", "median", f"mean to {horizon} [95 %]", f"times sooner than {arms.baseline}", "wasted")
    rows = [
        (
            str(arm),
            f"{row.reached}/{row.runs}",
            format_duration(row.median_h * _MS_PER_HOUR) if math.isfinite(row.median_h) else "not reached",
            f"{row.mean_h:.2f} h {_brackets(row.mean_low_h, row.mean_high_h)}",
            "baseline" if arm == arms.baseline else _speedup_words(row),
            f"{row.wasted:.0%}",
        )
        for arm, row in _rows(table)
    ]
    return [head, *rows]


def _rows(table: pd.DataFrame) -> list[tuple[str, Any]]:
    return list(zip(table.index, table.itertuples(), strict=True))


def t_interval(values: FloatArray, level: float = 0.95) -> tuple[float, float, float]:
    """Mean and Student's t interval; NaN bounds for fewer than two values."""
    from scipy import stats

    mean = float(values.mean()) if len(values) else math.nan
    if len(values) < 2:  # noqa: PLR2004  one value has no spread
        return mean, math.nan, math.nan
    half = float(stats.t.ppf((1 + level) / 2, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values)))
    return mean, mean - half, mean + half


def speedup(base: Sequence[float | None], arm: Sequence[float | None], horizon: float) -> dict[str, Any]:
    """Paired speed-up over common seeds; a bound where pairs are censored.

    Args:
        base: times of the baseline, ms; None: censored at the horizon or later.
        arm: times of the arm in the same order.
        horizon: up to which every run was watched, ms.
    """
    sides = {(b is None, a is None) for b, a in zip(base, arm, strict=True)}
    only_base, only_arm, both = (True, False) in sides, (False, True) in sides, (True, True) in sides
    nothing = {"speedup": math.nan, "speedup_low": math.nan, "speedup_high": math.nan, "bound": "unknown"}
    if not base or both or (only_base and only_arm):
        return nothing
    logs = np.array([_log(b, horizon) - _log(a, horizon) for b, a in zip(base, arm, strict=True)])
    if only_base or only_arm:
        return nothing | {"speedup": math.exp(logs.mean()), "bound": "at least" if only_base else "at most"}
    mean, low, high = t_interval(logs)
    return {"speedup": math.exp(mean), "speedup_low": math.exp(low), "speedup_high": math.exp(high), "bound": ""}


def _log(time: float | None, horizon: float) -> float:
    return math.log(max(horizon if time is None else time, 1.0))  # the clock has no instant between 0 and 1 ms


def _against(
    base: Mapping[int, float | None], arm: Mapping[int, float | None], horizon: float, *, same: bool
) -> dict[str, Any]:
    seeds = [seed for seed in base if seed in arm]
    ours, theirs = {seed: arm[seed] for seed in seeds}, {seed: base[seed] for seed in seeds}
    saved = t_interval((_restricted(theirs, horizon) - _restricted(ours, horizon)) / _MS_PER_HOUR)
    found = speedup(list(theirs.values()), list(ours.values()), horizon)
    if same:
        found = {"speedup": 1.0, "speedup_low": 1.0, "speedup_high": 1.0, "bound": ""}
    return found | dict(zip(("saved_h", "saved_low_h", "saved_high_h"), saved, strict=True))


def _restricted(times: Mapping[int, float | None], horizon: float) -> FloatArray:
    return np.array([horizon if time is None else min(time, horizon) for time in times.values()], np.float64)


def _median(times: Mapping[int, float | None]) -> float:
    """Hours; a censored run is longer than all others."""
    values = sorted(math.inf if time is None else time / _MS_PER_HOUR for time in times.values())
    middle = values[(len(values) - 1) // 2], values[len(values) // 2]
    return sum(middle) / 2


def _brackets(low: float, high: float) -> str:
    return f"[{low:.2f}, {high:.2f}]" if math.isfinite(low) else "[one run: no interval]"


def _speedup_words(row: Any) -> str:
    if row.bound == "unknown":
        return "unknown: too many runs never arrived"
    if row.bound:
        return f"{row.bound} {row.speedup:.2f}"
    return f"{row.speedup:.2f} {_brackets(row.speedup_low, row.speedup_high)}"
