"""Where a report becomes feedback: what became of tasks, on its way to the client manager and its selector.

An outcome is due as soon as it is decided. The selector hears of it before it is asked again, or at once if it is
`prompt`; one that is memoryless hears of it when rows are written. When that is changes nothing of what others hear.
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
_Facts = tuple[Any, ...]  # columns
_AT_ITS_END = -1
_MANY = 512  # as many are joined in a third of the time, each, that it takes for a hundred thousand


@final
class FeedbackDesk:
    """Outcomes that are decided and not told yet, in that order; single ones wait in a list: arrays of one are slow."""

    def __init__(self, ledger: Ledger, manager: ManagerPort) -> None:
        self._ledger, self._manager = ledger, manager
        self._prompt, self._memoryless = manager.selector.prompt, manager.selector.memoryless
        self._parts: list[tuple[IntArray, Any, FloatArray, IntArray]] = []  # tasks, outcomes, utilities, decided at
        self._singles: list[tuple[int, int, float, int]] = []  # what came after the parts
        self._facts: list[_Facts] = []  # what came before them, of tasks whose rows may have left memory

    def decided(self, tasks: IntArray, outcome: Any, utility: FloatArray | None = None, at: int = _AT_ITS_END) -> None:
        """What became of some tasks: an outcome for each or for all, and what the server knows of their utility.

        `at`: the instant of the server's decision; by default the instant at which each task's end became known.
        """
        if len(tasks) == 1:
            code = outcome if isinstance(outcome, int) else int(outcome[0])
            self._singles.append((int(tasks[0]), code, _UNKNOWN if utility is None else float(utility[0]), at))
            if len(self._singles) >= _MANY:
                self._join()
        elif len(tasks):
            self._join()
            outcomes = np.full(len(tasks), outcome, np.int8) if np.ndim(outcome) == 0 else outcome.astype(np.int8)
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
        self._read(alone=not self._facts)
        if not self._facts:
            return
        facts, self._facts = self._facts, []
        columns = facts[0] if len(facts) == 1 else tuple(np.concatenate(some) for some in zip(*facts, strict=True))
        *told, instant, rank, tie = columns
        if len(instant) > 1 and not self._memoryless:
            order = np.lexsort((tie, rank, instant))
            told = [column[order] for column in told]
        self._manager.register_feedback(Outcomes(*told))

    def before_writing(self) -> None:
        """Rows of tasks are about to leave memory: what will be told of them is read now."""
        if self._memoryless:
            self.tell()
        else:
            self._read(alone=False)

    def _read(self, *, alone: bool) -> None:
        """The facts of what is not told yet: columns of `Outcomes`, then what orders them among others."""
        self._join()
        if not self._parts:
            return
        tasks, outcome, utility, at = (np.concatenate(column) for column in zip(*self._parts, strict=True))
        self._parts = []
        column = self._ledger.column
        known, nobody_asks = column("known_at", tasks), self._memoryless or (alone and len(tasks) == 1)
        self._facts.append(
            (
                column("client", tasks),
                known,
                column("round", tasks),
                outcome,
                known - column("dispatched_at", tasks),
                column("samples", tasks),
                utility,
                *((at, at, at) if nobody_asks else self._order(tasks, known, at)),
            )
        )

    def _join(self) -> None:
        if self._singles:
            tasks, outcomes, utility, at = zip(*self._singles, strict=True)
            self._parts.append((np.array(tasks), np.array(outcomes, np.int8), np.array(utility), np.array(at)))
            self._singles = []

    def _order(self, tasks: IntArray, known: IntArray, at: IntArray) -> _Facts:
        """Instant, rank and tie, as if each thing had been told when it happened; the server's own order stands."""
        by_itself = at == _AT_ITS_END
        rank = np.where(by_itself, self._ledger.ranks(tasks), int(Rank.SERVER))
        return np.where(by_itself, known, at), rank, np.where(by_itself, self._ledger.ties(tasks), 0)
