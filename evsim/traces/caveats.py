"""What a trace or a population cannot mean though it runs: each with its measure and its remedy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from evsim.base import rng
from evsim.base.caveat import Caveat
from evsim.base.units import MS_PER_DAY, format_duration

if TYPE_CHECKING:
    from collections.abc import Iterator

    from evsim.base.vocabulary import BoolArray, IntArray
    from evsim.traces.availability import AvailabilityTrace
    from evsim.traces.joins.base import Deal
    from evsim.traces.speed import DeviceSpeed

_CHUNK = 65_536  # devices asked at a time, until one is online
_COMPARED = 5_000_000  # intervals up to which clients are compared by what they do; beyond, by device and clone only


def of_population(
    availability: AvailabilityTrace, speed: DeviceSpeed, clients: AvailabilityTrace, deal: Deal, *, exact: bool
) -> list[Caveat]:
    """What a reader of results should know of the devices behind the clients.

    Args:
        availability: of the trace devices.
        speed: of the trace devices.
        clients: availability of the clients, in virtual time.
        deal: who got what.
        exact: whether clones are exact copies.
    """
    return [
        *_drift(availability),
        *_clones(deal, availability.n_devices, exact=exact),
        *_lockstep(clients, deal, exact=exact),
        *_never_online(clients),
        *_independent_pairs(availability, speed, deal),
    ]


def period_caveats(trace: AvailabilityTrace, horizon_ms: int) -> list[Caveat]:
    """Whether a run of `horizon_ms` is longer than the trace: from then on every device does again what it did.

    Devices that are always or never online do not count.

    >>> from evsim.traces.availability import AvailabilityTrace
    >>> day = AvailabilityTrace.from_intervals([0], [5], [9], n_devices=1, period=1_000)
    >>> print(*period_caveats(day, 2_500))
    a run longer than its trace sees the same sessions again (2.5 periods of 1 s for 1 of 1 devices); use ...
    """
    changing = (np.diff(trace.offsets) > 0) & ~trace.is_always_online()
    again = changing & (trace.period < horizon_ms)
    if not again.any():
        return []
    period = int(np.median(trace.period[again]))
    measure = (
        f"{horizon_ms / period:.1f} periods of {format_duration(period)} for {int(again.sum()):,} of "
        f"{trace.n_devices:,} devices"
    )
    remedy = f"use a longer trace, or end the run within {format_duration(period)} (stop.virtual_time)"
    return [Caveat("repeated_period", "a run longer than its trace sees the same sessions again", measure, remedy)]


def availability_caveats(trace: AvailabilityTrace, start_ms: int, horizon_ms: int) -> list[Caveat]:
    """Whether anybody is online in a run, and whether the trace is empty for long at either end of its period.

    Args:
        trace: of devices or of clients.
        start_ms: the instant of the trace at which the run begins; 0 for clients, who live in virtual time.
        horizon_ms: length of the run, ms.
    """
    return [*_nobody_online(trace, start_ms, horizon_ms), *_empty_stretches(trace)]


def _nobody_online(trace: AvailabilityTrace, start_ms: int, horizon_ms: int) -> Iterator[Caveat]:
    first = _first_online(trace, start_ms, start_ms + horizon_ms)
    if first is not None and first <= start_ms + horizon_ms:
        return
    when = "never" if first is None else f"first after {format_duration(first - start_ms)}"
    yield Caveat(
        "nobody_online",
        "no device is online within the run: no round can begin",
        f"a run of {format_duration(horizon_ms)}, {trace.n_devices:,} devices, online {when}",
        "check the origin of the trace's times, population.start and stop.virtual_time",
    )


def _first_online(trace: AvailabilityTrace, start: int, end: int) -> int | None:
    """An instant at which a device is online, the earliest unless one before `end` was found; None if there is none."""
    some = np.flatnonzero(np.diff(trace.offsets) > 0)
    earliest = None
    for begin in range(0, len(some), _CHUNK):
        devices = some[begin : begin + _CHUNK]
        if trace.is_online(devices, start).any():
            return start
        found = int(trace.next_check_in(devices, start).min())
        earliest = found if earliest is None else min(earliest, found)
        if earliest <= end:
            return earliest
    return earliest


def _empty_stretches(trace: AvailabilityTrace) -> Iterator[Caveat]:
    some = np.flatnonzero(np.diff(trace.offsets) > 0)
    if not len(some):
        return
    lead = int(trace.starts[trace.offsets[some]].min())
    tail = int((trace.period[some] - trace.stops[trace.offsets[some + 1] - 1]).min())
    if max(lead, tail) < MS_PER_DAY or min(lead, tail) < 0:  # below 0: an interval goes on at the beginning
        return
    yield Caveat(
        "empty_stretch",
        "nobody is online for long at an end of the trace's period, as if times counted from another origin",
        f"the first {format_duration(lead)} and the last {format_duration(tail)} "
        f"of {format_duration(int(trace.period[some].max()))}",
        "say period = ... and origin = ... of the trace",
    )


def _drift(devices: AvailabilityTrace) -> Iterator[Caveat]:
    odd = int((devices.period % MS_PER_DAY != 0).sum())
    if odd:
        yield Caveat(
            "drifting_time_of_day",
            "devices repeat after a time that is not whole days: their time of day drifts",
            f"{odd} of {devices.n_devices} devices",
            "give the trace a period of whole days",
        )


def _clones(deal: Deal, n_devices: int, *, exact: bool) -> Iterator[Caveat]:
    clones = int((deal.clone > 0).sum())
    if clones:
        kind = "exact copies of others" if exact else "clones on other days with jittered edges"
        measure = f"{clones} of {len(deal.clone)} clients; the trace has {n_devices} devices"
        yield Caveat("clones", f"clients are {kind}", measure, "use a trace of more devices, or fewer clients")


def _lockstep(clients: AvailabilityTrace, deal: Deal, *, exact: bool) -> Iterator[Caveat]:
    """Clients that come and go together, to the millisecond; those that never do either do not count."""
    changing = (np.diff(clients.offsets) > 0) & ~clients.is_always_online()
    together = int((_shared(_doing(clients, deal, exact=exact)) & changing).sum())
    if together:
        yield Caveat(
            "lockstep",
            "clients check in and out together with another client, to the millisecond",
            f"{together} of {len(deal.clone)} clients",
            'population.join = "sample" moves clones by days and minutes' if exact else "use a trace of more devices",
        )


def _doing(clients: AvailabilityTrace, deal: Deal, *, exact: bool) -> IntArray:
    """A number per client, the same for clients that do the same."""
    if clients.n_intervals > _COMPARED:
        return deal.device if exact else deal.device * (int(deal.clone.max()) + 1) + deal.clone
    per_interval = rng.hash64(0, clients.starts, clients.stops)
    total = np.concatenate([np.zeros(1, np.uint64), np.cumsum(per_interval, dtype=np.uint64)])
    return rng.hash64(0, total[clients.offsets[1:]] - total[clients.offsets[:-1]], clients.period).view(np.int64)


def _shared(number: IntArray) -> BoolArray:
    """Whether each entry occurs more than once."""
    _, inverse, counts = np.unique(number, return_inverse=True, return_counts=True)
    return np.asarray(counts[inverse] > 1)


def _never_online(clients: AvailabilityTrace) -> Iterator[Caveat]:
    never = int((np.diff(clients.offsets) == 0).sum())
    if never:
        yield Caveat(
            "never_online",
            "clients are never online: they cannot take part",
            f"{never} of {clients.n_devices} clients",
        )


def _independent_pairs(availability: AvailabilityTrace, speed: DeviceSpeed, deal: Deal) -> Iterator[Caveat]:
    """Clients whose availability and speed are those of two devices; nothing where either is the same for all."""
    if speed.are_equal() or availability.is_always_online().all():
        return
    if availability.names is None or speed.names is None:
        apart = int((deal.device != deal.speed_device).sum())
    else:
        apart = int((availability.names[deal.device] != speed.names[deal.speed_device]).sum())
    if apart:
        yield Caveat(
            "independent_pairs",
            "availability and speed of a client were drawn independently of each other, from two devices",
            f"{apart} of {len(deal.device)} clients",
            'name the devices in both files (join = "paired"), or list them (join = { kind = "listed", file = ... })',
        )
