"""How a task ends: by arriving, by its device's leaving first, or by the server's stopping it; and who hears when.

Pure functions of a task's planned end, the instant at which its device leaves, and the server's patience.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from evsim.base.vocabulary import BoolArray, IntArray


class Fate(IntEnum):
    """How a task ends, as the traces and the server's timeout have it."""

    LOST = 0
    ARRIVES = 1
    STOPPED = 2


LOST, ARRIVES, STOPPED = int(Fate.LOST), int(Fate.ARRIVES), int(Fate.STOPPED)


def fates(planned_end: IntArray, leaves_at: IntArray, stop_at: IntArray | int) -> tuple[IntArray, IntArray]:
    """When tasks end and how; instants in ms, one entry per task.

    A report that would arrive exactly when its device leaves counts, and so does one at the instant of the stop.

    Args:
        planned_end: the report's arrival if nothing goes wrong.
        leaves_at: from then on the device is away.
        stop_at: the server stops what lasts longer.
    """
    fate = (planned_end <= leaves_at).astype(np.int64)
    ended = np.minimum(planned_end, leaves_at)
    fate = np.where(ended > stop_at, STOPPED, fate)
    return np.minimum(ended, stop_at), fate


def fates_at_completion(
    planned_end: IntArray, present: BoolArray, stop_at: IntArray | int
) -> tuple[IntArray, IntArray]:
    """`fates` by FedScale's looser rule: a device must be there at the planned end only, as `present` says."""
    fate = np.where(planned_end > stop_at, STOPPED, present.astype(np.int64))
    return np.minimum(planned_end, stop_at), fate


def loss_known(ended: IntArray, back_at: IntArray, deadline: IntArray | int) -> IntArray:
    """When the server knows of losses: at the device's next check-in or at the deadline, but not before they happen."""
    return np.maximum(ended, np.minimum(back_at, deadline))
