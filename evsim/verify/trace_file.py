"""Sessions of a run against the trace file that its devices came from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from evsim.traces.availability import AvailabilityTrace
from evsim.traces.sources import load_availability
from evsim.verify.folder import Folder
from evsim.verify.table import NULL, Check, Flags, Ints

_LIKE_THEIR_DEVICE = ("modulo", "listed")  # joins whose clones are exact copies


def against_trace(run: Folder, trace: str) -> Iterator[Check]:
    """Every session of a client that lives on a device of the trace as it is; clones with moved edges are left out.

    Raises:
        TraceError: if the trace cannot be read.
    """
    count = len(run.clients)
    devices = load_availability(trace, n_devices=count, seed=int(run.manifest["seed"]), folder=Path())
    device, clone = run.clients["device"], run.clients["clone"]
    there = device < devices.n_devices
    yield run.clients.holds("devices are of the trace", there, "device", f"less than {devices.n_devices}")
    copies = run.setting("population", "join", "kind") in _LIKE_THEIR_DEVICE
    exact = there if copies else there & (clone == 0)
    listed = np.zeros(count, np.bool_)
    if run.setting("record", "sessions", default=False):
        listed[:] = True
    else:
        listed[run.tasks["client"]] = True
    yield _compared(run, _expected(devices, device, np.flatnonzero(exact & listed), run), exact)


def _expected(trace: AvailabilityTrace, device: Ints, clients: Ints, run: Folder) -> Ints:
    """Rows (client, check-in, check-out) of the clients, one repetition of the period after the other."""
    start, end = int(run.manifest["start_ms"]), run.end
    own = device[clients]
    count = np.diff(trace.offsets)[own]
    interval = np.repeat(trace.offsets[own] - np.cumsum(count) + count, count) + np.arange(int(count.sum()))
    client, period = np.repeat(clients, count), np.repeat(trace.period[own], count)
    begin, stop = trace.starts[interval] - start, trace.stops[interval] - start
    always = stop - begin == period
    parts = []
    for shift in _turns(period, start, end):
        moved_in, moved_out = begin + shift * period, stop + shift * period
        keep = ~always & (moved_out > 0) & (moved_in <= end)
        out = np.where(moved_out > end, NULL, moved_out)
        parts.append(np.stack([client, np.maximum(moved_in, 0), out])[:, keep])
    parts.append(np.stack([client, np.zeros_like(client), np.full_like(client, NULL)])[:, always])
    found = np.concatenate(parts, axis=1)
    return found[:, np.lexsort((found[1], found[0]))]


def _turns(period: Ints, start: int, end: int) -> range:
    """Repetitions of the shortest period that may reach into the run."""
    shortest = int(period.min(initial=2**61))
    return range(-1, (start + end) // shortest + 1)


def _compared(run: Folder, expected: Ints, exact: Flags) -> Check:
    name, sessions = "sessions against the trace", run.sessions
    order = np.lexsort((sessions["check_in_at"], sessions["client"]))
    order = order[exact[sessions["client"][order]]]
    found = np.stack([sessions[column][order] for column in ("client", "check_in_at", "check_out_at")])
    n = min(found.shape[1], expected.shape[1])
    wrong = np.flatnonzero((found[:, :n] != expected[:, :n]).any(axis=0))
    if not len(wrong) and found.shape[1] == expected.shape[1]:
        return Check(name, n)
    place = int(wrong[0]) if len(wrong) else n
    return Check(name, n, f"{_shown(found, place)} in the folder, {_shown(expected, place)} in the trace")


def _shown(rows: Ints, place: int) -> str:
    if place >= rows.shape[1]:
        return "no more session"
    client, begin, until = rows[:, place].tolist()
    return f"client {client} from {begin} to {'the end' if until == NULL else until} ms"
