"""When clients were reachable, as rows of the table `sessions`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from evsim.base.vocabulary import IntArray
    from evsim.traces.availability import AvailabilityTrace

_AT_ONCE = 1_000_000  # rows, about


def sessions_of(trace: AvailabilityTrace, clients: IntArray, end: int) -> Iterator[dict[str, IntArray]]:
    """Every session of the clients up to the end of a run, by client and then by check-in, in blocks of clients.

    Those of time 0 begin there; those that outlast the run have no end (-1).
    """
    repeats = end // trace.period[clients] + 2
    rows = np.cumsum((trace.offsets[clients + 1] - trace.offsets[clients]) * repeats)
    blocks = rows // _AT_ONCE
    for some in np.split(clients, np.flatnonzero(np.diff(blocks)) + 1):
        yield _block(trace, some, end)


def _block(trace: AvailabilityTrace, clients: IntArray, end: int) -> dict[str, IntArray]:
    part = trace.take(clients)
    device = np.repeat(np.arange(len(clients)), np.diff(part.offsets))
    start, stop, period = part.starts, part.stops, part.period[device]
    always = stop - start == period
    first = np.where(stop > period, -1, 0)  # the last session of the period before may go on at time 0
    times = np.where(always, 1, np.maximum((end - start) // period + 1, 0) - first)
    row = np.repeat(np.arange(len(start)), times)
    turn = np.arange(len(row)) - np.repeat(np.cumsum(times) - times, times) + first[row]
    check_in = np.maximum(start[row] + turn * period[row], 0) * ~always[row]
    check_out = stop[row] + turn * period[row]
    order = np.lexsort((check_in, device[row]))
    return {
        "client": clients[device[row]][order],
        "check_in_at": check_in[order],
        "check_out_at": np.where((check_out > end) | always[row], -1, check_out)[order],
    }
