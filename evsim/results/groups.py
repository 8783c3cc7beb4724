"""Who learns: metrics of clients in groups, such as tenths of them by their speed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from evsim.base.errors import Problem, RunFolderError, report, require, suggest
from evsim.base.vocabulary import FloatArray, IntArray
from evsim.results.run import Run

By = str | Sequence[float] | NDArray[Any] | pd.Series


def by_group(run: Run, by: By, *, quantiles: int = 10, version: int | None = None) -> pd.DataFrame:
    """Metrics of clients by a property of theirs, from those with the least of it to those with the most.

    Clients are cut into groups of as many each, by quantiles of the property; clients with the same value are in one
    group, so there may be fewer groups. One row per group; columns: `low` and `high` (of the property), `clients`,
    `samples` (that they were evaluated on), and for each metric its mean over the group's clients and, as
    ``<metric>_gap``, how far that is from the mean over all clients. Clients of whom a metric is not known are left out
    of its means. Needs `evaluation.per_client = true`.

    Args:
        run: what was run.
        by: "speed" (samples per second), "availability" (share of time online), "data_size" (training samples),
            "participation" (updates merged so far), a column of `clients`, or a number for each client of the
            population.
        quantiles: how many groups are wanted.
        version: the model version; default: the last one evaluated.

    Raises:
        RunFolderError: if the run was not evaluated per client, not at this version, or has no such property.
    """
    require(quantiles >= 1, "quantiles must be >= 1", quantiles=quantiles)
    rows = run.client_evaluations
    if rows.empty:
        hint = "set evaluation.per_client = true in the scenario"
        raise _refused(run, "no client was evaluated by itself", "a run that was", hint)
    last = int(rows["version"].max()) if version is None else version
    rows = rows[rows["version"] == last]
    if rows.empty:
        known = ", ".join(map(str, run.client_evaluations["version"].unique()))
        raise _refused(run, f"no evaluation of version {version}", f"one of {known}")
    metrics = list(dict.fromkeys(rows["metric"].astype(str)))
    wide = rows.assign(metric=rows["metric"].astype(str)).pivot_table(
        index="client", columns="metric", values="value", dropna=False, observed=True
    )
    samples = rows.drop_duplicates("client").set_index("client")["samples"].reindex(wide.index)
    clients = wide.index.to_numpy()
    value = _values(run, by, last)[clients]
    return _grouped(wide[metrics], samples.to_numpy(), value, quantiles)


def _grouped(wide: pd.DataFrame, samples: IntArray, value: FloatArray, quantiles: int) -> pd.DataFrame:
    edges = np.unique(np.quantile(value, np.linspace(0, 1, quantiles + 1)[1:-1], method="inverted_cdf"))
    group = np.unique(np.searchsorted(edges, value, side="left"), return_inverse=True)[1]
    frame = pd.DataFrame({"value": value, "samples": samples}, index=wide.index)
    parts = frame.groupby(group)
    found = pd.DataFrame(
        {
            "low": parts["value"].min(),
            "high": parts["value"].max(),
            "clients": parts.size(),
            "samples": parts["samples"].sum(),
        }
    )
    for name in wide.columns:
        found[name] = wide[name].groupby(group).mean()
        found[f"{name}_gap"] = found[name] - wide[name].mean()
    return found.set_axis(np.arange(1, len(found) + 1)).rename_axis("group")


def _values(run: Run, by: By, version: int) -> FloatArray:
    """The property of every client of the population."""
    if not isinstance(by, str):
        given = np.asarray(by, np.float64)
        require(given.shape == (len(run.clients),), "by must have a number for each client", clients=len(run.clients))
        return given
    if by in PROPERTIES:
        return PROPERTIES[by](run, version)
    columns = [name for name in run.clients.columns if name != "client"]
    if by not in columns:
        raise _refused(run, f"no property {by!r}", "", suggest(by, [*PROPERTIES, *columns]))
    return run.clients[by].to_numpy(np.float64)


def _speed(run: Run, _version: int) -> FloatArray:
    with np.errstate(divide="ignore"):
        return np.asarray(1000.0 / run.clients["compute_ms_per_sample"].to_numpy(np.float64))


def _participation(run: Run, version: int) -> FloatArray:
    merged = run.tasks[(run.tasks["outcome"] == "aggregated") & (run.tasks["server_step"] <= version)]
    return np.bincount(merged["client"].to_numpy(), minlength=len(run.clients)).astype(np.float64)


def _column(name: str) -> Callable[[Run, int], FloatArray]:
    return lambda run, _version: run.clients[name].to_numpy(np.float64)


#: What clients can be grouped by, besides the columns of the table `clients`.
PROPERTIES: dict[str, Callable[[Run, int], FloatArray]] = {
    "speed": _speed,
    "availability": _column("online_share"),
    "data_size": _column("samples"),
    "participation": _participation,
}


def _refused(run: Run, given: str, expected: str, hint: str = "") -> RunFolderError:
    return RunFolderError(report([Problem(f"{run.folder}: client_evaluations", given, expected, hint)]))
