"""Joins clients, who have data, with trace devices, which have an availability and a speed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, final

import numpy as np
from typing_extensions import override

from evsim.base import rng
from evsim.base.errors import TraceError, require
from evsim.base.units import MS_PER_DAY, MS_PER_MINUTE
from evsim.base.vocabulary import FloatArray, IntArray
from evsim.traces.availability import AvailabilityTrace
from evsim.traces.speed import DeviceSpeed

if TYPE_CHECKING:
    from numpy.random import Generator

Axis = Literal["availability", "speed"]

_JITTER_MS = 5 * MS_PER_MINUTE


@final
@dataclass(frozen=True, eq=False)
class Score:
    """How desirable each trace device is, higher is better: online share, or minus the time for a reference task."""

    axis: Axis
    value: FloatArray


class Join(ABC):
    """A frozen policy that says which trace device each client gets."""

    #: Whether clones of a device get another day and jittered edges; False makes them exact copies.
    varies_clones: ClassVar[bool]

    @abstractmethod
    def devices(
        self, n_clients: int, n_devices: int, sizes: IntArray, score: Score, stream: Generator
    ) -> tuple[IntArray, IntArray]:
        """The device of each client, and which clone of the device it is: 0 the original, k the k-th clone.

        Args:
            n_clients: number of clients.
            n_devices: number of trace devices on the score's axis.
            sizes: samples of each client, (n_clients,).
            score: of each trace device, (n_devices,).
            stream: of this axis alone.
        """


@final
@dataclass(frozen=True, kw_only=True)
class Modulo(Join):
    """Client i gets device i modulo the number of devices: FedScale's rule; clones are exact copies."""

    varies_clones: ClassVar[bool] = False

    @override
    def devices(
        self, n_clients: int, n_devices: int, sizes: IntArray, score: Score, stream: Generator
    ) -> tuple[IntArray, IntArray]:
        clients = np.arange(n_clients, dtype=np.int64)
        return clients % n_devices, clients // n_devices


@final
@dataclass(frozen=True, kw_only=True)
class Sample(Join):
    """Devices at random without replacement until all are used; further clients get clones, again without replacement.

    A clone lives on another day of its device's trace, and its check-ins and check-outs differ by up to five minutes.
    """

    varies_clones: ClassVar[bool] = True

    @override
    def devices(
        self, n_clients: int, n_devices: int, sizes: IntArray, score: Score, stream: Generator
    ) -> tuple[IntArray, IntArray]:
        return _draw(n_clients, n_devices, stream)


@final
@dataclass(frozen=True, kw_only=True)
class RankJoin(Join):
    """A chosen Spearman correlation between a client's data size and its device's speed or online share.

    Devices are drawn as by `Sample`, then dealt by a Gaussian copula: Pearson 2 sin(pi rho / 6) of the normal scores
    gives Spearman rho of the ranks (Kruskal 1958). Clients of equal size are ranked at random. The other axis is drawn
    as by `Sample`.

    Attributes:
        correlation: from -1 (clients with much data have the worst devices) to 1.
        with_: what the data size correlates with.
    """

    varies_clones: ClassVar[bool] = True

    correlation: float
    with_: Axis = "speed"

    def __post_init__(self) -> None:
        require(-1 <= self.correlation <= 1, "correlation must lie in [-1, 1]", correlation=self.correlation)
        require(self.with_ in ("availability", "speed"), "with_ must be 'availability' or 'speed'", with_=self.with_)

    @override
    def devices(
        self, n_clients: int, n_devices: int, sizes: IntArray, score: Score, stream: Generator
    ) -> tuple[IntArray, IntArray]:
        device, clone = _draw(n_clients, n_devices, stream)
        if score.axis != self.with_:
            return device, clone
        by_score = np.lexsort((stream.random(n_clients), score.value[device]))
        by_size = np.lexsort((stream.random(n_clients), sizes))
        order = np.empty(n_clients, np.int64)
        order[_correlated_order(by_size, self.correlation, stream)] = by_score
        return device[order], clone[order]


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
        notes: what a reader of results should know.
    """

    availability: AvailabilityTrace
    speed: DeviceSpeed
    device: IntArray
    clone: IntArray
    speed_device: IntArray
    notes: tuple[str, ...]


def populate(  # noqa: PLR0913  the facts a population is made of, all by name
    *,
    n_clients: int,
    availability: AvailabilityTrace,
    speed: DeviceSpeed,
    join: Join,
    sizes: IntArray,
    seed: int,
    start_ms: int,
) -> Population:
    """Give each client an availability and a speed, drawn from separate random streams.

    Args:
        n_clients: number of clients.
        availability: of the trace devices, from midnight.
        speed: of the trace devices; it may have another number of devices.
        join: who gets which device.
        sizes: samples of each client, (n_clients,).
        seed: of the scenario.
        start_ms: time of day at which virtual time 0 falls, ms.

    Raises:
        TraceError: if there is no client or no device to draw from, or if sizes are not one per client.
    """
    if n_clients < 1:
        raise TraceError(f"{n_clients} clients; expected at least one")
    for what, n_devices in (("availability", availability.n_devices), ("speed", speed.n_devices)):
        if n_devices == 0:
            raise TraceError(f"population.{what}: a trace without devices; expected at least one device")
    if len(sizes) != n_clients:
        raise TraceError(f"{len(sizes)} data sizes for {n_clients} clients; expected one per client")
    streams = {axis: rng.stream(seed, "join", axis) for axis in ("availability", "speed")}
    share = Score("availability", availability.online_share())
    device, clone = join.devices(n_clients, availability.n_devices, sizes, share, streams["availability"])
    pace = Score("speed", -speed.reference_ms())
    speed_device, _ = join.devices(n_clients, speed.n_devices, sizes, pace, streams["speed"])
    varied = clone if join.varies_clones else np.zeros_like(clone)
    trace = _client_trace(availability, device, varied, start_ms, rng.stream(seed, "join", "clones"))
    notes = _notes(availability, trace, clone, exact=not join.varies_clones)
    return Population(trace, speed.take(speed_device), device, clone, speed_device, notes)


def _draw(n_clients: int, n_devices: int, stream: Generator) -> tuple[IntArray, IntArray]:
    rounds = -(-n_clients // n_devices)
    device = np.concatenate([stream.permutation(n_devices) for _ in range(rounds)])[:n_clients].astype(np.int64)
    return device, np.arange(n_clients, dtype=np.int64) // n_devices


def _correlated_order(by_size: IntArray, correlation: float, stream: Generator) -> IntArray:
    """Clients from the worst to the best device, given clients from the least to the most data."""
    from scipy.special import ndtri

    n = len(by_size)
    pearson = 2 * np.sin(np.pi * correlation / 6)
    mixed = pearson * ndtri((np.arange(n) + 0.5) / n) + np.sqrt(max(0.0, 1 - pearson**2)) * stream.standard_normal(n)
    return by_size[np.argsort(mixed, kind="stable")]


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


def _notes(devices: AvailabilityTrace, clients: AvailabilityTrace, clone: IntArray, *, exact: bool) -> tuple[str, ...]:
    notes = []
    odd = int((devices.period % MS_PER_DAY != 0).sum())
    if odd:
        notes.append(
            f"{odd} of {devices.n_devices} devices repeat after a time that is not whole days: their time of day drifts"
        )
    clones = int((clone > 0).sum())
    if clones:
        kind = "exact copies" if exact else "clones on other days with jittered edges"
        notes.append(f"{clones} of {len(clone)} clients are {kind}: the trace has {devices.n_devices} devices")
    never = int((np.diff(clients.offsets) == 0).sum())
    if never:
        notes.append(f"{never} of {len(clone)} clients are never online")
    return tuple(notes)
