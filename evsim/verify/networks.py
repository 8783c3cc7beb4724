"""How long transfers take over links whose rate changes, walked from one change of the rate to the next."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from evsim.base.units import MS_PER_DAY, MS_PER_HOUR
from evsim.verify import changes
from evsim.verify.folder import Folder
from evsim.verify.table import Check, Flags, Ints

Reals = NDArray[np.float64]
_NOTHING = 1e-9  # ms


def kind(run: Folder) -> str:
    """The network of a run; older runs know only one. "cut" where links stood still at times."""
    found = run.kind("network") or "independent"
    return "cut" if changes.had_cut_links(run) and found != "shared" else found


def lasts(run: Folder, begin: Ints, alone: Reals) -> Reals | None:
    """What transfers take that would take `alone` ms at their device's own rate; None where that cannot be known."""
    if kind(run) == "independent":
        return alone
    if kind(run) != "hourly":
        return None
    left, took = alone.copy(), np.zeros(len(alone))
    for open_, room, factor in _pieces(run, begin, took, left):
        ends = left[open_] <= room * factor
        took[open_] += np.where(ends, left[open_] / factor, room)
        left[open_] = np.where(ends, 0.0, left[open_] - room * factor)
    return took


def plausible(run: Folder, phase: str, own: Reals) -> Iterator[Check]:
    """Nothing is faster than alone, and over a shared link no busy time moves more than the link can.

    Args:
        run: over a shared link, or with links that stood still at times.
        phase: "download" or "upload".
        own: what each transfer would have taken alone, latency included, ms.
    """
    tasks, table = run.tasks, run.scenario.get("network", {})
    took = tasks[f"planned_{phase}_ms"]
    yield tasks.holds(f"no {phase} is faster than alone", took >= np.floor(own), f"planned_{phase}_ms", np.floor(own))
    capacity = table.get("down_kbps" if phase == "download" else "up_kbps")
    if capacity is None:
        return
    begin = tasks["dispatched_at"] + (0 if phase == "download" else tasks["download_ms"] + tasks["compute_ms"])
    order = np.argsort(begin, kind="stable")
    ends = (begin + tasks[f"{phase}_ms"])[order]
    reach = np.maximum.accumulate(ends)
    first = np.flatnonzero(np.concatenate([[True], begin[order][1:] > reach[:-1]])) if len(order) else order
    bits = np.add.reduceat(tasks["bytes_down" if phase == "download" else "bytes_up"][order] * 8.0, first)
    lasted = np.maximum.reduceat(reach, first) - begin[order][first] + 1  # whole ms
    over = np.flatnonzero(bits > capacity * lasted)
    told = f"the {phase}s from {begin[order][first[over[0]]]} ms on move more than the link can" if len(over) else ""
    yield Check(f"{phase}s fit through the server's link", len(first), told)


def done(run: Folder, begin: Ints, alone: Reals, spent: Ints) -> Reals | None:
    """The share of each transfer that is done after so many ms; None where that cannot be known."""
    if kind(run) == "independent":
        return np.asarray(spent / np.maximum(alone, 1e-9))
    if kind(run) != "hourly":
        return None
    gone, left, work = np.zeros(len(alone)), spent.astype(np.float64), np.zeros(len(alone))
    for open_, room, factor in _pieces(run, begin, gone, left):
        step = np.minimum(left[open_], room)
        work[open_] += step * factor
        gone[open_] += step
        left[open_] -= step
    return np.asarray(work / np.maximum(alone, 1e-9))


def _pieces(run: Folder, begin: Ints, gone: Reals, left: Reals) -> Iterator[tuple[Flags, Reals, Reals]]:
    """Until nobody is left: who is not at its end, how long the rate of each of them stays, and its factor."""
    factors = np.array(run.setting("network", "factors"), np.float64)
    period = run.duration("network", "period") or MS_PER_DAY
    zones = np.array(run.setting("network", "zones", default=[0.0]), np.float64)
    local = begin + run.manifest["start_ms"] + zones[run.tasks["client"] % len(zones)] * MS_PER_HOUR
    width = period / len(factors)
    place = np.floor(local / width)  # counted, or rounding could leave a transfer at a knot for ever
    while (left > _NOTHING).any():
        open_ = left > _NOTHING
        room = np.maximum((place[open_] + 1) * width - (local[open_] + gone[open_]), 0.0)
        yield open_, room, factors[(place[open_] % len(factors)).astype(np.int64)]
        place[open_] += 1
