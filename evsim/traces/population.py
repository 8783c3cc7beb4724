"""Joins clients, who have data, with trace devices, which have an availability and a speed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, final

import numpy as np

from evsim.base import rng
from evsim.base.caveat import Caveat
from evsim.base.errors import TraceError
from evsim.base.units import MS_PER_DAY, MS_PER_MINUTE
from evsim.base.vocabulary import FloatArray, IntArray
from evsim.traces import caveats
from evsim.traces.availability import AvailabilityTrace
from evsim.traces.joins.base import Join, Roster
from evsim.traces.joins.listed import Listed
from evsim.traces.joins.modulo import Modulo
from evsim.traces.joins.paired import Paired
from evsim.traces.joins.rank import RankJoin
from evsim.traces.joins.sample import Sample
from evsim.traces.speed import DeviceSpeed

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.random import Generator

__all__ = ["Join", "Listed", "Modulo", "Paired", "Population", "RankJoin", "Sample", "populate"]

_JITTER_MS = 5 * MS_PER_MINUTE


@final
@dataclass(frozen=True, eq=False)
class Population:
    """Clients as the timeline sees them, one row each.

    Attributes:
        availability: in virtual time.
        speed: compute cost and link rates.
        device: device of the availability trace.
        clone: 0 for the original of that device, k for its k-th clone.
        speed_device: device of the speed trace.
        join: the policy that dealt the devices.
        notes: what a reader of results should know.
    """

    availability: AvailabilityTrace
    speed: DeviceSpeed
    device: IntArray
    clone: IntArray
    speed_device: IntArray
    join: Join
    notes: tuple[Caveat, ...]


def populate(  # noqa: PLR0913  the facts a population is made of, all by name
    *,
    n_clients: int,
    availability: AvailabilityTrace,
    speed: DeviceSpeed,
    join: Join | None,
    sizes: IntArray,
    seed: int,
    start_ms: int,
    folder: Path = Path(),
    label_share: Callable[[int], FloatArray] | None = None,
) -> Population:
    """Give each client an availability and a speed.

    Args:
        n_clients: number of clients.
        availability: of the trace devices, from midnight.
        speed: of the trace devices; it may have another number of devices.
        join: who gets which device; None is `Paired` where both traces name their devices, else `Sample`.
        sizes: samples of each client, (n_clients,).
        seed: of the scenario.
        start_ms: time of day at which virtual time 0 falls, ms.
        folder: where relative paths of a join begin.
        label_share: the share of a label among each client's samples, if the data have a class per sample.

    Raises:
        TraceError: if there is no client or no device to draw from, if sizes are not one per client, or if the join
            cannot give every client a device.
    """
    if n_clients < 1:
        raise TraceError(f"{n_clients} clients; expected at least one")
    for what, n_devices in (("availability", availability.n_devices), ("speed", speed.n_devices)):
        if n_devices == 0:
            raise TraceError(f"population.{what}: a trace without devices; expected at least one device")
    if len(sizes) != n_clients:
        raise TraceError(f"{len(sizes)} data sizes for {n_clients} clients; expected one per client")
    named = availability.names is not None and speed.names is not None
    policy: Join = (Paired() if named else Sample()) if join is None else join
    deal = policy.deal(Roster(sizes, availability, speed, seed, folder, label_share))
    varied = deal.clone if policy.varies_clones else np.zeros_like(deal.clone)
    trace = _client_trace(availability, deal.device, varied, start_ms, rng.stream(seed, "join", "clones"))
    notes = (
        *availability.caveats,
        *speed.caveats,
        *deal.caveats,
        *caveats.of_population(availability, speed, trace, deal, exact=not policy.varies_clones),
    )
    return Population(trace, speed.take(deal.speed_device), deal.device, deal.clone, deal.speed_device, policy, notes)


def _client_trace(
    trace: AvailabilityTrace, device: IntArray, clone: IntArray, start_ms: int, stream: Generator
) -> AvailabilityTrace:
    """One row per client in virtual time; the k-th clone lives k days later (or earlier, once round the period)."""
    days = np.maximum(trace.period[device] // MS_PER_DAY, 1)
    clients = trace.take(device, clone % days * MS_PER_DAY - start_ms)
    if not clone.any():
        return clients
    moved = np.repeat(clone > 0, np.diff(clients.offsets))
    reach = _room(clients) * moved
    check_ins, check_outs = (np.trunc(stream.uniform(-1, 1, len(reach)) * reach).astype(np.int64) for _ in range(2))
    return clients.with_moved_edges(check_ins, check_outs)


def _room(trace: AvailabilityTrace) -> FloatArray:
    """How far both edges of each interval may move, ms, so that intervals stay apart and none vanishes."""
    length = trace.stops - trace.starts
    counts = np.diff(trace.offsets)
    some = counts > 0
    following = np.roll(trace.starts, -1)
    following[trace.offsets[1:][some] - 1] = trace.starts[trace.offsets[:-1][some]] + trace.period[some]
    gap = following - trace.stops
    before = np.roll(gap, 1)
    before[trace.offsets[:-1][some]] = gap[trace.offsets[1:][some] - 1]
    least = np.minimum(np.minimum(gap, before), length)  # an always-online device has a gap of 0
    return np.asarray(np.minimum(_JITTER_MS, 0.45 * least))
