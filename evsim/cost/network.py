"""The slot of the network: how long a transfer takes.

A network answers for all transfers of one dispatch at once, as arrays. What a transfer has to move is said in *alone*
ms: how long it would take at its device's own rate, jitter included. A network turns alone ms into real ones, and back.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, final

import numpy as np
from typing_extensions import override

from evsim.base.errors import require
from evsim.base.policy import Policy
from evsim.base.units import Duration
from evsim.traces.speed import DeviceSpeed

if TYPE_CHECKING:
    from evsim.base.vocabulary import FloatArray, IntArray

#: Which way a transfer goes.
Way = Literal["download", "upload"]

_BITS = 8


def alone_ms(sizes: IntArray, kbps: FloatArray) -> FloatArray:
    """Duration of transfers of so many bytes at rates in kbit/s, ms."""
    return np.asarray(sizes.astype(np.float64) * _BITS / kbps)  # bytes x 8 / (kbit/s) = ms; in int64 x 8 may wrap


@final
@dataclass(frozen=True, eq=False)
class Site:
    """Where a network is opened.

    Attributes:
        speed: of every client.
        seed: of the scenario.
        folder: where relative paths begin.
    """

    speed: DeviceSpeed
    seed: int
    folder: Path


@dataclass(frozen=True, kw_only=True)
class Network(Policy, ABC):
    """Prices transfers.

    Attributes:
        latency: added to every transfer beside its device's own, after jitter.
        is_constant: whether a transfer that nobody disturbs takes its alone time, whenever it begins.
        is_even: whether half the time has then moved half the bytes.
    """

    is_constant: ClassVar[bool] = False
    is_even: ClassVar[bool] = False

    latency: Duration = 0

    def __post_init__(self) -> None:
        require(self.latency >= 0, "latency must be >= 0", latency=self.latency)

    def open(self, site: Site) -> Network:
        """The network with what it needs of files and clients; itself if that is nothing."""
        return self

    @abstractmethod
    def lasts_ms(self, way: Way, clients: IntArray, begin: IntArray, alone: FloatArray) -> FloatArray:
        """How long transfers take, ms.

        Args:
            way: download or upload.
            clients: whose they are.
            begin: instants, ms since the midnight before the scenario starts.
            alone: what they would take at their devices' own rates, ms.
        """

    @abstractmethod
    def done_ms(self, way: Way, clients: IntArray, begin: IntArray, spent: FloatArray) -> FloatArray:
        """The inverse: alone ms that are done when a transfer has lasted for `spent` ms."""


class SharedNetwork(Network):
    """Transfers that are under way at one time share something: the rate of each depends on the others.

    It is asked for `rates` whenever a transfer begins or ends; between two such instants the rates stand.
    """

    is_constant: ClassVar[bool] = True
    is_even: ClassVar[bool] = True

    @abstractmethod
    def rates(self, way: Way, clients: IntArray, most: FloatArray) -> FloatArray:
        """The rate of each transfer that is under way, kbit/s.

        Args:
            way: download or upload; the two do not disturb each other.
            clients: whose they are, in no particular order.
            most: what each client's own link could carry, jitter included, kbit/s; no rate may be above it.
        """

    @override
    def lasts_ms(self, way: Way, clients: IntArray, begin: IntArray, alone: FloatArray) -> FloatArray:
        return alone

    @override
    def done_ms(self, way: Way, clients: IntArray, begin: IntArray, spent: FloatArray) -> FloatArray:
        return spent


@final
@dataclass(frozen=True, kw_only=True)
class IndependentLinks(Network):
    """Each device has a link of its own with a constant rate; the server is never the bottleneck."""

    is_constant: ClassVar[bool] = True
    is_even: ClassVar[bool] = True

    @override
    def lasts_ms(self, way: Way, clients: IntArray, begin: IntArray, alone: FloatArray) -> FloatArray:
        return alone

    @override
    def done_ms(self, way: Way, clients: IntArray, begin: IntArray, spent: FloatArray) -> FloatArray:
        return spent
