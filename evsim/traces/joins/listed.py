"""Devices by a list of the user's."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, final

import numpy as np
from typing_extensions import override

from evsim.base.errors import Problem, TraceError, report, require
from evsim.base.vocabulary import IntArray
from evsim.traces._names import as_names, find
from evsim.traces.joins.base import Axis, Deal, Join, Roster, Score, draw, nth_use
from evsim.traces.joins.by_client import rows_by_client
from evsim.traces.joins.paired import check_distinct

if TYPE_CHECKING:
    from numpy.random import Generator

    from evsim.traces._names import Names

_KEY = "population.join"
_SHOWN = 5  # problems said one by one
_SEARCHED = 1_000  # names among which the nearest is looked for


@final
@dataclass(frozen=True, kw_only=True)
class Listed(Join):
    """Each client gets the device that a list names: whose data, whose phone.

    Devices go by their names. Where neither trace has names they go by their numbers, from 0; where one has none, its
    devices are drawn as by `Sample`. Clients with one device are exact copies.

    Attributes:
        file: a CSV with columns client (its number, from 0) and device, relative to the scenario.
        devices_of: instead of a file, the device of each client in order.
    """

    varies_clones: ClassVar[bool] = False

    file: str | None = None
    devices_of: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        given = (self.file is not None) + (self.devices_of is not None)
        require(given == 1, "one of file and devices_of is needed", file=self.file, devices_of=self.devices_of)

    @override
    def deal(self, roster: Roster) -> Deal:
        wanted = self._wanted(roster)
        availability, speed = roster.availability.names, roster.speed.names
        if availability is None and speed is None:
            availability, speed = _numbers(roster.availability.n_devices), _numbers(roster.speed.n_devices)
        device = self._given(roster, "availability", wanted, availability)
        return Deal(device, nth_use(device), self._given(roster, "speed", wanted, speed))

    def _given(self, roster: Roster, axis: Axis, wanted: list[str], names: Names | None) -> IntArray:
        return self._deal_axis(roster, axis)[0] if names is None else _look_up(axis, wanted, names)

    @override
    def devices(
        self, n_clients: int, n_devices: int, sizes: IntArray, score: Score, stream: Generator
    ) -> tuple[IntArray, IntArray]:
        return draw(n_clients, n_devices, stream)

    def _wanted(self, roster: Roster) -> list[str]:
        """The name of each client's device."""
        if self.devices_of is not None:
            if len(self.devices_of) != roster.n_clients:
                raise TraceError(f"{_KEY}.devices_of: {len(self.devices_of)} devices for {roster.n_clients} clients")
            return list(self.devices_of)
        return _from_file(roster.folder / Path(str(self.file)).expanduser(), roster.n_clients)


def _numbers(n_devices: int) -> Names | None:
    return as_names([str(number) for number in range(n_devices)], n_devices)


def _from_file(path: Path, n_clients: int) -> list[str]:
    client, table = rows_by_client(path, n_clients, "device", ("client", "device"))
    device = np.empty(n_clients, dtype=object)
    device[client] = table.columns["device"].to_pylist()
    return [str(name) for name in device]


def _look_up(axis: Axis, wanted: list[str], names: Names) -> IntArray:
    check_distinct(axis, names)
    found = find(wanted, names)
    if (strange := np.flatnonzero(found < 0)).size:
        problems = [
            Problem(_KEY, f"client {client}: {wanted[client]!r}", f"a device of {axis}", _near(wanted[client], names))
            for client in strange[:_SHOWN].tolist()
        ]
        more = [Problem(_KEY, f"{len(strange) - _SHOWN} more such clients", "")] if len(strange) > _SHOWN else []
        raise TraceError(report(problems + more))
    return found


def _near(name: str, names: Names) -> str:
    near = get_close_matches(name, names[:_SEARCHED].tolist(), n=1)
    return f"did you mean {near[0]!r}?" if near else f"the first is {names[0]!r}"
