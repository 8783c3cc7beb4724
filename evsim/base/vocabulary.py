"""The words that every part uses: in which order things happen, what becomes of a task, what learning tells.

The order of simultaneous events is `Rank`. Arrays are NumPy's; instants and durations are int64, in ms.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]


class Rank(IntEnum):
    """The one written order of events of the same instant, lowest first.

    Ranks below 2 are those of SimPy's own wake-ups: that a process begins (0) or has ended (1), for which nobody waits.
    """

    WORLD = 1  # transfers end, links, devices and the server fail or are back: before what follows from it
    REPORT = 2  # a report that arrives exactly at check-out or at the deadline counts
    DROPOUT = 3
    CHECK_OUT = 4
    CHECK_IN = 5  # a device that checks in at the instant of a selection may be selected
    DEADLINE = 6
    SERVER = 7  # select and aggregate: after everything else of the instant
    EVALUATION = 8  # sees the step of its instant
    END = 9  # nothing at the horizon is lost


class Outcome(IntEnum):
    """What became of a task."""

    IN_FLIGHT = 0  # still running when the run ended
    AGGREGATED = 1  # its update was merged
    SURPLUS = 2  # arrived after the round's goal was reached
    LATE = 3  # arrived after the round's deadline or the task's timeout
    STALE = 4  # arrived with more staleness than allowed
    DROPPED = 5  # the device left first
    ROUND_FAILED = 6  # arrived in time in a round with too few reports
    INVALID = 7  # arrived in time with a non-finite update
    ABORTED = 8  # stopped by the server at the round's close
    ANSWERED = 9  # a query (kind "query") whose answer arrived

    @property
    def label(self) -> str:
        """The name as tables write it."""
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class Feedback:
    """What flows from learning back to the timeline: the one declared port.

    All arrays have one entry per task of the request, in its order.
    """

    tasks: IntArray
    utility: FloatArray  # root of the mean squared per-sample training loss; NaN where unknown
    valid: BoolArray  # False: the update was not finite
    weight: FloatArray | None = None  # how much each update counted in the merge; None: nothing was merged
