"""Where a deadline becomes a close: when a round would close, as things stand, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from evsim.base.units import FOREVER
from evsim.timeline.fates import ARRIVES

if TYPE_CHECKING:
    from evsim.base.vocabulary import IntArray


class Close(NamedTuple):
    """The close of a round: its instant, ms (FOREVER if it never comes), and its reason."""

    at: int
    reason: str  # "goal", "deadline" or "exhausted"


def close_of(known_at: IntArray, fate: IntArray, goal: int, deadline: int) -> Close:
    """When the goal-th report arrives, the deadline passes, or the end of every task is known: whichever is first.

    A report that arrives at the deadline counts, so the goal wins at equal instants; the deadline wins over the last
    known loss, which is known by then because the deadline passed.

    Args:
        known_at: when the server hears of the end of each of the round's tasks, ms.
        fate: codes of `Fate`.
        goal: reports wanted.
        deadline: of the round, ms; FOREVER if it has none.
    """
    arrivals = known_at[fate == ARRIVES]
    at_goal = int(np.partition(arrivals, goal - 1)[goal - 1]) if len(arrivals) >= goal else FOREVER
    at_end = int(known_at.max())
    if at_goal <= min(deadline, at_end):
        return Close(at_goal, "goal")
    return Close(deadline, "deadline") if deadline <= at_end else Close(at_end, "exhausted")
