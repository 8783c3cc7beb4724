"""Drop-outs as a source: devices that leave with a task unfinished. The server does not see them; listeners do."""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING, final

import numpy as np

from evsim.base.units import FOREVER
from evsim.base.vocabulary import Rank
from evsim.timeline.fates import LOST

if TYPE_CHECKING:
    from evsim.base.vocabulary import IntArray
    from evsim.timeline.ledger import Ledger


@final
class Dropouts:
    """Lost tasks in the order in which their devices leave; entered only while somebody listens."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._heap: list[tuple[int, int]] = []  # (when, task)
        self._told = (-1, -1)  # a task may be entered twice, when it is given and when it is lost

    def enter(self, tasks: IntArray) -> None:
        """New tasks, or tasks whose end has moved."""
        lost = tasks[self._ledger.column("fate", tasks) == LOST]
        for entry in zip(self._ledger.column("ended_at", lost).tolist(), lost.tolist(), strict=True):
            heapq.heappush(self._heap, entry)

    def next(self) -> int:
        """The instant of the next drop-out; FOREVER if there is none."""
        return self._heap[0][0] if self._heap else FOREVER

    def head(self) -> tuple[int, int]:
        """Instant and rank of the next drop-out."""
        return self.next(), int(Rank.DROPOUT)

    def take(self, now: int) -> IntArray | None:
        """Tasks whose devices left up to now."""
        found = []
        while (task := self.take_one(now)) is not None:
            found.append(task)
        return np.concatenate(found) if found else None

    def take_one(self, now: int) -> IntArray | None:
        """The next task whose device has left."""
        while self._heap and self._heap[0][0] <= now:
            at, task = entry = heapq.heappop(self._heap)
            if entry != self._told and self._ledger.is_lost_at(task, at):
                self._told = entry
                return np.array([task])
        return None
