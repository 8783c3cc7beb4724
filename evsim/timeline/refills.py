"""Slots refilled one by one ahead of the clock: what an asynchronous server does between two decisions, in one pass.

While nobody else looks, each end of a task has the same answer: another client gets one. `Desk.select_clients`, `give`
and `wait` would do so too, an instant at a time, for ten times the cost. This is the one place where speed comes before
form; the law that it changes nothing is `tests/laws/test_single_tasks.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import numpy as np

from evsim.base.units import FOREVER
from evsim.timeline.fates import ARRIVES

if TYPE_CHECKING:
    from evsim.aggregation.base import Cohort
    from evsim.timeline.server import LiveServer

_TOLD = ("checked_in", "checked_out", "reported", "stopped", "selected", "dispatched")


@final
class Refills:
    """Refills slots of the only aggregator process of a server, which sees all clients."""

    def __init__(self, server: LiveServer) -> None:
        self._server, self._one = server, server.manager.one_by_one
        told = any(server.audience.hears(fact) for fact in _TOLD)
        self._possible = not told and self._one is not None and self._one.chooses and server.dispatcher.gives_one
        if self._one is not None:
            self._one.on_likely = server.dispatcher.expect

    def run(self, buffer: Cohort, reports: int, timeout: int | None, until: int) -> int:
        """Go on until the last but one of so many reports has arrived, or something else is going to happen.

        Stops before an instant at which a decision is due: another event of the clock or `until`, several ends at once,
        nobody idle.

        Returns:
            How many clients were idle when the last one was chosen; -1 if nothing was done.
        """
        server, one, idle = self._server, self._one, -1
        if one is None or not self._possible or not server.agenda.is_alone or server.n_processes > 1:
            return idle
        endings, dispatcher, cohorts, cell = server.endings, server.dispatcher, server.cohorts, server.ledger.cell
        edge_before, observed = server.world.sessions.take_single, server.registration.hear_one
        number, version, stop_at = buffer.round, server.version, FOREVER
        given, end = _Given(server), min(until, server.clock.next_at)
        while reports > 1 and (now := endings.alone_before(end)) >= 0:
            while (edge := edge_before(now)) is not None:
                observed(edge)
            if not one.n_idle:
                break
            task = endings.take_alone()
            if cell("fate", task) == ARRIVES:
                reports -= 1
            else:
                given.tell()  # or a task might be discarded before it was dispatched
            cohorts.hear_one(task)
            idle = one.n_idle
            client = one.choose(now, number)
            if timeout is not None:
                stop_at = now + timeout
            task, nth = dispatcher.give_one(number, version, client, stop_at, stop_at, now)
            one.occupy(client)
            cohorts.gave(buffer, 1)
            given.add(task, client, nth)
        given.tell()
        return idle


@final
class _Given:
    """Tasks of which the learning side has not heard; it hears of many at once, in order."""

    def __init__(self, server: LiveServer) -> None:
        self._learning, self._limits = server.world.learning, server.dispatcher.limits
        self._rows: list[tuple[int, int, int]] = []

    def add(self, *row: int) -> None:
        """A task, its client, which of its client's it is."""
        self._rows.append(row)  # type: ignore[arg-type]

    def tell(self) -> None:
        """Everything so far."""
        if self._rows:
            tasks, clients, nth = (np.array(column) for column in zip(*self._rows, strict=True))
            self._learning.dispatched(tasks, clients, nth, self._limits[clients])
            self._rows = []
