"""When a run ends, and why: the `[stop]` table, asked after every step and every evaluation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, final

if TYPE_CHECKING:
    from evsim.scenario import Stop

_TWO = 2


@final
class Stops:
    """Watches for the end.

    Args:
        stop: the table.
        end: ends the run with a reason.
        diverged: whether the current model is not finite.
    """

    def __init__(self, stop: Stop, end: Callable[[str], None], diverged: Callable[[], bool]) -> None:
        self._stop, self._end, self._diverged = stop, end, diverged
        self._closed, self._failed_in_a_row, self._invalid_in_a_row = 0, 0, 0
        self.diverged_at: int | None = None  # the first version that is not finite

    def after_step(self, row: Mapping[str, Any]) -> None:
        """A round or buffer is closed: its row."""
        stop, applied, version = self._stop, row["applied"], row["version"]
        self._closed += 1
        self._failed_in_a_row = 0 if applied else self._failed_in_a_row + 1
        self._look_for_divergence(row)
        if stop.server_steps is not None and version >= stop.server_steps:
            self._end("server_steps")
        if stop.rounds is not None and self._closed >= stop.rounds:
            self._end("rounds")
        if self._failed_in_a_row >= stop.failed_rounds:
            self._end("failed_rounds")

    def _look_for_divergence(self, row: Mapping[str, Any]) -> None:
        """The model is not finite any more, or no update is: two of them, since one may be one client's own fault."""
        self._invalid_in_a_row = self._invalid_in_a_row + row["reports"] if row["reason"] == "invalid" else 0
        if row["applied"] and self.diverged_at is None and self._diverged():
            self.diverged_at = row["version"]
        if self._stop.on_divergence and (self.diverged_at is not None or self._invalid_in_a_row >= _TWO):
            self._end("diverged")

    def after_evaluation(self, metrics: Mapping[str, float]) -> None:
        """The model was evaluated."""
        goal = self._stop.goal
        if goal is not None and goal.reached(metrics[goal.metric]):
            self._end("target" if self._stop.target_accuracy is None else "target_accuracy")
