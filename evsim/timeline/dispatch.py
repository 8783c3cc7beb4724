"""Giving tasks to clients: what each costs, how it ends by the traces, its row, its entry in the calendar of ends."""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

import numpy as np

from evsim.base.errors import MisuseError
from evsim.base.units import FOREVER
from evsim.base.vocabulary import IntArray, Outcome
from evsim.cost.pricing import Price, SinglePrices
from evsim.cost.work import Work
from evsim.timeline.digest import TimelineHash
from evsim.timeline.fates import ARRIVES, LOST, STOPPED, fates, fates_at_completion, loss_known
from evsim.timeline.ledger import KINDS, NO_WEIGHT, Ledger
from evsim.timeline.world import CanStopEarly, Errand, World, cut

TRAIN, QUERY = KINDS.index("train"), KINDS.index("query")
_FEW = 8  # so many tasks are given one by one sooner than as arrays
_IN_FLIGHT = int(Outcome.IN_FLIGHT)


class Calendar(Protocol):
    """Where the ends of tasks are entered: `Endings`."""

    def enter(self, tasks: IntArray) -> None:
        """New tasks."""

    def enter_one(self, task: int, known_at: int) -> None:
        """`enter` of one task."""

    def move(self, tasks: IntArray) -> None:
        """Ends that become known at other instants."""


class Dispatcher:
    """Prices tasks, reads their fate from the traces, enters them and makes their clients busy.

    With constant links a task's fate follows from the traces, so everything about its end is known here; the server
    hears of it later.
    """

    def __init__(self, world: World, ledger: Ledger, endings: Calendar, digest: TimelineHash) -> None:
        self._world, self._clock, self._manager = world, world.clock, world.manager
        self._ledger, self._endings, self._digest, self._learning = ledger, endings, digest, world.learning
        self._n_tasks = np.zeros(len(world.samples), np.int64)
        self.training = Errand(TRAIN, world.work, world.wire_bytes, partial=world.partial, drawn=world.drawn_work)
        self._prices = _single_prices(world)
        self._whole = replace(world.pricing, compute_share=None)  # a query is about the whole model
        self._throughout = world.pricing.cost.availability_check == "throughout"
        # The same storage as Python integers, for tasks that are given one at a time.
        self._one_nth, self._one_samples = self._n_tasks.data, world.samples.data
        self._one_until = world.sessions.online_until.data
        nothing, (down, up) = np.zeros(len(world.samples), np.int64), world.sizes
        self._one_down, self._one_up = (nothing + down).data, (nothing + up).data
        #: Most local steps of a task, by client; 0: as many as are scheduled.
        self.limits: IntArray = nothing if world.own is None else world.own.max_steps
        self._one_limit = self.limits.data

    @property
    def asked(self) -> IntArray:
        """Ids of the clients that got a task or a query so far, ascending."""
        return np.flatnonzero(self._n_tasks)

    def give(
        self, number: int, version: int, clients: IntArray, errand: Errand, loss_by: int, stop_at: int
    ) -> IntArray:
        """A task for each client; their ids.

        Args:
            number: of the round or buffer.
            version: of the model that is sent.
            clients: idle clients.
            errand: what they are sent to do.
            loss_by: a loss is known by then at the latest, ms.
            stop_at: what lasts longer is stopped, ms.
        """
        self._assign(clients, counted=errand.kind == TRAIN)
        if len(clients) <= _FEW and self._prices is not None and errand is self.training:
            now = self._clock.now
            rows = [self.give_one(number, version, client, loss_by, stop_at, now) for client in clients.tolist()]
            tasks, nth = (np.array(column) for column in zip(*rows, strict=True))
            max_steps = self.limits[clients]
        else:
            tasks, nth, max_steps = self._many(number, version, clients, errand, loss_by, stop_at)
            self._endings.enter(tasks)
        if errand.kind == TRAIN:
            self._learning.dispatched(tasks, clients, nth, max_steps)
        return tasks

    def move(self, tasks: IntArray, planned_end: IntArray) -> None:
        """These tasks, still at work, would arrive at other instants than planned: read their fates again.

        Whoever moves ends must tell the agenda that the future changed.
        """
        column, clients = self._ledger.column, self._ledger.column("client", tasks)
        leaves_at, loss_by, stop_at = (column(name, tasks) for name in ("leaves_at", "loss_by", "stop_at"))
        self._set_fate(tasks, self._fate(clients, planned_end, leaves_at, loss_by, stop_at))
        self._endings.move(tasks)

    @property
    def busy(self) -> bool:
        """Whether a task is at work whose end is not in the calendar."""
        return False

    def stopped(self, tasks: IntArray) -> None:
        """The server stopped tasks, as the ledger says."""

    def freeze(self) -> None:
        """The run is over: note how far everybody came."""

    def _set_fate(self, tasks: IntArray, fates: tuple[IntArray, IntArray, IntArray]) -> None:
        for name, values in zip(("ended_at", "fate", "known_at"), fates, strict=True):
            self._ledger.set(name, tasks, values)

    def _assign(self, clients: IntArray, *, counted: bool) -> None:
        """A client never has two tasks; an aggregator written by others may try."""
        idle = self._manager.n_idle_among(None)
        least = clients[0] if len(clients) == 1 else clients.min()
        self._manager.assign(clients, counted=counted)
        if idle - self._manager.n_idle_among(None) != len(clients) or least < 0:
            raise MisuseError(
                "a client was given a task that is not idle, or two tasks at once; expected clients that "
                "select_clients chose, each once"
            )

    def _many(
        self, number: int, version: int, clients: IntArray, errand: Errand, loss_by: int, stop_at: int
    ) -> tuple[IntArray, IntArray, IntArray]:
        world, now = self._world, self._clock.now
        nth = self._n_tasks[clients]
        self._n_tasks[clients] += 1
        samples = world.samples[clients]
        if errand.max_samples is not None:
            samples = np.minimum(samples, errand.max_samples)
        work, (down, up), max_steps = self._asked_for(clients, nth, samples, errand)
        pricing = world.pricing if errand.kind == TRAIN else self._whole
        price = pricing.price(clients, nth, work, (down, up), now)
        if errand.partial is not None and min(loss_by, stop_at) < FOREVER:
            fewer = self._whole_steps(errand.partial, work, samples, price, min(loss_by, stop_at) - now)
            max_steps = np.where((fewer > 0) & ((max_steps == 0) | (fewer < max_steps)), fewer, max_steps)
            work = cut(errand.partial, work, samples, fewer)
            price = world.pricing.price(clients, nth, work, (down, up), now)
        leaves_at = world.sessions.online_until[clients]
        ended, fate, known = self._fate(clients, now + price.total_ms, leaves_at, loss_by, stop_at)
        tasks = self._ledger.add(
            {
                "client": clients,
                "round": number,
                "version": version,
                "kind": errand.kind,
                "nth": nth,
                "max_steps": max_steps,
                "dispatched_at": now,
                "leaves_at": leaves_at,
                "loss_by": loss_by,
                "stop_at": stop_at,
                "ended_at": ended,
                "known_at": known,
                "fate": fate,
                "outcome": _IN_FLIGHT,
                "staleness": -1,
                "server_step": -1,
                "used_at": -1,
                "weight": NO_WEIGHT,
                "samples": samples,
                "charged_samples": price.charged_samples,
                "bytes_down": down,
                "bytes_up": up,
                "download_ms": price.download_ms,
                "compute_ms": price.compute_ms,
                "upload_ms": price.upload_ms,
            }
        )
        self._digest.add(tasks, clients, ended, fate, known, np.full(len(tasks), now))
        return tasks, nth, max_steps

    def expect(self, clients: IntArray) -> None:
        """These clients are likely to get the next tasks, one each."""
        if self._prices is not None:
            self._prices.expect(clients, self._n_tasks[clients])

    @property
    def gives_one(self) -> bool:
        """Whether there is `give_one`: where a task's price and fate depend on no more than its client."""
        return self._prices is not None

    def give_one(self, number: int, version: int, client: int, loss_by: int, stop_at: int, now: int) -> tuple[int, int]:
        """`_many` and its entry in the calendar, for one task of training; its id, and which of its client's it is.

        Without array overhead: asynchronous servers refill slot by slot, maybe ahead of the clock, for `now`.
        """
        assert self._prices is not None  # noqa: S101  for the type checker
        nth = self._one_nth[client]
        self._one_nth[client] = nth + 1
        download, compute, upload, charged = self._prices.of(client, nth)
        leaves_at = self._one_until[client]
        ended, fate, known = self._fate_of_one(client, now + download + compute + upload, leaves_at, loss_by, stop_at)
        down, up, max_steps = self._one_down[client], self._one_up[client], self._one_limit[client]
        task = self._ledger.add_row(  # a value for each of the ledger's columns, in their order
            client,
            number,
            version,
            TRAIN,
            nth,
            max_steps,
            now,
            leaves_at,
            loss_by,
            stop_at,
            ended,
            known,
            fate,
            _IN_FLIGHT,
            -1,
            -1,
            -1,
            NO_WEIGHT,
            self._one_samples[client],
            charged,
            down,
            up,
            download,
            compute,
            upload,
        )
        self._digest.add_one(task, client, ended, fate, known, now)
        self._endings.enter_one(task, known)
        return task, nth

    def _asked_for(
        self, clients: IntArray, nth: IntArray, samples: IntArray, errand: Errand
    ) -> tuple[Work, tuple[IntArray, IntArray], IntArray]:
        """The work of tasks, their bytes down and up, and most steps (0: all)."""
        own = self._world.own
        if own is None or errand is not self.training:
            down, up = (np.full(len(clients), size, np.int64) for size in errand.wire_bytes)
            return errand.work_of(samples, clients, nth), (down, up), np.zeros(len(clients), np.int64)
        work = own.work_at(clients) if errand.drawn is None else errand.drawn(samples, clients, nth)
        return work, (own.bytes_down[clients], own.bytes_up[clients]), self.limits[clients]

    def _whole_steps(
        self, partial: CanStopEarly, work: Work, samples: IntArray, price: Price, left_ms: int
    ) -> IntArray:
        """Steps that fit for clients that would be too late; 0, no limit, for the others and where not one fits."""
        budget = np.maximum(left_ms - price.download_ms - price.upload_ms - 1, 0)  # 1 ms for rounding
        fits = self._world.pricing.samples_within(price, work, budget)
        return np.where(price.total_ms > left_ms, partial.n_steps_within(samples, fits), 0)

    def _fate(
        self, clients: IntArray, finish: IntArray, leaves_at: IntArray, loss_by: IntArray | int, stop_at: IntArray | int
    ) -> tuple[IntArray, IntArray, IntArray]:
        """When each task ends, how, and when the server knows."""
        trace = self._world.availability
        if self._throughout:
            ended, fate = fates(finish, leaves_at, stop_at)
        else:  # a report that arrives exactly at check-out counts
            present = trace.is_online(clients, finish) | trace.is_online(clients, finish - 1)
            ended, fate = fates_at_completion(finish, present, stop_at)
        lost = fate == LOST
        if not lost.any():
            return ended, fate, ended
        known = ended.copy()
        patience = loss_by if isinstance(loss_by, int) else loss_by[lost]
        known[lost] = loss_known(ended[lost], trace.next_check_in(clients[lost], ended[lost]), patience)
        return ended, fate, known

    def _fate_of_one(
        self, client: int, finish: int, leaves_at: int, loss_by: int, stop_at: int
    ) -> tuple[int, int, int]:
        """`_fate` of one task that its device must stay for."""
        ended = min(finish, leaves_at)
        if ended > stop_at:
            return stop_at, STOPPED, stop_at
        if finish <= leaves_at:
            return ended, ARRIVES, ended
        back = self._world.availability.next_check_in_of(client, ended)
        return ended, LOST, max(ended, min(back, loss_by))


def _single_prices(world: World) -> SinglePrices | None:
    """Prices for tasks given one at a time; None where a task's price or fate depends on more than its client."""
    pricing = world.pricing
    varies = world.partial is not None or world.drawn_work is not None
    if varies or not pricing.network.is_constant or pricing.cost.availability_check != "throughout":
        return None
    return SinglePrices(pricing, world.whole_work, world.sizes)
