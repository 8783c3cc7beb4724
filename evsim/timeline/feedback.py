"""Feedback that the selector has not heard yet: decided when a task is, told before the next selection that cares."""

from __future__ import annotations

from typing import Any, final

import numpy as np

from evsim.base.vocabulary import FloatArray, IntArray
from evsim.selection.base import Outcomes
from evsim.timeline.ledger import TaskBook


@final
class Untold:
    """Tasks whose outcome is decided, in that order; single ones wait in a list, since arrays of one are slow."""

    def __init__(self, book: TaskBook) -> None:
        self._book = book
        self._parts: list[tuple[IntArray, Any, FloatArray]] = []  # tasks, outcomes, utilities
        self._singles: list[tuple[int, int, float]] = []  # what came after the parts

    def __bool__(self) -> bool:
        return bool(self._parts or self._singles)

    def add(self, tasks: IntArray, outcome: Any, utility: FloatArray | None) -> None:
        """Some tasks: an outcome for each or for all, and what the server knows of their utility."""
        self._join()
        outcomes = np.broadcast_to(np.asarray(outcome, np.int8), tasks.shape)
        self._parts.append((tasks, outcomes, np.full(len(tasks), np.nan) if utility is None else utility))

    def add_one(self, task: int, outcome: int, utility: float = float("nan")) -> None:
        """One task."""
        self._singles.append((task, outcome, utility))

    def take(self) -> Outcomes:
        """Everything, as the selector is told; nothing is left."""
        self._join()
        tasks, outcome, utility = (np.concatenate(column) for column in zip(*self._parts, strict=True))
        self._parts = []
        column = self._book.column
        known = column("known_at", tasks)
        return Outcomes(
            clients=column("client", tasks),
            at=known,
            round=column("round", tasks),
            outcome=outcome,
            duration_ms=known - column("dispatched_at", tasks),
            samples=column("samples", tasks),
            utility=utility,
        )

    def _join(self) -> None:
        if self._singles:
            tasks, outcomes, utility = zip(*self._singles, strict=True)
            self._parts.append((np.array(tasks), np.array(outcomes, np.int8), np.array(utility)))
            self._singles = []
