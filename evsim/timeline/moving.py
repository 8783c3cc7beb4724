"""Giving tasks in a world that moves: their ends come when they come."""

from __future__ import annotations

from collections.abc import Callable
from typing import final

import numpy as np
from typing_extensions import override

from evsim.base.units import FOREVER
from evsim.base.vocabulary import BoolArray, IntArray, Outcome, Rank
from evsim.timeline.digest import TimelineHash
from evsim.timeline.dispatch import Dispatcher
from evsim.timeline.endings import Endings
from evsim.timeline.fates import ARRIVES, LOST, STOPPED, loss_known
from evsim.timeline.ledger import Ledger
from evsim.timeline.transfers import Transfers
from evsim.timeline.world import Errand, World

_OPEN = int(Outcome.IN_FLIGHT)


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
        self._last = np.full(len(world.samples), -1, np.int64)  # each client's last task
        self._link_until = np.zeros(len(world.samples), np.int64)
        self._down_until = 0
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
        self._last[clients] = tasks
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

    # -- what actors change -----------------------------------------------------------------------------------------

    def devices_changed(self, clients: IntArray, *, leave: bool) -> None:
        """These clients' devices are kept away from now on, or no longer: their tasks are looked at again."""
        now, column = self._clock.now, self._ledger.column
        tasks = self._last[clients]
        tasks = tasks[tasks >= self._ledger.first]
        tasks = tasks[(column("outcome", tasks) == _OPEN) & (column("known_at", tasks) > now)]
        live = self._are_live(tasks)
        if leave and self._throughout:
            self._ledger.set("leaves_at", tasks[live], now)
            self._end_now(tasks[live], LOST, FOREVER)
        unknown = tasks[~live & (column("fate", tasks) == LOST)]
        known = self._loss_known(unknown)
        moved = known != column("known_at", unknown)
        self._ledger.set("known_at", unknown, known)
        self._calendar.move(unknown[moved])

    def hold_links(self, clients: IntArray, until: int) -> None:
        """Transfers of these clients stand still until an instant."""
        self._link_until[clients] = np.maximum(self._link_until[clients], until)
        flags = np.zeros(len(self._link_until), np.bool_)
        flags[clients] = True
        self.transfers.hold(flags, held=True)
        self._clock.call(until, Rank.WORLD, self._links_back)

    def server_down(self, until: int, *, keep: bool) -> None:
        """The server hears nothing until an instant; tasks at work are stopped, or kept while links stand still."""
        now, column = self._clock.now, self._ledger.column
        self._down_until = max(self._down_until, until)
        tasks = self._ledger.unresolved()
        live, known = self._are_live(tasks), column("known_at", tasks)
        late = tasks[~live & (known >= now) & (known < self._down_until) & (column("fate", tasks) != ARRIVES)]
        self._ledger.set("known_at", late, self._down_until)
        self._calendar.move(late)
        if keep:
            self.transfers.hold(np.ones(len(self._link_until), np.bool_), held=True)
            self._clock.call(until, Rank.WORLD, self._links_back)
        else:
            self._end_now(tasks[live], STOPPED, self._down_until)

    def _links_back(self) -> None:
        now = self._clock.now
        if self._down_until <= now:
            self.transfers.hold(self._link_until <= now, held=False)

    def _end_now(self, tasks: IntArray, fate: int, known_at: int) -> None:
        """Tasks at work end at this instant."""
        now = np.full(len(tasks), self._clock.now)
        self._set_fate(tasks, (now, np.full_like(now, fate), np.full_like(now, known_at)))
        self.transfers.ends_moved(tasks)
        self.transfers.catch_up()

    def _are_live(self, tasks: IntArray) -> BoolArray:
        live = self.transfers.at_work()
        return np.array([task in live for task in tasks.tolist()], np.bool_)

    def _loss_known(self, tasks: IntArray) -> IntArray:
        """When the server knows of losses, as devices return and it is up."""
        column, trace = self._ledger.column, self._world.availability
        ended, clients = column("ended_at", tasks), column("client", tasks)
        back = trace.next_check_in(clients, np.maximum(ended, self._clock.now))
        return np.maximum(loss_known(ended, back, column("loss_by", tasks)), self._floor)

    @property
    def _floor(self) -> int:
        """The server knows of nothing earlier that happens now."""
        return self._down_until if self._down_until > self._clock.now else 0

    # -- inside -----------------------------------------------------------------------------------------------------

    def _arrived(self, tasks: IntArray) -> None:
        """Reports arrive now."""
        column, now = self._ledger.column, np.full(len(tasks), self._clock.now)
        if self._throughout:  # nobody has left, and nothing is over: that would have come first
            self._set_fate(tasks, (now, np.full_like(now, ARRIVES), now))
        else:
            leaves_at, loss_by, stop_at = (column(name, tasks) for name in ("leaves_at", "loss_by", "stop_at"))
            self._set_fate(tasks, super()._fate(column("client", tasks), now, leaves_at, loss_by, stop_at))
        self._come(tasks)

    def _come(self, tasks: IntArray) -> None:
        """The ends of these tasks have come."""
        column, now = self._ledger.column, np.full(len(tasks), self._clock.now)
        lost = tasks[column("fate", tasks) == LOST]
        if len(lost):
            self._ledger.set("known_at", lost, self._loss_known(lost))
        known = np.maximum(column("known_at", tasks), self._floor)
        self._ledger.set("known_at", tasks, known)
        self._digest.add(tasks, column("client", tasks), column("ended_at", tasks), column("fate", tasks), known, now)
        self._calendar.in_flight -= len(tasks)
        self._calendar.enter(tasks)
        self._changed(tasks)
