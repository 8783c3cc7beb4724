"""How many clients are online, counted while the windows of a trace stream by."""

from __future__ import annotations

from typing import final

import numpy as np

from evsim.base.vocabulary import IntArray
from evsim.traces.availability import Edges


@final
class OnlineCounts:
    """Counts the clients online at the instants of a regular grid while windows stream by."""

    def __init__(self, initially: int, every_ms: int) -> None:
        self._every = every_ms
        self._online = initially
        self._at: list[IntArray] = [np.zeros(1, np.int64)]
        self._count: list[IntArray] = [np.array([initially], np.int64)]
        self._next = every_ms

    def add(self, edges: Edges) -> None:
        """Take the edges of the next window."""
        if len(edges.at) == 0:
            return
        grid = np.arange(self._next, int(edges.at[-1]) + 1, self._every, dtype=np.int64)
        running = np.concatenate([[0], np.cumsum(np.where(edges.check_in, 1, -1))])
        self._at.append(grid)
        self._count.append(self._online + running[np.searchsorted(edges.at, grid, side="right")])
        # The grid's instant at the very last edge waits for no later edge: the window holds all edges of an instant.
        self._online += int(running[-1])
        self._next += len(grid) * self._every

    def until(self, end: int) -> tuple[IntArray, IntArray]:
        """Grid instants up to `end`, and the number online at each."""
        at, count = np.concatenate(self._at), np.concatenate(self._count)
        rest = np.arange(self._next, end + 1, self._every, dtype=np.int64)  # nothing changes after the last edge
        at = np.concatenate([at, rest])
        count = np.concatenate([count, np.full(len(rest), self._online, np.int64)])
        return at[at <= end], count[at <= end]
