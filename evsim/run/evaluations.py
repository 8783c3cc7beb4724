"""When the model is evaluated, and the rows that say what came out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, final

import numpy as np

from evsim.base import rng
from evsim.base.vocabulary import FloatArray, IntArray, Rank

if TYPE_CHECKING:
    from collections.abc import Generator

    from evsim.run.feedback import Telling
    from evsim.scenario import EvaluationTable
    from evsim.timeline.clock import Clock
    from evsim.timeline.server import LiveServer
    from evsim.timeline.world import Rows
    from evsim.training.learning.learning import Learning


@final
@dataclass(frozen=True, eq=False)
class Judged:
    """The clients that are evaluated, each on its own samples.

    Attributes:
        clients: who, ascending.
        samples: how many samples of each.
        split: "held_out" if nobody trains on them, else "train".
    """

    clients: IntArray
    samples: IntArray
    split: str

    @classmethod
    def of(cls, learning: Learning, table: EvaluationTable, seed: int) -> Judged | None:
        """Those that the table asks for; None: no client by itself."""
        if not table.per_client:
            return None
        samples = learning.judged_samples
        having = np.flatnonzero(samples)
        if table.client_sample is not None and table.client_sample < len(having):
            draws = rng.hash64(rng.key(seed, "evaluate clients", "sample"), having)
            having = np.sort(having[np.argsort(draws, kind="stable")[: table.client_sample]])
        return cls(having, samples[having], "held_out" if learning.holds_out else "train")

    @property
    def told(self) -> dict[str, Any]:
        """For the manifest."""
        return {"clients": len(self.clients), "split": self.split}


@final
@dataclass(frozen=True, eq=False)
class Measures:
    """What gives the metrics of the current version.

    Attributes:
        test: on the test set.
        clients: on the samples of each client that is evaluated, (clients,) by metric.
        judged: these clients; None: none.
    """

    test: Callable[[], dict[str, float]]
    clients: Callable[[], dict[str, FloatArray]] = dict
    judged: Judged | None = None


@final
class Evaluations:
    """Evaluates the model at time 0, on a grid of virtual time or every n steps, and once at the end.

    Args:
        table: the scenario's `[evaluation]`.
        measures: give the metrics of the current version.
        server: tells the version.
        rows: where rows go.
        on_evaluation: called after each evaluation with its trigger and the metrics.
    """

    def __init__(
        self,
        table: EvaluationTable,
        measures: Measures,
        server: LiveServer,
        rows: Rows,
        on_evaluation: Callable[[str, Mapping[str, float]], None],
    ) -> None:
        self._table, self._measures, self._server, self._rows = table, measures, server, rows
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
        """Metrics of the current version, computed once per version; clients' own are written then."""
        version = self._server.version
        if self._known[0] != version:
            found, judged = self._measures.test(), self._measures.judged
            if judged is not None:
                each = self._measures.clients()
                found |= _spread(each)
                self._write_clients(judged, each)
            self._known = version, found
        return self._known[1]

    def _write_clients(self, judged: Judged, each: Mapping[str, FloatArray]) -> None:
        count, metrics = len(judged.clients), len(each)
        columns = {
            "at": np.full(count * metrics, self._server.now),
            "version": np.full(count * metrics, self._server.version),
            "client": np.repeat(judged.clients, metrics),
            "split": [judged.split] * (count * metrics),
            "metric": list(each) * count,
            "value": np.stack(list(each.values()), 1).reshape(-1),
            "samples": np.repeat(judged.samples, metrics),
        }
        self._rows.append("client_evaluations", columns)

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


def measures_of(learning: Learning, telling: Telling, table: EvaluationTable, judged: Judged | None) -> Measures:
    """Asks the learning side, by way of the journal of its answers."""
    test = partial(telling.metrics, partial(learning.evaluate, table.batch_size))
    if judged is None:
        return Measures(test)
    ask = partial(learning.evaluate_clients, table.batch_size, judged.clients)
    return Measures(test, partial(telling.client_metrics, judged.clients, ask), judged)


def _spread(values: Mapping[str, FloatArray]) -> dict[str, float]:
    """How a metric spreads over the clients of which it is known; NaN if it is of none."""
    found: dict[str, float] = {}
    for name, each in values.items():
        known = each[~np.isnan(each)]
        worst, best = np.quantile(known, [0.1, 0.9]) if len(known) else (np.nan, np.nan)
        mean, std = (known.mean(), known.std()) if len(known) else (np.nan, np.nan)
        found[f"client_{name}_mean"], found[f"client_{name}_std"] = float(mean), float(std)
        found[f"client_{name}_p10"], found[f"client_{name}_p90"] = float(worst), float(best)
    return found
