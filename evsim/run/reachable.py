"""When clients were reachable, as rows of the table `sessions`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from evsim.base.units import FOREVER
from evsim.timeline.absences import Absence

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


def without(sessions: dict[str, IntArray], absences: Absence, end: int) -> tuple[dict[str, IntArray], Absence]:
    """Sessions less absences, as rows of the same table, and the parts of absences that fall into sessions.

    Args:
        sessions: of `sessions_of`, of all clients with absences among them.
        absences: when devices were kept away.
        end: of the run, ms.
    """
    begin, out = sessions["check_in_at"], sessions["check_out_at"]
    out = np.where(out < 0, FOREVER, out)
    clients = np.concatenate([sessions["client"]] * 2 + [absences.clients] * 2)
    at = np.concatenate([begin, out, absences.begin, absences.end])
    online = np.repeat([1, -1, 0, 0], [len(begin), len(begin), len(absences.begin), len(absences.begin)])
    away = np.repeat([0, 0, 1, -1], [len(begin), len(begin), len(absences.begin), len(absences.begin)])
    order = np.lexsort((at, clients))
    clients, at = clients[order], at[order]
    online, away = np.cumsum(online[order]) > 0, np.cumsum(away[order]) > 0  # each client's own end at 0
    until = np.append(at[1:], 0)
    lasts = until > at
    here, lost = online & ~away & lasts, online & away & lasts
    joined = np.flatnonzero(here)
    first = np.ones(len(joined), np.bool_)  # a piece that goes on where the one before it ends is none of its own
    first[1:] = (at[joined][1:] > until[joined][:-1]) | (clients[joined][1:] != clients[joined][:-1])
    begins, last = joined[first], joined[np.append(first[1:], True)[: len(joined)]]
    kept = at[begins] <= end
    begins, last = begins[kept], last[kept]
    outs = np.where(until[last] > end, -1, until[last])
    rows = {"client": clients[begins], "check_in_at": at[begins], "check_out_at": outs}
    return rows, Absence(clients[lost], at[lost], until[lost])


def count_lost(lost: Absence, at: IntArray) -> IntArray:
    """How many devices were kept away at each instant that would have been online."""
    begins, ends = np.sort(lost.begin), np.sort(lost.end)
    return np.searchsorted(begins, at, side="right") - np.searchsorted(ends, at, side="right")


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
