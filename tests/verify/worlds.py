"""Small worlds in which everything happens that can: phones that come and go, cohorts that fail, buffers that wait."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

from evsim import Scenario, Simulation

BASE: dict[str, Any] = {
    "name": "small",
    "precision": "float64",
    "data": {"dataset": {"kind": "synthetic", "most_samples": 150}, "partition": {"kind": "natural"}},
    "model": {"kind": "softmax"},
    "executor": {"kind": "serial"},
    "evaluation": {"every": "1h"},
    "start": "20:00",
    "stop": {"virtual_time": "6h"},
    "population": {"clients": 60, "availability": {"days": 1, "session_mean_s": 2400.0}, "speed": {}},
    "cost": {"model_bytes": 5_000_000, "sample_scale": 8.0},
    "client_rule": {"kind": "sgd", "learning_rate": 0.1, "batch_size": 20, "epochs": 2},
    "record": {"sessions": True},
}
ROUNDS = {
    "open end": {},
    "deadline": {"reporting_deadline": "6min"},
    "short deadline": {"reporting_deadline": "2min", "minimum_reports": 4},
    "abort": {"reporting_deadline": "6min", "on_close": "abort", "over_commitment": 1.5},
    "abort without deadline": {"on_close": "abort", "over_commitment": 1.5},
    "keep": {"reporting_deadline": "3min", "late_reports": "keep", "max_staleness": 2, "over_commitment": 1.3},
    "keep all": {"reporting_deadline": "3min", "late_reports": "keep"},
    "pacing": {"pacing": {"kind": "quantile"}, "over_commitment": 1.3},
}
BUFFERS = {
    "plain": {"buffer_size": 4, "task_timeout": "none"},
    "timeout": {"buffer_size": 4, "task_timeout": "5min"},
    "one by one": {"buffer_size": 1, "max_staleness": 3, "task_timeout": "20min"},
    "stale": {"buffer_size": 3, "max_staleness": 1},  # the default timeout
    "period": {"buffer_size": 6, "period": "4min", "max_staleness": 2, "task_timeout": "8min"},
}
SELECTORS = {
    "uniform": {"kind": "uniform"},
    "by samples": {"kind": "by_samples"},
    "oort": {"kind": "oort"},
    "asking": {"kind": "power_of_choice", "d": 14, "max_samples": 100, "query_timeout": "40s"},
    "last loss": {"kind": "power_of_choice_stale", "d": 20},
    "asking without end": {"kind": "power_of_choice", "d": 14, "query_timeout": "none"},
}
OPTIONS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "at completion": {"cost": {"availability_check": "at_completion"}},
    "partial": {"client_rule": {"partial_work": True}},
    "drawn passes": {"client_rule": {"epochs": {"kind": "uniform", "from": 1, "to": 4}, "partial_work": True}},
}


def aggregations() -> dict[str, dict[str, Any]]:
    """Every way to organize the server's time."""
    rounds = {"kind": "synchronous", "cohort_goal": 8, "minimum_cohort": 5}
    buffers = {"kind": "buffered", "concurrency": 12}
    return {f"rounds, {name}": rounds | own for name, own in ROUNDS.items()} | {
        f"buffers, {name}": buffers | own for name, own in BUFFERS.items()
    }


def cases() -> dict[str, dict[str, Any]]:
    """Aggregations times selectors times options, as what they change in the base."""
    found = {}
    for (how, aggregation), (whom, selection), (what, option) in product(
        aggregations().items(), SELECTORS.items(), OPTIONS.items()
    ):
        chosen = {key: value for key, value in selection.items() if value is not None}
        found[f"{how}; {whom}; {what}"] = {"aggregation": aggregation, "selection": chosen, **option}
    return found


def run(folder: Path, *changes: dict[str, Any]) -> Path:
    """Run the base with some changes."""
    table = BASE
    for change in changes:
        table = merged(table, change)
    return Simulation(Scenario.from_dict(table), device="cpu").run(folder)


def merged(table: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    """One table over another; of a policy of another kind nothing is left."""
    found = dict(table)
    for key, value in change.items():
        old = found.get(key)
        kept = (
            isinstance(value, dict) and isinstance(old, dict) and value.get("kind", old.get("kind")) == old.get("kind")
        )
        found[key] = merged(old, value) if kept else value
    return found
