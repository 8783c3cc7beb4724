"""Giving tasks to clients: what each costs, how it ends by the traces, and its row in the book."""

from __future__ import annotations

import hashlib
import struct
from typing import Any, final

import numpy as np

from evsim.base.units import FOREVER
from evsim.base.vocabulary import IntArray, Outcome
from evsim.cost.pricing import Price, SinglePrices
from evsim.timeline.ledger import KINDS, NO_WEIGHT, Fate, TaskBook
from evsim.timeline.world import Errand, NoLearning, World, cut

TRAIN, QUERY = KINDS.index("train"), KINDS.index("query")
_NO_LIMIT = np.zeros(1, np.int64)
_LOST, _ARRIVES, _STOPPED, _IN_FLIGHT = int(Fate.LOST), int(Fate.ARRIVES), int(Fate.STOPPED), int(Outcome.IN_FLIGHT)


@final
class TimelineHash:
    """A digest of rows of integers, the same however many are given at once."""

    def __init__(self) -> None:
        self._digest = hashlib.blake2b(digest_size=16)
        self._pack = struct.Struct("<6q").pack

    def add(self, *columns: Any) -> None:
        """Rows one after the other, as columns of equal length."""
        self._digest.update(np.stack([np.asarray(c, np.int64) for c in columns], axis=1).astype("<i8").tobytes())

    def add_one(self, *numbers: int) -> None:
        """One row of six numbers; the same bytes without array overhead."""
        self._digest.update(self._pack(*numbers))

    def hexdigest(self) -> str:
        """The digest so far."""
        return self._digest.hexdigest()


@final
class Dispatcher:
    """Prices tasks, reads their fate from the traces, enters them in the book and makes their clients busy.

    A task's fate follows from the traces, so everything about its end is known here; the server hears of it later.
    """

    def __init__(self, world: World, book: TaskBook, digest: TimelineHash) -> None:
        self._world, self._clock, self._manager = world, world.clock, world.manager
        self._book, self._digest = book, digest
        self._n_tasks = np.zeros(len(world.samples), np.int64)
        self._errand = Errand(TRAIN, world.work, world.wire_bytes, partial=world.partial)
        self._prices = _single_prices(world)
        self._learns = not isinstance(world.learning, NoLearning)  # a dry run has no inputs to fix
        # The same storage as Python integers, for tasks that are given one at a time.
        self._one_nth, self._one_samples = self._n_tasks.data, world.samples.data
        self._one_until = world.replay.online_until.data

    @property
    def asked(self) -> IntArray:
        """Ids of the clients that got a task or a query so far, ascending."""
        return np.flatnonzero(self._n_tasks)

    def train(self, number: int, version: int, clients: IntArray, deadline: int, stop_at: int) -> IntArray:
        """Tasks of training, of a round or buffer and from a version; returns their ids.

        A loss is known by the `deadline` at the latest, and what lasts longer than `stop_at` is stopped.
        """
        tasks = self._enter(number, version, clients, self._errand, deadline, stop_at)
        nth, max_steps = self._book.column("nth", tasks), self._book.column("max_steps", tasks)
        self._world.learning.dispatched(tasks, clients, nth, max_steps)
        return tasks

    def refill(self, number: int, version: int, clients: IntArray, stop_at: int) -> None:
        """`train` for slots of a buffer; nearly always one, which is then given without array overhead."""
        if len(clients) > 1 or self._prices is None:
            self.train(number, version, clients, stop_at, stop_at)
            return
        client = int(clients[0])
        nth = self._one_nth[client]
        task = self._enter_one(number, version, client, self._prices, stop_at)
        if self._learns:
            self._world.learning.dispatched(np.array([task]), clients, np.array([nth]), _NO_LIMIT)

    def ask(self, number: int, version: int, clients: IntArray, errand: Errand, stop_at: int) -> IntArray:
        """Tasks that only answer a query; returns their ids."""
        return self._enter(number, version, clients, errand, stop_at, stop_at)

    def _enter(
        self, number: int, version: int, clients: IntArray, errand: Errand, deadline: int, stop_at: int
    ) -> IntArray:
        world, now = self._world, self._clock.now
        nth = self._n_tasks[clients]
        self._n_tasks[clients] += 1
        samples = world.samples[clients]
        if errand.max_samples is not None:
            samples = np.minimum(samples, errand.max_samples)
        down, up = (np.full(len(clients), size, np.int64) for size in errand.wire_bytes)
        price = world.pricing.price(clients, nth, errand.work(samples), (down, up), now)
        max_steps = np.zeros(len(clients), np.int64)
        if errand.partial is not None and min(deadline, stop_at) < FOREVER:
            max_steps = self._whole_steps(errand, samples, price, min(deadline, stop_at) - now)
            work = cut(errand.partial, errand.work(samples), samples, max_steps)
            price = world.pricing.price(clients, nth, work, (down, up), now)
        ended, fate, known = self._fate(clients, price, deadline, stop_at)
        tasks = self._book.add(
            {
                "client": clients,
                "round": number,
                "version": version,
                "kind": errand.kind,
                "nth": nth,
                "max_steps": max_steps,
                "dispatched_at": now,
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
        if errand.kind == TRAIN:
            self._manager.assign(clients)
        else:
            self._manager.assign_query(clients)
        self._digest.add(tasks, clients, ended, fate, known, np.full(len(tasks), now))
        return tasks

    def _enter_one(self, number: int, version: int, client: int, prices: SinglePrices, stop_at: int) -> int:
        """`_enter` for one task of training, without array overhead: asynchronous servers refill slot by slot."""
        world, now = self._world, self._clock.now
        nth = self._one_nth[client]
        self._one_nth[client] = nth + 1
        download, compute, upload, charged = prices.of(client, nth)
        ended, fate, known = self._fate_of_one(client, now + download + compute + upload, stop_at)
        task = self._book.add_one(
            {
                "client": client,
                "round": number,
                "version": version,
                "kind": TRAIN,
                "nth": nth,
                "max_steps": 0,
                "dispatched_at": now,
                "ended_at": ended,
                "known_at": known,
                "fate": fate,
                "outcome": _IN_FLIGHT,
                "staleness": -1,
                "server_step": -1,
                "used_at": -1,
                "weight": NO_WEIGHT,
                "samples": self._one_samples[client],
                "charged_samples": charged,
                "bytes_down": world.wire_bytes[0],
                "bytes_up": world.wire_bytes[1],
                "download_ms": download,
                "compute_ms": compute,
                "upload_ms": upload,
            }
        )
        self._manager.assign_one(client)
        self._digest.add_one(task, client, ended, fate, known, now)
        return task

    def _whole_steps(self, errand: Errand, samples: IntArray, price: Price, left_ms: int) -> IntArray:
        """Steps that fit for clients that would be too late; 0, no limit, for the others and where not one fits."""
        if errand.partial is None:
            return np.zeros_like(samples)
        budget = np.maximum(left_ms - price.download_ms - price.upload_ms - 1, 0)  # 1 ms for rounding
        fits = self._world.pricing.samples_within(price, errand.work(samples), budget)
        return np.where(price.total_ms > left_ms, errand.partial.n_steps_within(samples, fits), 0)

    def _fate(
        self, clients: IntArray, price: Price, deadline: int, stop_at: int
    ) -> tuple[IntArray, IntArray, IntArray]:
        """When each task ends, how, and when the server knows."""
        trace, finish = self._world.availability, self._clock.now + price.total_ms
        if self._world.pricing.cost.availability_check == "throughout":
            until = self._world.replay.online_until[clients]
            fate, ended = (finish <= until).astype(np.int64), np.minimum(finish, until)
        else:  # a report that arrives exactly at check-out counts
            present = trace.is_online(clients, finish) | trace.is_online(clients, finish - 1)
            fate, ended = present.astype(np.int64), finish
        fate = np.where(ended > stop_at, _STOPPED, fate)
        ended = np.minimum(ended, stop_at)
        lost = fate == _LOST
        if not lost.any():
            return ended, fate, ended
        known = ended.copy()
        back = trace.next_check_in(clients[lost], ended[lost])
        known[lost] = np.maximum(ended[lost], np.minimum(back, deadline))
        return ended, fate, known

    def _fate_of_one(self, client: int, finish: int, stop_at: int) -> tuple[int, int, int]:
        """`_fate` of one task that its device must stay for."""
        until = self._one_until[client]
        ended = min(finish, until)
        if ended > stop_at:
            return stop_at, _STOPPED, stop_at
        if finish <= until:
            return ended, _ARRIVES, ended
        back = self._world.availability.next_check_in_of(client, ended)
        return ended, _LOST, max(ended, min(back, stop_at))


def _single_prices(world: World) -> SinglePrices | None:
    """Prices for tasks given one at a time; None where a task's price or fate depends on more than its client."""
    pricing = world.pricing
    if not pricing.network.is_constant or pricing.cost.availability_check != "throughout" or world.partial is not None:
        return None
    return SinglePrices(pricing, world.work(world.samples), world.wire_bytes)
