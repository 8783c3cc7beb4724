"""Columns of `tasks` that are functions of names alone, added in bulk when rows are written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, final

import numpy as np

from evsim.algorithms.schedule import TaskNames

if TYPE_CHECKING:
    from evsim.algorithms.base import Schedule
    from evsim.base.vocabulary import IntArray
    from evsim.cost.pricing import Pricing
    from evsim.timeline.world import Rows


@final
class Named:
    """Rows on their way to the recorder: the jitter and the steps of each task follow from its client and number.

    Args:
        rows: where they go.
        pricing: draws the jitter.
        schedule: the mini-batches of a task.
        sizes: samples of a mini-batch of each client.
    """

    def __init__(self, rows: Rows, pricing: Pricing, schedule: Schedule, sizes: IntArray) -> None:
        self._rows, self._pricing, self._schedule, self._sizes = rows, pricing, schedule, sizes

    def append(self, table: str, columns: Mapping[str, Any]) -> None:
        """Take a batch of rows."""
        self._rows.append(table, {**columns, **self._more(columns)} if table == "tasks" else columns)

    def _more(self, tasks: Mapping[str, Any]) -> dict[str, Any]:
        compute, link = self._pricing.factors(tasks["client"], tasks["nth"])
        names = TaskNames(self._pricing.seed, tasks["client"], tasks["nth"])
        steps = self._schedule.n_steps(tasks["samples"], names, self._sizes[tasks["client"]])
        most = tasks["max_steps"]
        steps = np.where(most > 0, np.minimum(steps, most), steps)
        return {
            "steps": np.where(tasks["kind"] == "train", steps, 0),
            "compute_factor": compute,
            "link_factor": link,
        }
