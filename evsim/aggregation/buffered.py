"""Buffered asynchronous aggregation: FedBuff (Nguyen et al., AISTATS 2022); FedAsync is a buffer of one report."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, final

import numpy as np
from typing_extensions import override

from evsim.aggregation.base import Aggregator, Cohort, Process, Server
from evsim.base.caveat import Caveat
from evsim.base.errors import require
from evsim.base.units import FOREVER, MS_PER_MINUTE, Duration

if TYPE_CHECKING:
    from collections.abc import Iterator


@final
@dataclass(frozen=True, kw_only=True)
class Buffered(Aggregator):
    """Keep `concurrency` clients at work; step whenever the buffer holds enough reports.

    A slot is refilled, by the selector, when its report arrives or its loss becomes known: at that client's next
    check-in or after `task_timeout`, whichever is first. With nobody idle it stays open until the next check-in.

    Attributes:
        concurrency: most tasks at work at any time.
        buffer_size: reports per server step (FedBuff's K).
        max_staleness: a report that is staler when it arrives is wasted, and never trained.
        task_timeout: a task that lasts longer is stopped, ms; None: never. Half an hour is longer than nearly every
            task of the bundled phones, and a device that left holds its slot no longer than that.
        period: step at these intervals of virtual time, with whatever the buffer holds, and whenever it is full, ms. A
            period that passes while the server asks candidates for their losses ends when it has asked, and so do
            reports that arrive meanwhile: they are taken in then.
    """

    concurrency: int
    buffer_size: int
    max_staleness: int | None = None
    task_timeout: Duration | None = 30 * MS_PER_MINUTE
    period: Duration | None = None

    def __post_init__(self) -> None:
        require(self.concurrency >= 1, "concurrency must be >= 1", concurrency=self.concurrency)
        require(self.buffer_size >= 1, "buffer_size must be >= 1", buffer_size=self.buffer_size)
        stale, timeout, period = self.max_staleness, self.task_timeout, self.period
        require(stale is None or stale >= 0, "max_staleness must be >= 0", max_staleness=stale)
        require(timeout is None or timeout > 0, "task_timeout must be > 0", task_timeout=timeout)
        require(period is None or period > 0, "period must be > 0", period=period)

    @property
    @override
    def minimum_clients(self) -> int:
        return 1

    @property
    @override
    def reports_per_step(self) -> int:
        return self.buffer_size

    @override
    def caveats(self, scenario: Any) -> Iterator[Caveat]:
        """A server that never gives a device up; tasks that are too long for a timeout are told by `run.doubts`."""
        if scenario.population.availability != "always" and self.task_timeout is None:
            yield Caveat(
                "no_task_timeout",
                "a device that leaves holds its slot until it comes back, often for hours: fewer clients are at work "
                "than concurrency says, which slows this arm against rounds with a deadline",
                f'concurrency = {self.concurrency}, task_timeout = "none"',
                "set aggregation.task_timeout to a few times the duration of a slow task, such as the deadline of the "
                "rounds it is compared with, or leave it out",
            )

    @override
    def run(self, server: Server) -> Process[None]:
        filling = _Filling(server, server.open_buffer(self.buffer_size), self._next_step(server.now))
        while not server.finished:
            free, woke = self.concurrency - server.in_flight, server.now
            clients = (yield from server.select_clients(free, minimum=0)) if free else _NOBODY
            heard = server.now > woke and self._take_in(filling)  # while candidates were asked: the model may be newer
            if len(clients) and not server.finished:
                server.give(filling.buffer, clients, self.task_timeout)
            if not heard:
                if len(clients) == free and not server.finished:
                    self._refill(filling)
                yield from server.wait(or_check_in=len(clients) < free, until=filling.step_at)
                self._take_in(filling)

    def _refill(self, filling: _Filling) -> None:
        """Every slot is full: while each end of a task means that another one begins, there is nothing to decide."""
        wanted = self.buffer_size - len(filling.held)
        filling.server.refill(filling.buffer, wanted, self.task_timeout, filling.step_at)
        self._take_in(filling)

    def _take_in(self, filling: _Filling) -> bool:
        """Handle the reports that arrived and the period that is over; whether there was anything."""
        server = filling.server
        arrived, is_over = server.arrivals(), server.now >= filling.step_at
        for report in arrived:
            if server.finished:
                break
            self._take(filling, report)
        if is_over and not server.finished:
            filling.step_at = self._next_step(server.now)
            filling.step("period", self.buffer_size)
        return bool(arrived) or is_over

    def _take(self, filling: _Filling, report: int) -> None:
        server = filling.server
        if self.max_staleness is not None and server.staleness(report) > self.max_staleness:
            server.reject(filling.buffer, report)
            return
        server.accept(filling.buffer, report)
        filling.held.append(report)
        if len(filling.held) == self.buffer_size:
            filling.step("buffer", self.buffer_size)

    def _next_step(self, now: int) -> int:
        return FOREVER if self.period is None else now + self.period


@final
@dataclass
class _Filling:
    """The buffer that is being filled, when the server steps at the latest, and the reports it holds."""

    server: Server
    buffer: Cohort
    step_at: int
    held: list[int] = field(default_factory=list)

    def step(self, reason: str, size: int) -> None:
        """Step with what the buffer holds, if it holds anything, and open the next one."""
        if self.held:
            self.server.apply(self.buffer, np.array(self.held), reason)
            self.buffer, self.held = self.server.open_buffer(size), []


_NOBODY = np.empty(0, np.int64)
