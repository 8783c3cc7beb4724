"""What every network must do, as tests to inherit: give `make`, get the rest.

class TestMyNetwork(NetworkContract):
    def make(self):
        return MyNetwork()
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path

import numpy as np

from evsim.aggregation.synchronous import Synchronous
from evsim.base.rng import stream
from evsim.base.units import MS_PER_DAY
from evsim.base.vocabulary import FloatArray, IntArray
from evsim.cost.network import Network, Site, Way
from evsim.testing.timeline import TinyWorld
from evsim.traces.availability import AvailabilityTrace
from evsim.traces.speed import DeviceSpeed

N_CLIENTS = 40
_WAYS: tuple[Way, ...] = ("download", "upload")


class NetworkContract(ABC):
    """The laws of a network."""

    @abstractmethod
    def make(self) -> Network:
        """The network under test."""

    def folder(self) -> Path:
        """Where its relative paths begin."""
        return Path()

    def opened(self) -> Network:
        """The network on `N_CLIENTS` phones."""
        return self.make().open(Site(phones(), 0, self.folder()))

    def test_it_is_a_value(self) -> None:
        assert self.make() == self.make()

    def test_what_is_moved_in_the_time_a_transfer_takes_is_the_transfer(self) -> None:
        network, (clients, begin, alone) = self.opened(), _transfers()
        for way in _WAYS:
            took = network.lasts_ms(way, clients, begin, alone)
            np.testing.assert_allclose(network.done_ms(way, clients, begin, took), alone, rtol=1e-9, atol=1e-6)

    def test_a_transfer_in_two_parts_takes_as_long_as_in_one(self) -> None:
        network, (clients, begin, alone) = self.opened(), _transfers()
        for way in _WAYS:
            whole = network.lasts_ms(way, clients, begin, alone)
            first = np.floor(whole / 3)
            done = network.done_ms(way, clients, begin, first)
            rest = network.lasts_ms(way, clients, begin + first.astype(np.int64), alone - done)
            np.testing.assert_allclose(first + rest, whole, rtol=1e-9, atol=1e-5)

    def test_more_takes_longer_and_nothing_takes_no_time(self) -> None:
        network, (clients, begin, alone) = self.opened(), _transfers()
        for way in _WAYS:
            took = network.lasts_ms(way, clients, begin, alone)
            assert (took > 0).all()
            assert np.isfinite(took).all()
            assert (network.lasts_ms(way, clients, begin, alone * 2) > took).all()
            assert (network.lasts_ms(way, clients, begin, alone * 0) == 0).all()

    def test_a_transfer_does_not_depend_on_those_it_is_asked_with(self) -> None:
        network, (clients, begin, alone) = self.opened(), _transfers()
        for way in _WAYS:
            took = network.lasts_ms(way, clients, begin, alone)
            one = [network.lasts_ms(way, clients[i : i + 1], begin[i : i + 1], alone[i : i + 1]) for i in range(9)]
            np.testing.assert_array_equal(took[:9], np.concatenate(one))

    def test_rounds_end_and_the_phases_of_a_report_add_up(self) -> None:
        speed, trace = phones(), AvailabilityTrace.always(N_CLIENTS)
        world = TinyWorld(trace=trace, speed=speed, network=self.opened(), wire_bytes=(200_000, 100_000))
        log = world.run(Synchronous(cohort_goal=10, over_commitment=1.5), server_steps=4)
        used = log.tasks[log.tasks["outcome"] == "aggregated"]
        phases = used["download_ms"] + used["compute_ms"] + used["upload_ms"]
        assert (used["dispatched_at"] + phases == used["known_at"]).all()
        assert (used["bytes_down"] == 200_000).all()
        assert len(used) == 40


def phones() -> DeviceSpeed:
    """Devices of different rates, with jitter and latency."""
    draw = stream(0, "network contract", "speed")
    rates = draw.uniform(1_000, 20_000, (2, N_CLIENTS))
    latency = draw.uniform(0, 90, N_CLIENTS)
    return DeviceSpeed(np.full(N_CLIENTS, 2.0), rates[0], rates[1], 0.2, 0.3, latency)


def _transfers() -> tuple[IntArray, IntArray, FloatArray]:
    """Transfers of all sizes at all times of a week."""
    draw, count = stream(0, "network contract", "transfers"), 200
    return (
        draw.integers(0, N_CLIENTS, count),
        draw.integers(0, 7 * MS_PER_DAY, count),
        np.exp(draw.uniform(np.log(1), np.log(MS_PER_DAY), count)),
    )
