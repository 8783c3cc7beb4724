"""Giving tasks in a world that moves: their ends come when they come."""

from __future__ import annotations

from collections.abc import Callable
from typing import final

import numpy as np
from typing_extensions import override

from evsim.base.units import FOREVER
from evsim.base.vocabulary import IntArray
from evsim.timeline.digest import TimelineHash
from evsim.timeline.dispatch import Dispatcher
from evsim.timeline.endings import Endings
from evsim.timeline.ledger import Ledger
from evsim.timeline.transfers import Transfers
from evsim.timeline.world import Errand, World


@final
class _Awaited:
    """Ends that will be entered into the calendar when they have come."""

    def __init__(self, endings: Endings) -> None:
        self._endings = endings
        self.move = endings.move

    def enter(self, tasks: IntArray) -> None:
        self._endings.in_flight += len(tasks)

    def enter_one(self, task: int, known_at: int) -> None:
        self._endings.in_flight += 1


@final
class MovingDispatcher(Dispatcher):
    """A dispatcher whose tasks go through their phases one by one (`transfers.py`).

    Args:
        world: the parts.
        ledger: of tasks.
        endings: the calendar; an end is entered when it has come.
        digest: gets a row when a task is given, as if it never ended, and one when its end has come.
        changed: told of tasks whose end has come.
    """

    def __init__(
        self,
        world: World,
        ledger: Ledger,
        endings: Endings,
        digest: TimelineHash,
        changed: Callable[[IntArray], None],
    ) -> None:
        super().__init__(world, ledger, _Awaited(endings), digest)
        self._changed, self._calendar = changed, endings
        self.transfers = Transfers(world.clock, ledger, world.pricing, self._arrived, self._come)

    @property
    @override
    def gives_one(self) -> bool:
        return False  # not ahead of the clock

    @property
    @override
    def busy(self) -> bool:
        return self.transfers.busy

    @override
    def give(
        self, number: int, version: int, clients: IntArray, errand: Errand, loss_by: int, stop_at: int
    ) -> IntArray:
        tasks = super().give(number, version, clients, errand, loss_by, stop_at)
        self.transfers.begin(tasks)
        return tasks

    @override
    def stopped(self, tasks: IntArray) -> None:
        self.transfers.stopped(tasks)

    @override
    def freeze(self) -> None:
        self.transfers.freeze()

    @override
    def _fate(
        self, clients: IntArray, finish: IntArray, leaves_at: IntArray, loss_by: IntArray | int, stop_at: IntArray | int
    ) -> tuple[IntArray, IntArray, IntArray]:
        return super()._fate(clients, np.full_like(finish, FOREVER), leaves_at, loss_by, stop_at)

    @override
    def _fate_of_one(
        self, client: int, finish: int, leaves_at: int, loss_by: int, stop_at: int
    ) -> tuple[int, int, int]:
        return super()._fate_of_one(client, FOREVER, leaves_at, loss_by, stop_at)

    def _arrived(self, tasks: IntArray) -> None:
        """Reports arrive now."""
        column, now = self._ledger.column, np.full(len(tasks), self._clock.now)
        leaves_at, loss_by, stop_at = (column(name, tasks) for name in ("leaves_at", "loss_by", "stop_at"))
        self._set_fate(tasks, super()._fate(column("client", tasks), now, leaves_at, loss_by, stop_at))
        self._come(tasks)

    def _come(self, tasks: IntArray) -> None:
        """The ends of these tasks have come."""
        column, now = self._ledger.column, np.full(len(tasks), self._clock.now)
        known = column("known_at", tasks)
        self._digest.add(tasks, column("client", tasks), column("ended_at", tasks), column("fate", tasks), known, now)
        self._calendar.in_flight -= len(tasks)
        self._calendar.enter(tasks)
        self._changed(tasks)
