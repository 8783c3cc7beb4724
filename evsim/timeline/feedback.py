"""Where a report becomes feedback: what became of tasks, on its way to the client manager and its selector.

An outcome is due as soon as it is decided. The selector hears of it before it is asked again, or at once if it is
`prompt`; one that is memoryless hears of it when rows are written.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, final

import numpy as np

from evsim.base.vocabulary import Rank
from evsim.selection.base import Outcomes

if TYPE_CHECKING:
    from evsim.base.vocabulary import FloatArray, IntArray
    from evsim.timeline.ledger import Ledger
    from evsim.timeline.port import ManagerPort

_UNKNOWN = float("nan")
_AT_ITS_END = -1


@final
class FeedbackDesk:
    """Outcomes that are decided and not told yet, in that order; single ones wait in a list: arrays of one are slow."""

    def __init__(self, ledger: Ledger, manager: ManagerPort) -> None:
        self._ledger, self._manager = ledger, manager
        self._prompt, self._memoryless = manager.selector.prompt, manager.selector.memoryless
        self._parts: list[tuple[IntArray, Any, FloatArray, IntArray]] = []  # tasks, outcomes, utilities, decided at
        self._singles: list[tuple[int, int, float, int]] = []  # what came after the parts

    def decided(self, tasks: IntArray, outcome: Any, utility: FloatArray | None = None, at: int = _AT_ITS_END) -> None:
        """What became of some tasks: an outcome for each or for all, and what the server knows of their utility.

        `at`: the instant of the server's decision; by default the instant at which each task's end became known.
        """
        if len(tasks) == 1:
            code = outcome if isinstance(outcome, int) else int(outcome[0])
            self._singles.append((int(tasks[0]), code, _UNKNOWN if utility is None else float(utility[0]), at))
        elif len(tasks):
            self._join()
            outcomes = np.broadcast_to(np.asarray(outcome, np.int8), tasks.shape)
            told = np.full(len(tasks), np.nan) if utility is None else utility
            self._parts.append((tasks, outcomes, told, np.full(len(tasks), at)))
        if self._prompt:
            self.tell()

    def before_selection(self) -> None:
        """Tell a selector that remembers."""
        if not self._memoryless:
            self.tell()

    def tell(self) -> None:
        """Tell everything."""
        self._join()
        if not self._parts:
            return
        tasks, outcome, utility, at = (np.concatenate(column) for column in zip(*self._parts, strict=True))
        self._parts = []
        if len(tasks) > 1 and not self._memoryless:
            order = self._order(tasks, at)
            tasks, outcome, utility = tasks[order], outcome[order], utility[order]
        column = self._ledger.column
        known = column("known_at", tasks)
        self._manager.register_feedback(
            Outcomes(
                clients=column("client", tasks),
                at=known,
                round=column("round", tasks),
                outcome=outcome,
                duration_ms=known - column("dispatched_at", tasks),
                samples=column("samples", tasks),
                utility=utility,
            )
        )

    def _join(self) -> None:
        if self._singles:
            tasks, outcomes, utility, at = zip(*self._singles, strict=True)
            self._parts.append((np.array(tasks), np.array(outcomes, np.int8), np.array(utility), np.array(at)))
            self._singles = []

    def _order(self, tasks: IntArray, at: IntArray) -> IntArray:
        """By instant, rank and tie, as if each thing had been told when it happened; the server's own order stands."""
        by_itself = at == _AT_ITS_END
        instant = np.where(by_itself, self._ledger.column("known_at", tasks), at)
        rank = np.where(by_itself, self._ledger.ranks(tasks), int(Rank.SERVER))
        return np.lexsort((np.where(by_itself, self._ledger.ties(tasks), 0), rank, instant))
