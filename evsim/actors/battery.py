"""Batteries: what devices do drains them, and a device that is low leaves."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, final

import numpy as np
from typing_extensions import override

from evsim.actors.base import Actor, Process, Stage
from evsim.base import rng
from evsim.base.caveat import Caveat
from evsim.base.errors import require
from evsim.base.units import MS_PER_DAY, MS_PER_MINUTE, MS_PER_SECOND, Duration, TimeOfDay
from evsim.base.vocabulary import BoolArray, FloatArray, IntArray

_J_PER_WH = 3600.0


@final
@dataclass(frozen=True, kw_only=True)
class Battery(Actor):
    """Every device has a battery; work drains it, and below a level the device leaves until it is charged.

    Levels are looked at every so often. What is drained in between is what the device took to be on, and what its tasks
    took beside that: an empty battery gives no more, a full one takes no more.

    Attributes:
        capacity_wh: of every battery.
        first: share of the capacity at the beginning: drawn for each client from here...
        first_most: ... to here.
        idle_w: power of a device that does nothing.
        train_w: what computing takes beside that.
        radio_w: what a transfer takes beside it, waiting for the link included.
        charge_w: what a charger gives.
        plugged_from: time of day from which devices are on their chargers; default: when their trace has them online.
        plugged_for: for how long.
        spread: each client's times lie up to so much earlier or later, drawn by name.
        leave_below: share of the capacity below which a device leaves.
        return_above: share above which it comes back.
        every: how often levels are looked at.
    """

    capacity_wh: float = 15.0
    first: float = 0.3
    first_most: float = 1.0
    idle_w: float = 0.3
    train_w: float = 4.0
    radio_w: float = 1.5
    charge_w: float = 7.5
    plugged_from: TimeOfDay | None = None
    plugged_for: Duration = 8 * 3_600_000
    spread: Duration = 0
    leave_below: float = 0.2
    return_above: float = 0.4
    every: Duration = MS_PER_MINUTE

    def __post_init__(self) -> None:
        for key in ("capacity_wh", "train_w", "every"):
            require(0 < getattr(self, key) < np.inf, f"{key} must be > 0", **{key: getattr(self, key)})
        for key in ("idle_w", "radio_w", "spread"):
            require(0 <= getattr(self, key) < np.inf, f"{key} must be >= 0", **{key: getattr(self, key)})
        expected = "charge_w must be > idle_w: a battery that never charges lets every device leave for good"
        require(self.idle_w < self.charge_w < np.inf, expected, charge_w=self.charge_w, idle_w=self.idle_w)
        require(0 < self.plugged_for <= MS_PER_DAY, "plugged_for must lie in (0, 24h]", plugged_for=self.plugged_for)
        levels = (self.leave_below, self.return_above)
        require(0 <= levels[0] <= levels[1] <= 1, "leave_below and return_above must lie in [0, 1], in this order")
        first = (self.first, self.first_most)
        require(0 <= first[0] <= first[1] <= 1, "first and first_most must lie in [0, 1], in this order")

    @override
    def caveats(self, scenario: Any) -> Iterable[Caveat]:
        if self.plugged_from is None and scenario.population.availability == "always":
            yield Caveat(
                "always_charging",
                "devices that are always online are always on their chargers",
                'population.availability = "always" and no plugged_from',
                "say plugged_from, or give the devices a trace",
            )

    @override
    def run(self, stage: Stage) -> Process[None]:
        cells = _Cells(self, stage)
        while True:
            yield from stage.until(stage.now + self.every)
            cells.look()


@final
class _Cells:
    """The batteries of one run; joules, an entry for each client."""

    def __init__(self, battery: Battery, stage: Stage) -> None:
        self._of, self._stage, n = battery, stage, stage.n_clients
        self._capacity = battery.capacity_wh * _J_PER_WH
        low, high = battery.first, battery.first_most
        drawn = rng.uniform(rng.key(stage.seed, "battery", "first"), np.arange(n))
        self._first = self._capacity * (low + (high - low) * drawn)
        shift = 2 * rng.uniform(rng.key(stage.seed, "battery", "plugged"), np.arange(n)) - 1
        self._shift = np.rint(shift * battery.spread).astype(np.int64)
        self._level = self._first.copy()
        self._charged, self._idle, self._tasks = np.zeros(n), np.zeros(n), np.zeros(n)
        self._low = np.zeros(n, np.bool_)
        self._meter, self._at, self._plugged = stage.meter(), stage.now, self._is_plugged()
        stage.at_end(self._end)
        self._leave()

    def look(self) -> None:
        """What happened since the last look, and who leaves or comes back for it."""
        self._account()
        self._leave()

    def _account(self) -> None:
        battery, passed = self._of, (self._stage.now - self._at) / MS_PER_SECOND
        spent: IntArray = self._meter.read()
        work = (spent[1] * battery.train_w + (spent[0] + spent[2]) * battery.radio_w) / MS_PER_SECOND
        given = np.where(self._plugged, battery.charge_w * passed, 0.0)
        have = self._level + given
        work = np.minimum(work, have)
        idle = np.minimum(battery.idle_w * passed, have - work)
        left = have - work - idle
        too_much = np.maximum(left - self._capacity, 0)
        self._charged += given - too_much
        self._tasks += work
        self._idle += idle
        self._level = left - too_much
        self._at, self._plugged = self._stage.now, self._is_plugged()

    def _leave(self) -> None:
        battery, stage = self._of, self._stage
        low = ~self._low & (self._level < battery.leave_below * self._capacity)
        full = self._low & (self._level >= battery.return_above * self._capacity)
        self._low = (self._low | low) & ~full
        if full.any():
            stage.restore_devices(np.flatnonzero(full))
        if low.any():
            stage.cut_devices(np.flatnonzero(low), None)

    def _is_plugged(self) -> BoolArray:
        """Who is on a charger now."""
        begin = self._of.plugged_from
        if begin is None:
            return self._stage.online_by_trace()
        return (self._stage.now + self._stage.start_ms - begin - self._shift) % MS_PER_DAY < self._of.plugged_for

    def _end(self) -> None:
        self._account()
        columns: dict[str, FloatArray] = {
            "first_j": self._first,
            "charged_j": self._charged,
            "idle_j": self._idle,
            "tasks_j": self._tasks,
            "last_j": self._level,
        }
        clients = np.arange(self._stage.n_clients)
        self._stage.record("energy", {"client": clients, "by": ["battery"] * len(clients), **columns})
