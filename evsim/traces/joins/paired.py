"""Devices that keep their own speed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, final

import numpy as np
from typing_extensions import override

from evsim.base.caveat import Caveat
from evsim.base.errors import TraceError
from evsim.base.vocabulary import IntArray
from evsim.traces._names import find, repeated
from evsim.traces.joins.base import Axis, Deal, Join, Roster, Score, draw

if TYPE_CHECKING:
    from numpy.random import Generator

    from evsim.traces._names import Names

_ALONE = 'population.join = "sample" draws pairs at random'


@final
@dataclass(frozen=True, kw_only=True)
class Paired(Join):
    """A device's availability and its own speed, joined by the names that both files give it.

    Devices are drawn as by `Sample`; those that only one file knows are left out. The default where both files name
    their devices.
    """

    varies_clones: ClassVar[bool] = True

    @override
    def deal(self, roster: Roster) -> Deal:
        device, speed_device = matched(roster.availability.names, roster.speed.names)
        row, clone = self.devices(
            roster.n_clients, len(device), roster.sizes, roster.score("availability"), roster.stream("availability")
        )
        caveats = _left_out(len(device), roster.availability.n_devices, roster.speed.n_devices)
        return Deal(device[row], clone, speed_device[row], caveats)

    @override
    def devices(
        self, n_clients: int, n_devices: int, sizes: IntArray, score: Score, stream: Generator
    ) -> tuple[IntArray, IntArray]:
        return draw(n_clients, n_devices, stream)


def matched(availability: Names | None, speed: Names | None) -> tuple[IntArray, IntArray]:
    """The devices that both traces know, by name: their numbers in each, in the order of the first.

    Raises:
        TraceError: if a trace has no names or uses one twice, or no device is in both.
    """
    if availability is None or speed is None:
        nameless = "availability" if availability is None else "speed"
        raise TraceError(f"population.join: paired, but the devices of {nameless} have no names; {_ALONE}")
    check_distinct("availability", availability)
    check_distinct("speed", speed)
    partner = find(availability, speed)
    device = np.flatnonzero(partner >= 0)
    if not len(device):
        raise TraceError(
            f"population.join: paired, but no device of availability (first: {availability[0]!r}) is in speed "
            f"(first: {speed[0]!r}); expected the same names in both files; {_ALONE}"
        )
    return device, partner[device]


def check_distinct(axis: Axis, names: Names) -> None:
    """Raise `TraceError` if two devices have one name."""
    if (twice := repeated(names)) is not None:
        raise TraceError(f"population.{axis}: two devices are called {twice!r}; expected one name per device")


def _left_out(both: int, available: int, fast: int) -> tuple[Caveat, ...]:
    if both == available == fast:
        return ()
    return (
        Caveat(
            "unpaired_devices",
            "devices that only one of the two files names were left out",
            f"{available - both} of {available} have no speed, {fast - both} of {fast} no availability",
            "complete the files",
        ),
    )
