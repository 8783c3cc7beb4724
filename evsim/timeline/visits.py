"""Where check-ins and check-outs become visits: what a client's device tells a predictor when it is back.

Only completed visits are told, at the next check-in, so nothing depends on whether the client had a task when it left,
and hearing a window at a time is the same as hearing every edge at its instant.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import numpy as np

from evsim.selection.forecast import Visits

if TYPE_CHECKING:
    from evsim.base.vocabulary import BoolArray, IntArray


@final
class VisitLog:
    """Remembers of each client when it last came and left."""

    def __init__(self, n_clients: int) -> None:
        self._came = np.full(n_clients, -1, np.int64)
        self._left = np.full(n_clients, -1, np.int64)

    def hear(self, clients: IntArray, check_in: BoolArray, at: IntArray) -> Visits:
        """Edges in order, a client's own alternating; a check-in that was heard before is left out."""
        new = ~(check_in & (at <= self._came[clients]))
        clients, check_in, at = clients[new], check_in[new], at[new]
        order = np.argsort(clients, kind="stable")
        who, inwards, when = clients[order], check_in[order], at[order]
        came, left = self._came[who], self._left[who]
        second = np.flatnonzero(who[1:] == who[:-1]) + 1  # edges with one of the same client before
        third = second[second > 1]
        third = third[who[third] == who[third - 2]]
        left[second] = np.where(inwards[second], when[second - 1], left[second])
        came[third] = np.where(inwards[third], when[third - 2], came[third])
        self._came[who[inwards]] = when[inwards]  # the last of a client wins
        self._left[who[~inwards]] = when[~inwards]
        rows = np.sort(order[inwards])
        place = np.empty(len(order), np.int64)
        place[order] = np.arange(len(order))
        found = place[rows]
        return Visits(clients[rows], at[rows], came[found], np.where(came[found] < 0, -1, left[found]))
