"""What the tasks of a run with batteries cost in energy and carbon."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from evsim.base.errors import RunFolderError, require
from evsim.base.units import MS_PER_DAY, MS_PER_HOUR

if TYPE_CHECKING:
    from collections.abc import Sequence

    from evsim.base.vocabulary import FloatArray
    from evsim.results.run import Run

_PHASES = (("download_ms", "radio_w"), ("compute_ms", "train_w"), ("upload_ms", "radio_w"))
_HOURS = 24
_J_PER_KWH = 3.6e6


def task_joules(run: Run) -> pd.Series[float]:
    """What each task took beside what its device takes to be on, J; in the order of `tasks`.

    Raises:
        RunFolderError: if the run had no battery.
    """
    watts = _watts(run)
    joules = sum(run.tasks[phase] * watts[power] for phase, power in _PHASES) / 1000
    return pd.Series(np.asarray(joules, np.float64), run.tasks.index, name="joules")


def run_joules(run: Run) -> dict[str, float]:
    """Of the whole run, J: what tasks took, and of that what was in vain; what devices took to be on; from chargers."""
    joules, used = task_joules(run), run.tasks["outcome"].isin(["aggregated", "answered", "in_flight"])
    return {
        "tasks_j": float(joules.sum()),
        "wasted_j": float(joules[~used.to_numpy()].sum()),
        "idle_j": float(run.energy["idle_j"].sum()),
        "charged_j": float(run.energy["charged_j"].sum()),
    }


def carbon(run: Run, grams_per_kwh: Sequence[float]) -> float:
    """Grams of CO2 of all tasks, by a table of what a kWh costs in each hour of the scenario's day.

    Each phase of a task is split where an hour ends: the sum over hours is exact.

    Raises:
        PolicyError: unless there are 24 numbers >= 0.
        RunFolderError: if the run had no battery.
    """
    table = np.asarray(grams_per_kwh, np.float64)
    require(table.shape == (_HOURS,), "a table has 24 numbers, one for each hour of the day", given=table.shape)
    require(bool((table >= 0).all()), "grams per kWh must be >= 0", given=float(table.min()))
    watts, begin, grams = _watts(run), run.tasks["dispatched_at"].to_numpy(np.float64) + run.start_ms, 0.0
    for phase, power in _PHASES:
        end = begin + run.tasks[phase].to_numpy(np.float64)
        weighted = _integral(end, table) - _integral(begin, table)  # ms x g / kWh
        grams += float(weighted.sum()) / 1000 * watts[power] / _J_PER_KWH
        begin = end
    return grams


def _integral(at: FloatArray, table: FloatArray) -> FloatArray:
    """Of the table over time, from midnight to each instant."""
    knots = np.arange(_HOURS + 1) * MS_PER_HOUR
    sums = np.concatenate([[0.0], np.cumsum(table) * MS_PER_HOUR])
    days, within = np.divmod(at, MS_PER_DAY)
    return np.asarray(days * sums[-1] + np.interp(within, knots, sums))


def _watts(run: Run) -> dict[str, Any]:
    found = [each for each in run.scenario_tables.get("actor", []) if each.get("kind") == "battery"]
    if not found:
        raise RunFolderError(f'{run.folder}: no battery among its actors; expected [[actor]] kind = "battery"')
    watts: dict[str, Any] = found[0]
    return watts
