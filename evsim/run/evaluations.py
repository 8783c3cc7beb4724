"""When the model is evaluated, and the rows that say what came out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, final

import numpy as np

from evsim.base.vocabulary import Rank

if TYPE_CHECKING:
    from collections.abc import Generator

    from evsim.scenario import EvaluationTable
    from evsim.timeline.clock import Clock
    from evsim.timeline.server import LiveServer
    from evsim.timeline.world import Rows
    from evsim.training.learning.learning import Learning


@final
class Evaluations:
    """Evaluates the model at time 0, on a grid of virtual time or every n steps, and once at the end.

    Args:
        table: the scenario's `[evaluation]`.
        measure: gives the metrics of the current version.
        server: tells the version.
        rows: where rows go.
        on_evaluation: called after each evaluation with its trigger and the metrics.
    """

    def __init__(
        self,
        table: EvaluationTable,
        measure: Callable[[], dict[str, float]],
        server: LiveServer,
        rows: Rows,
        on_evaluation: Callable[[str, Mapping[str, float]], None],
    ) -> None:
        self._table, self._measure, self._server, self._rows = table, measure, server, rows
        self._on_evaluation = on_evaluation
        self._known: tuple[int, dict[str, float]] = (-1, {})  # version and its metrics
        self._told_version = -1
        self._due_at = -1  # the latest instant that is evaluated for its steps
        self.latest: Mapping[str, float] = {}  # metrics of the newest evaluation

    def run(self, clock: Clock) -> Generator[Any, Any, None]:
        """The process: time 0, then the grid if there is one."""
        yield clock.at(0, Rank.EVALUATION)
        self._evaluate("start")
        every = self._table.every_ms
        while every is not None and not self._server.finished:
            yield clock.at(clock.now + every, Rank.EVALUATION)
            self._evaluate("grid")

    def after_step(self, clock: Clock) -> None:
        """A server step was applied: evaluate at the end of its instant if it is one of every n."""
        every = self._table.every_steps
        if every is not None and self._server.version % every == 0 and clock.now > self._due_at:
            self._due_at = clock.now  # several steps of one instant: only the last version lasts
            clock.call(clock.now, Rank.EVALUATION, lambda: self._evaluate("step"))

    def at_end(self) -> None:
        """The last version, unless it was evaluated already; lies off the grid, so it says so."""
        if self._told_version != self._server.version:
            self._evaluate("final")

    def _evaluate(self, trigger: str) -> None:
        metrics = self._metrics()
        self._write(trigger, metrics)
        self._told_version, self.latest = self._server.version, metrics
        self._on_evaluation(trigger, metrics)

    def _metrics(self) -> dict[str, float]:
        """Metrics of the current version, computed once per version."""
        version = self._server.version
        if self._known[0] != version:
            self._known = version, self._measure()
        return self._known[1]

    def _write(self, trigger: str, metrics: Mapping[str, float]) -> None:
        count = len(metrics)
        columns = {
            "at": [self._server.now] * count,
            "version": [self._server.version] * count,
            "trigger": [trigger] * count,
            "split": ["clients" if name.startswith("client_") else "test" for name in metrics],
            "metric": [name.removeprefix("client_") for name in metrics],
            "value": list(metrics.values()),
        }
        self._rows.append("evaluations", columns)


def metrics_of(learning: Learning, table: EvaluationTable) -> dict[str, float]:
    """Metrics of the current model as the table wants them."""
    metrics = learning.evaluate(table.batch_size)
    return metrics | _spread(learning.evaluate_clients(table.batch_size)) if table.per_client else metrics


def _spread(values: Mapping[str, Any]) -> dict[str, float]:
    """How a metric spreads over the clients that have data."""
    found: dict[str, float] = {}
    for name, each in values.items():
        known = each[~np.isnan(each)]
        worst, best = np.quantile(known, [0.1, 0.9])
        found[f"client_{name}_mean"], found[f"client_{name}_std"] = float(known.mean()), float(known.std())
        found[f"client_{name}_p10"], found[f"client_{name}_p90"] = float(worst), float(best)
    return found
