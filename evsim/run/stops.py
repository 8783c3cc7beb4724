"""When a run ends, and why: the `[stop]` table, asked after every step and every evaluation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from evsim.scenario import Stop


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
        self._closed, self._failed_in_a_row = 0, 0
        self.diverged_at: int | None = None  # the first version that is not finite

    def after_step(self, *, applied: bool, version: int) -> None:
        """A round or buffer is closed; the version after it."""
        stop = self._stop
        self._closed += 1
        self._failed_in_a_row = 0 if applied else self._failed_in_a_row + 1
        if applied and self.diverged_at is None and self._diverged():
            self.diverged_at = version
            if stop.on_divergence:
                self._end("diverged")
        if stop.server_steps is not None and version >= stop.server_steps:
            self._end("server_steps")
        if stop.rounds is not None and self._closed >= stop.rounds:
            self._end("rounds")
        if self._failed_in_a_row >= stop.failed_rounds:
            self._end("failed_rounds")

    def after_evaluation(self, metrics: Mapping[str, float]) -> None:
        """The model was evaluated."""
        target = self._stop.target_accuracy
        if target is not None and metrics["accuracy"] >= target:
            self._end("target_accuracy")
