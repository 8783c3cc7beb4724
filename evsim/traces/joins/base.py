"""The slot of joins: which trace device each client gets."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, final

import numpy as np

from evsim.base import rng
from evsim.base.caveat import Caveat
from evsim.base.vocabulary import FloatArray, IntArray
from evsim.traces.availability import AvailabilityTrace
from evsim.traces.speed import DeviceSpeed

if TYPE_CHECKING:
    from numpy.random import Generator

Axis = Literal["availability", "speed"]


@final
@dataclass(frozen=True, eq=False)
class Score:
    """How desirable each trace device is, higher is better: online share, or minus the time for a reference task."""

    axis: Axis
    value: FloatArray


@final
@dataclass(frozen=True, eq=False)
class Roster:
    """What a join deals: clients, and the devices of two traces.

    Attributes:
        sizes: samples of each client, (clients,).
        availability: of trace devices.
        speed: of trace devices; not necessarily the same ones.
        seed: of the scenario.
        folder: where relative paths begin.
        label_share: the share of a label among each client's samples, (clients,); None without data that have classes.

    """

    sizes: IntArray
    availability: AvailabilityTrace
    speed: DeviceSpeed
    seed: int
    folder: Path = field(default_factory=Path)
    label_share: Callable[[int], FloatArray] | None = None

    @property
    def n_clients(self) -> int:
        """Number of clients."""
        return len(self.sizes)

    def score(self, axis: Axis) -> Score:
        """Of each device on one axis."""
        value = self.availability.online_share() if axis == "availability" else -self.speed.reference_ms()
        return Score(axis, value)

    def stream(self, axis: Axis) -> Generator:
        """Draws of one axis."""
        return rng.stream(self.seed, "join", axis)


@final
@dataclass(frozen=True, eq=False)
class Deal:
    """Who got what, one entry per client.

    Attributes:
        device: of the availability trace.
        clone: which clone of that device: 0 the original, k the k-th clone.
        speed_device: of the speed trace.
        caveats: what the join left out or assumed.
    """

    device: IntArray
    clone: IntArray
    speed_device: IntArray
    caveats: tuple[Caveat, ...] = ()


class Join(ABC):
    """A frozen policy that says which trace device each client gets."""

    #: Whether clones of a device get another day and jittered edges; False makes them exact copies.
    varies_clones: ClassVar[bool]

    def deal(self, roster: Roster) -> Deal:
        """The devices of each client; by default both axes are dealt apart, from streams of their own.

        Raises:
            TraceError: if the clients cannot be given devices.
        """
        device, clone = self._deal_axis(roster, "availability")
        return Deal(device, clone, self._deal_axis(roster, "speed")[0])

    @abstractmethod
    def devices(
        self, n_clients: int, n_devices: int, sizes: IntArray, score: Score, stream: Generator
    ) -> tuple[IntArray, IntArray]:
        """The device of each client on one axis, and which clone of the device it is.

        Args:
            n_clients: number of clients.
            n_devices: number of trace devices on the score's axis.
            sizes: samples of each client, (n_clients,).
            score: of each trace device, (n_devices,).
            stream: of this axis alone.
        """

    def _deal_axis(self, roster: Roster, axis: Axis) -> tuple[IntArray, IntArray]:
        score = roster.score(axis)
        return self.devices(roster.n_clients, len(score.value), roster.sizes, score, roster.stream(axis))


def draw(n_clients: int, n_devices: int, stream: Generator) -> tuple[IntArray, IntArray]:
    """Devices without replacement until all are used, then again; and which clone each is."""
    rounds = -(-n_clients // n_devices)
    device = np.concatenate([stream.permutation(n_devices) for _ in range(rounds)])[:n_clients].astype(np.int64)
    return device, np.arange(n_clients, dtype=np.int64) // n_devices


def nth_use(device: IntArray) -> IntArray:
    """How many clients before each one have its device.

    >>> nth_use(np.array([3, 5, 3, 3])).tolist()
    [0, 0, 1, 2]
    """
    order = np.argsort(device, kind="stable")
    ordered = device[order]
    first = np.searchsorted(ordered, ordered)
    nth = np.empty(len(device), np.int64)
    nth[order] = np.arange(len(device)) - first
    return nth
