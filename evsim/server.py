"""The live server: what aggregators see of the world, and the timeline's bookkeeping behind it.

Between two decisions nothing runs. At a decision `settle` brings the world up to now in bulk: check-ins and check-outs
from the replay, endings from the task book. The log equals that of settling at every instant.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable
from typing import Any, final

import numpy as np

from evsim.aggregation.base import Cohort, Process
from evsim.events import FloatArray, IntArray, Outcome, Rank
from evsim.selection.base import Answers, Query, Reports
from evsim.tasks import KINDS, Fate, TaskBook
from evsim.traces.cost import Price, PriceAhead
from evsim.units import FOREVER
from evsim.world import Errand, World, cut, forward_only

_LOST, _ARRIVES, _STOPPED, _IN_FLIGHT = int(Fate.LOST), int(Fate.ARRIVES), int(Fate.STOPPED), int(Outcome.IN_FLIGHT)
TRAIN, QUERY = KINDS.index("train"), KINDS.index("query")
_ANSWER_BYTES = 8  # one loss
_WRITE_ROWS = 100_000  # finished rows kept before they go to the journal


@final
class LiveServer:
    """Implements `aggregation.base.Server`.

    Args:
        world: the parts.
        on_step: called after every closed round with (applied, round); may end the run.
    """

    def __init__(self, world: World, on_step: Callable[[bool, int], None]) -> None:
        self._world, self._on_step = world, on_step
        self._clock, self._manager = world.clock, world.manager
        self.book = TaskBook(world.seed)
        self.version = 0
        self.rounds = 0
        self.end_reason = ""
        self._cohorts: dict[int, Cohort] = {}
        self._buffer: Cohort | None = None  # where reports go if the aggregator fills buffers
        self._kept: list[int] = []  # late reports that wait for the next step
        self._untold: list[tuple[IntArray, Any, FloatArray | None]] = []  # feedback the selector has not heard yet
        self._keep_late = False
        self._n_tasks = np.zeros(len(world.samples), np.int64)
        self._seen = np.zeros(len(world.samples), np.bool_)
        self._queries = 0  # in flight
        self._settled_at = -1
        self._training = Errand(TRAIN, world.work, world.wire_bytes, partial=world.partial)
        pricing = world.pricing
        one_by_one = pricing.network.is_constant and pricing.cost.availability_check == "throughout"
        one_by_one = one_by_one and world.partial is None
        self._ahead = PriceAhead(pricing, world.work, world.wire_bytes) if one_by_one else None
        self._has_data = world.samples > 0
        self._declared = world.pricing.declared_ms(world.work(world.samples), world.wire_bytes)
        self._hash = hashlib.blake2b(digest_size=16)
        self._check_in(world.replay.online_at_start())

    # -- the Server protocol ----------------------------------------------------------------------------------------

    @property
    def now(self) -> int:
        """The current instant."""
        return self._clock.now

    @property
    def finished(self) -> bool:
        """Whether the run is over."""
        return bool(self.end_reason)

    def select_clients(self, n: int, minimum: int) -> Process[IntArray]:
        """Wait for enough idle clients, query candidates if the selector wants to, then let it choose."""
        self.settle()
        while self._manager.n_idle < minimum:
            instant = self._next_chance(minimum - self._manager.n_idle)
            yield self._clock.forever() if instant is None else self._clock.at(instant, Rank.SERVER)
            self.settle()
        if not self._manager.selector.memoryless:
            self._tell_all()
        number = self.rounds if self._buffer is None else self._buffer.round
        query = self._manager.candidates(n, self.now, number)
        if query is not None and len(query.clients):
            yield from self._ask(query)
        return self._manager.select_clients(n, self.now, number)

    @property
    def in_flight(self) -> int:
        """Tasks whose end the server does not know."""
        return self.book.in_flight

    def dispatch(self, clients: IntArray, deadline: int) -> Cohort:
        """Start a round with these clients."""
        cohort = Cohort(self.rounds, self.now, deadline, invited=len(clients), unknown=len(clients))
        cohort.tasks = self._enter(cohort.round, clients, self._training, deadline, FOREVER)
        world = self._world
        nth, max_steps = (self.book.column(name, cohort.tasks) for name in ("nth", "max_steps"))
        world.learning.dispatched(cohort.tasks, clients, nth, max_steps)
        self._cohorts[cohort.round] = cohort
        self.rounds += 1
        return cohort

    def collect(self, cohort: Cohort, goal: int) -> Process[str]:
        """Sleep until the round closes: nothing the server could do happens earlier."""
        instant, reason = self._close_at(cohort, goal)
        yield self._clock.forever() if instant >= FOREVER else self._clock.at(instant, Rank.SERVER)
        self.settle()
        return reason

    def close(self, cohort: Cohort, reason: str, *, abort: bool, keep_late: bool) -> None:
        """What arrives from now on is surplus or late."""
        self._keep_late = keep_late
        cohort.close_code = Outcome.SURPLUS if reason == "goal" else Outcome.LATE
        pending = cohort.tasks[self.book.column("known_at", cohort.tasks) > self.now]
        if abort and len(pending):
            self._abort(cohort, pending)
        if cohort.unknown == 0:
            del self._cohorts[cohort.round]

    def durations(self, reports: IntArray) -> IntArray:
        """From dispatch to arrival of reports that arrived, ms."""
        return self.book.column("known_at", reports) - self.book.column("dispatched_at", reports)

    def take_late(self, max_staleness: int | None) -> IntArray:
        """Kept late reports for the step that is about to be made."""
        kept, self._kept = np.asarray(self._kept, np.int64), []
        if max_staleness is None or len(kept) == 0:
            return kept
        staleness = self.version - self.book.column("version", kept)
        self.book.set("staleness", kept, staleness)
        self._resolve(kept[staleness > max_staleness], Outcome.STALE)
        return kept[staleness <= max_staleness]

    def open_buffer(self) -> Cohort:
        """Start to fill a buffer."""
        self._buffer = Cohort(self.rounds, self.now)
        self.rounds += 1
        return self._buffer

    def refill(self, buffer: Cohort, clients: IntArray, timeout: int | None) -> None:
        """Give each client a task that may last so long."""
        if len(clients):
            stop_at = FOREVER if timeout is None else self.now + timeout
            if len(clients) == 1 and self._ahead is not None:
                tasks = self._enter_one(buffer.round, int(clients[0]), self._ahead, stop_at)
            else:
                tasks = self._enter(buffer.round, clients, self._training, stop_at, stop_at)
            nth, max_steps = (self.book.column(name, tasks) for name in ("nth", "max_steps"))
            self._world.learning.dispatched(tasks, clients, nth, max_steps)
            buffer.invited += len(clients)

    def wait(self, *, or_check_in: bool, until: int) -> Process[None]:
        """Sleep until something the server can see happens."""
        horizon = self._world.horizon
        instant = min(self.book.next_instant(), until)
        if or_check_in:
            first = self._world.replay.next_check_ins(1, min(instant, horizon))
            instant = int(first[0]) if len(first) else instant
        if instant >= FOREVER and horizon >= FOREVER:
            self.end("no_clients")
        yield self._clock.forever() if instant >= FOREVER else self._clock.at(instant, Rank.SERVER)
        self.settle()

    def staleness(self, task: int) -> int:
        """Server steps applied since the task was dispatched."""
        return self.version - self.book.cell("version", task)

    def accept(self, task: int) -> None:
        """A report enters the buffer; a selector that learns hears of its training now."""
        tasks = np.array([task])
        utility = None
        if self._manager.selector.needs_utility:
            utility = self._world.learning.train(tasks).utility
        self._tell(tasks, Outcome.AGGREGATED, utility)

    def reject(self, buffer: Cohort, task: int) -> None:
        """A report came with too much staleness."""
        buffer.stale += 1
        tasks = np.array([task])
        self.book.set("staleness", tasks, self.staleness(task))
        self._resolve(tasks, Outcome.STALE)

    def apply(self, cohort: Cohort, reports: IntArray, reason: str) -> None:
        """One server step from these reports; others that arrived for the round are surplus."""
        base = self.version
        feedback = self._world.learning.apply(reports)
        staleness = base - self.book.column("version", reports)
        applied = bool(feedback.valid.any())
        self.version += applied
        self.book.set("staleness", reports, staleness)
        self.book.set("server_step", reports[feedback.valid], self.version)
        outcomes = np.where(feedback.valid, Outcome.AGGREGATED, Outcome.INVALID)
        self.book.set("outcome", reports, outcomes)
        if cohort is not self._buffer:
            self._tell(reports, outcomes, feedback.utility if self._manager.selector.needs_utility else None)
            self._resolve(np.setdiff1d(cohort.reports, reports), Outcome.SURPLUS)
        self._row(cohort, reason if applied else "invalid", applied, staleness)

    def fail(self, cohort: Cohort, reports: IntArray, reason: str) -> None:
        """A round with too few reports."""
        self._resolve(reports, Outcome.ROUND_FAILED)
        self._row(cohort, reason, False, np.empty(0, np.int64))  # noqa: FBT003  the column is a flag

    # -- what the simulation uses -----------------------------------------------------------------------------------

    def end(self, reason: str) -> None:
        """End the run at this instant, after everything else of it; the first reason stands."""
        if not self.end_reason:
            self.end_reason = reason
            self._clock.call(self.now, Rank.END, self._clock.stop)

    def settle(self) -> None:
        """Bring the world up to now; once is enough for an instant, since a task lasts at least 1 ms."""
        if self._settled_at == self.now:
            return
        self._settled_at = self.now
        clients, check_in = self._world.replay.advance(self.now)
        if len(clients):
            self._observe(clients, check_in)
        known = self.book.pop_known(self.now)
        if len(known):
            self._endings(known)

    def finish(self) -> None:
        """Write the rows of all tasks; those lost without the server's knowledge are told as lost."""
        self.settle()
        open_tasks = self.book.unresolved()
        gone = (self.book.column("ended_at", open_tasks) <= self.now) & (self.book.column("fate", open_tasks) == _LOST)
        lost = open_tasks[gone]
        self.book.set("outcome", lost, Outcome.DROPPED)
        self.book.set("known_at", lost, FOREVER)
        self._write(everything=True)

    @property
    def timeline_hash(self) -> str:
        """Digest of every dispatch with its fate and of every closed round so far."""
        return self._hash.hexdigest()

    # -- inside -----------------------------------------------------------------------------------------------------

    def _enter(self, number: int, clients: IntArray, errand: Errand, deadline: int, stop_at: int) -> IntArray:
        """Price tasks, read their fate from the traces, enter them in the book; returns their ids."""
        world, now = self._world, self.now
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
        tasks = self.book.add(
            {
                "client": clients,
                "round": number,
                "version": self.version,
                "kind": errand.kind,
                "nth": nth,
                "max_steps": max_steps,
                "dispatched_at": now,
                "ended_at": ended,
                "known_at": known,
                "fate": fate,
                "outcome": Outcome.IN_FLIGHT,
                "staleness": -1,
                "server_step": -1,
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
        self._digest(tasks, clients, ended, fate, known, np.full(len(tasks), now))
        return tasks

    def _whole_steps(self, errand: Errand, samples: IntArray, price: Price, left_ms: int) -> IntArray:
        """Steps that fit for clients that would be too late; 0, no limit, for the others and where not one fits."""
        if errand.partial is None:
            return np.zeros_like(samples)
        budget = np.maximum(left_ms - price.download_ms - price.upload_ms - 1, 0)  # 1 ms for rounding
        fits = self._world.pricing.samples_within(price, errand.work(samples), budget)
        return np.where(price.total_ms > left_ms, errand.partial.n_steps_within(samples, fits), 0)

    def _enter_one(self, number: int, client: int, prices: PriceAhead, stop_at: int) -> IntArray:
        """`_enter` for one training task, without array overhead: asynchronous servers refill slot by slot."""
        world, now = self._world, self.now
        nth, samples = int(self._n_tasks[client]), int(world.samples[client])
        self._n_tasks[client] += 1
        download, compute, upload, charged = prices.of(client, nth, samples)
        finish, until = now + download + compute + upload, int(world.replay.online_until[client])
        fate, ended = (_ARRIVES, finish) if finish <= until else (_LOST, until)
        if ended > stop_at:
            fate, ended = _STOPPED, stop_at
        known, clients = ended, np.array([client])
        if fate == _LOST:
            known = max(ended, min(int(world.availability.next_check_in(clients, ended)[0]), stop_at))
        row = {"client": client, "round": number, "version": self.version, "kind": TRAIN, "nth": nth, "max_steps": 0}
        row |= {"dispatched_at": now, "ended_at": ended, "known_at": known, "fate": fate, "outcome": _IN_FLIGHT}
        row |= {"staleness": -1, "server_step": -1, "samples": samples, "charged_samples": charged}
        row |= {"bytes_down": world.wire_bytes[0], "bytes_up": world.wire_bytes[1]}
        row |= {"download_ms": download, "compute_ms": compute, "upload_ms": upload}
        task = self.book.add_one(row)
        self._manager.assign(clients)
        self._digest([task], [client], [ended], [fate], [known], [now])
        return np.array([task])

    def _fate(
        self, clients: IntArray, price: Price, deadline: int, stop_at: int
    ) -> tuple[IntArray, IntArray, IntArray]:
        """When each task ends, how, and when the server knows."""
        trace, now = self._world.availability, self.now
        finish = now + price.total_ms
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

    def _close_at(self, cohort: Cohort, goal: int) -> tuple[int, str]:
        known = self.book.column("known_at", cohort.tasks)
        arrivals = known[self.book.column("fate", cohort.tasks) == _ARRIVES]
        at_goal = int(np.partition(arrivals, goal - 1)[goal - 1]) if len(arrivals) >= goal else FOREVER
        at_end = int(known.max())
        if at_goal <= min(cohort.deadline, at_end):
            return at_goal, "goal"
        return (cohort.deadline, "deadline") if cohort.deadline <= at_end else (at_end, "exhausted")

    def _next_chance(self, missing: int) -> int | None:
        """The earliest instant at which so many more clients could be idle; None if that never comes."""
        replay, horizon = self._world.replay, self._world.horizon
        chances = sorted(replay.next_check_ins(missing, horizon).tolist() + self.book.next_known(missing))
        if chances:
            return int(chances[min(missing, len(chances)) - 1])
        if horizon >= FOREVER or not replay.returns():
            self.end("no_clients")
        return None

    def _observe(self, clients: IntArray, check_in: Any) -> None:
        if not self._has_data.all():
            keep = self._has_data[clients]
            clients, check_in = clients[keep], check_in[keep]
        new = clients[check_in & ~self._seen[clients]]
        if len(new):
            self._check_in(new)
        self._manager.observe(clients, check_in, self.now)

    def _check_in(self, clients: IntArray) -> None:
        """First check-ins: the device declares its data size and its class."""
        clients = clients[self._has_data[clients]]
        self._seen[clients] = True
        self._manager.register_client(clients, self.now, self._world.samples[clients], self._declared[clients])

    def _ask(self, query: Query) -> Process[None]:
        """Send the model to candidates and wait for their losses, at most until the query's timeout."""
        stop_at = FOREVER if query.timeout_ms is None else self.now + query.timeout_ms
        errand = Errand(QUERY, forward_only, (self._world.wire_bytes[0], _ANSWER_BYTES), query.max_samples)
        tasks = self._enter(self.rounds, query.clients, errand, stop_at, stop_at)
        self._queries += len(tasks)
        last = int(self.book.column("known_at", tasks).max())
        yield self._clock.forever() if last >= FOREVER else self._clock.at(last, Rank.SERVER)
        self.settle()
        answered = query.clients[self.book.column("fate", tasks) == _ARRIVES]
        losses = self._world.learning.losses(answered, query.max_samples)
        self._manager.register_answers(Answers(answered, losses))

    def _endings(self, tasks: IntArray) -> None:
        self._manager.release(self.book.column("client", tasks))
        if self._queries:
            tasks = self._end_queries(tasks)
        fate = self.book.column("fate", tasks)
        self._resolve(tasks[fate == _LOST], Outcome.DROPPED)
        self._resolve(tasks[fate == _STOPPED], Outcome.ABORTED)
        arrives = fate == _ARRIVES
        if self._buffer is not None:
            self._buffer.arrived.extend(tasks[arrives].tolist())
            self._buffer.lost += len(tasks) - int(np.count_nonzero(arrives))
            return
        rounds = self.book.column("round", tasks)
        for number in np.unique(rounds).tolist():
            mine = rounds == number
            self._arrivals(self._cohorts[number], tasks[mine & arrives], int(np.count_nonzero(mine)))

    def _end_queries(self, tasks: IntArray) -> IntArray:
        """Decide what became of the queries among the tasks; returns the others."""
        is_query = self.book.column("kind", tasks) == QUERY
        queries = tasks[is_query]
        self._queries -= len(queries)
        outcomes = np.array([Outcome.DROPPED, Outcome.ANSWERED, Outcome.ABORTED])  # by fate
        self.book.set("outcome", queries, outcomes[self.book.column("fate", queries)])
        others: IntArray = tasks[~is_query]
        return others

    def _arrivals(self, cohort: Cohort, arrived: IntArray, ended: int) -> None:
        """Of a round's tasks so many ended now, some by a report."""
        cohort.unknown -= ended
        if cohort.close_code == Outcome.IN_FLIGHT:
            cohort.arrived.extend(arrived.tolist())
            cohort.lost += ended - len(arrived)
            return
        if self._keep_late:
            self._kept.extend(arrived.tolist())
        else:
            self._resolve(arrived, cohort.close_code)
        if cohort.unknown == 0:
            del self._cohorts[cohort.round]

    def _abort(self, cohort: Cohort, pending: IntArray) -> None:
        running = self.book.abort(pending, self.now)
        self._manager.release(self.book.column("client", pending))
        self._resolve(running, Outcome.ABORTED)
        self._resolve(np.setdiff1d(pending, running), Outcome.DROPPED)
        cohort.unknown -= len(pending)

    def _resolve(self, tasks: IntArray, outcome: int) -> None:
        """Decide what became of tasks that will not be used, and tell the selector."""
        if len(tasks):
            self.book.set("outcome", tasks, outcome)
            self._world.learning.discard(tasks.tolist())
            self._tell(tasks, outcome, None)

    def _tell(self, tasks: IntArray, outcome: Any, utility: FloatArray | None) -> None:
        """Feedback is due; the selector hears of it before it is asked again."""
        self._untold.append((tasks, outcome, utility))

    def _tell_all(self) -> None:
        if not self._untold:
            return
        tasks = np.concatenate([part for part, _, _ in self._untold])
        outcome = [np.broadcast_to(np.asarray(code, np.int8), part.shape) for part, code, _ in self._untold]
        utility = [np.full(len(part), np.nan) if known is None else known for part, _, known in self._untold]
        self._untold = []
        known = self.book.column("known_at", tasks)
        self._manager.register_feedback(
            Reports(
                clients=self.book.column("client", tasks),
                at=known,
                round=self.book.column("round", tasks),
                outcome=np.concatenate(outcome),
                duration_ms=known - self.book.column("dispatched_at", tasks),
                samples=self.book.column("samples", tasks),
                utility=np.concatenate(utility),
            )
        )

    def _row(self, cohort: Cohort, reason: str, applied: bool, staleness: IntArray) -> None:  # noqa: FBT001  a column
        reports = len(cohort.arrived)
        late = cohort.stale if cohort is self._buffer else cohort.invited - reports - cohort.lost
        row = {
            "round": cohort.round,
            "version": self.version,
            "started_at": cohort.started_at,
            "closed_at": self.now,
            "reason": reason,
            "applied": applied,
            "invited": cohort.invited,
            "reports": reports,
            "dropped": cohort.lost,
            "late": late,
            "mean_staleness": float(staleness.mean()) if len(staleness) else float("nan"),
        }
        self._world.rows.append("server_steps", {name: [value] for name, value in row.items()})
        numbers = [row[name] for name in ("round", "version", "started_at", "closed_at", "reports", "dropped")]
        self._digest(*(np.array([number]) for number in numbers))
        self._write()
        self._on_step(applied, cohort.round)

    def _write(self, *, everything: bool = False) -> None:
        if everything or self.book.rows_in_memory >= _WRITE_ROWS:
            self._tell_all()
            rows = self.book.release(self.now, everything=everything)
            if rows is not None:
                self._world.rows.append("tasks", self.book.as_table(rows))

    def _digest(self, *columns: Any) -> None:
        """Rows one after the other, so that the digest does not depend on how many are entered at once."""
        if len(columns[0]) == 1:  # the same bytes without array overhead
            self._hash.update(struct.pack(f"<{len(columns)}q", *(int(column[0]) for column in columns)))
            return
        self._hash.update(np.stack([np.asarray(c, np.int64) for c in columns], axis=1).astype("<i8").tobytes())
