"""One line now and then that says where a run stands: for logs of batch jobs."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any, final

from evsim.base.errors import require
from evsim.base.units import format_duration

if TYPE_CHECKING:
    from evsim.timeline.audience import RunFacts


@final
class Progress:
    """Prints to standard error: the virtual clock, rounds, server steps, the last metrics.

    Args:
        seconds: of real time between two lines.
    """

    def __init__(self, seconds: float = 10.0) -> None:
        require(seconds >= 0, "seconds must be >= 0", seconds=seconds)
        self._seconds, self._told_at = seconds, 0.0
        self._name, self._metrics = "", ""
        self._horizon = ""

    def started(self, run: RunFacts) -> None:
        """Who runs."""
        self._name, self._told_at = run.name, time.perf_counter()
        self._horizon = "" if run.horizon_ms is None else f" of {format_duration(run.horizon_ms)}"
        self._say(f"{run.n_clients:,} clients, seed {run.seed}")

    def round_closed(self, at: int, row: dict[str, Any]) -> None:
        """A line, if the last one is long ago."""
        now = time.perf_counter()
        if now - self._told_at >= self._seconds:
            self._told_at = now
            steps = f"round {row['round']}, {row['version']} server steps"
            self._say(f"{format_duration(at)}{self._horizon}: {steps}{self._metrics}")

    def evaluated(self, at: int, version: int, metrics: dict[str, float]) -> None:
        """Remember the metrics for the next line."""
        self._metrics = "".join(f", {name} {value:.4g}" for name, value in metrics.items())

    def ended(self, at: int, reason: str) -> None:
        """The last line."""
        self._say(f"{format_duration(at)}: ended, {reason}{self._metrics}")

    def _say(self, words: str) -> None:
        print(f"{self._name}: {words}", file=sys.stderr, flush=True)  # noqa: T201  it is there to print
