"""The live server: what aggregators see of the world, and the timeline's bookkeeping behind it.

Between two decisions nothing runs. At a decision `settle` brings the world up to now in bulk: check-ins and check-outs
from the replay, endings from the task book. The log equals that of settling at every instant.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

import numpy as np

from evsim.aggregation.base import Cohort, Process
from evsim.base.units import FOREVER
from evsim.base.vocabulary import IntArray, Outcome, Rank
from evsim.selection.base import Answers, Query
from evsim.timeline.dispatch import QUERY, Dispatcher, TimelineHash
from evsim.timeline.feedback import Untold
from evsim.timeline.ledger import Fate, TaskBook
from evsim.timeline.world import Errand, World, forward_only

_LOST, _ARRIVES, _STOPPED = int(Fate.LOST), int(Fate.ARRIVES), int(Fate.STOPPED)
_AGGREGATED, _DROPPED, _ABORTED = int(Outcome.AGGREGATED), int(Outcome.DROPPED), int(Outcome.ABORTED)
ANSWER_BYTES = 8  # one loss
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
        self._arrived: list[int] = []  # reports for buffers that the aggregator has not taken
        self._kept: list[int] = []  # late reports that wait for the next step
        self._hash = TimelineHash()
        self._dispatcher = Dispatcher(world, self.book, self._hash)
        self._untold = Untold(self.book)
        self._keep_late = False
        self._idle = -1  # clients when the last selection was made
        self._seen = np.zeros(len(world.samples), np.bool_)
        self._queries = 0  # in flight
        self._settled_at = -1
        self._has_data = world.samples > 0
        self._all_have_data = bool(self._has_data.all())
        self._write_at = _WRITE_ROWS
        self._declared = world.pricing.declared_ms(world.work(world.samples), world.wire_bytes)
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
        if self._manager.asks:
            query = self._manager.candidates(n, self.now, number)
            if query is not None and len(query.clients):
                yield from self._ask(query)
        self._idle = self._manager.n_idle
        return self._manager.select_clients(n, self.now, number)

    @property
    def in_flight(self) -> int:
        """Tasks whose end the server does not know."""
        return self.book.in_flight

    def dispatch(self, clients: IntArray, deadline: int) -> Cohort:
        """Start a round with these clients."""
        cohort = Cohort(self.rounds, self.now, deadline, invited=len(clients), unknown=len(clients))
        cohort.tasks = self._dispatcher.train(cohort.round, self.version, clients, deadline, FOREVER)
        self._cohorts[cohort.round] = cohort
        self.rounds += 1
        return cohort

    def collect(self, cohort: Cohort, goal: int) -> Process[str]:
        """Sleep until the round closes: nothing the server could do happens earlier."""
        cohort.goal = goal
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

    def open_buffer(self, goal: int = -1) -> Cohort:
        """Start to fill a buffer."""
        self._buffer = Cohort(self.rounds, self.now, goal=goal)
        self.rounds += 1
        return self._buffer

    def refill(self, buffer: Cohort, clients: IntArray, timeout: int | None) -> None:
        """Give each client a task that may last so long."""
        if len(clients):
            stop_at = FOREVER if timeout is None else self.now + timeout
            self._dispatcher.refill(buffer.round, self.version, clients, stop_at)
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

    def arrivals(self) -> list[int]:
        """Reports that arrived since it was last asked, in order."""
        arrived, self._arrived = self._arrived, []
        return arrived

    def accept(self, buffer: Cohort, task: int) -> None:
        """A report enters the buffer; a selector that learns hears of its training now."""
        buffer.arrived.append(task)
        if self._manager.selector.needs_utility:
            self._untold.add_one(task, _AGGREGATED, float(self._world.learning.train(np.array([task])).utility[0]))
        else:
            self._untold.add_one(task, _AGGREGATED)

    def reject(self, buffer: Cohort, task: int) -> None:
        """A report came with too much staleness."""
        buffer.arrived.append(task)
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
        self.book.set("used_at", reports, self.now)
        self.book.set("server_step", reports[feedback.valid], self.version)
        if feedback.weight is not None:
            self.book.set("weight", reports[feedback.valid], feedback.weight[feedback.valid].view(np.int64))
        outcomes = np.where(feedback.valid, Outcome.AGGREGATED, Outcome.INVALID)
        self.book.set("outcome", reports, outcomes)
        if cohort is not self._buffer:
            self._untold.add(reports, outcomes, feedback.utility if self._manager.selector.needs_utility else None)
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
        now = self.now
        if self._settled_at == now:
            return
        self._settled_at = now
        clients, check_in = self._world.replay.advance(now)
        if len(clients):
            self._observe(clients, check_in)
        if self._buffer is not None and not self._queries and (task := self.book.pop_one(now)) >= 0:
            self._ending(self._buffer, task)
            return
        known = self.book.pop_known(now)
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
    def asked(self) -> IntArray:
        """Ids of the clients that got a task or a query so far, ascending."""
        return self._dispatcher.asked

    @property
    def timeline_hash(self) -> str:
        """Digest of every dispatch with its fate and of every closed round so far."""
        return self._hash.hexdigest()

    # -- inside -----------------------------------------------------------------------------------------------------

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
        if not self._all_have_data:
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
        errand = Errand(QUERY, forward_only, (self._world.wire_bytes[0], ANSWER_BYTES), query.max_samples)
        tasks = self._dispatcher.ask(self.rounds, self.version, query.clients, errand, stop_at)
        self._queries += len(tasks)
        last = int(self.book.column("known_at", tasks).max())
        yield self._clock.forever() if last >= FOREVER else self._clock.at(last, Rank.SERVER)
        self.settle()
        answered = query.clients[self.book.column("fate", tasks) == _ARRIVES]
        losses = self._world.learning.losses(answered, query.max_samples)
        self._manager.register_answers(Answers(answered, losses))

    def _ending(self, buffer: Cohort, task: int) -> None:
        """`_endings` for one task of training, without array overhead."""
        self._manager.release_one(self.book.cell("client", task))
        fate = self.book.cell("fate", task)
        if fate == _ARRIVES:
            self._arrived.append(task)
        else:
            buffer.lost += 1
            self._resolve(np.array([task]), _DROPPED if fate == _LOST else _ABORTED)

    def _endings(self, tasks: IntArray) -> None:
        self._manager.release(self.book.column("client", tasks))
        if self._queries:
            tasks = self._end_queries(tasks)
        fate = self.book.column("fate", tasks)
        self._resolve(tasks[fate == _LOST], Outcome.DROPPED)
        self._resolve(tasks[fate == _STOPPED], Outcome.ABORTED)
        arrives = fate == _ARRIVES
        if self._buffer is not None:
            self._arrived += tasks[arrives].tolist()
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
            if len(tasks) == 1:
                self._untold.add_one(int(tasks[0]), outcome)
            else:
                self._untold.add(tasks, outcome, None)

    def _tell_all(self) -> None:
        """Feedback is due as soon as an outcome is decided; the selector hears of it before it is asked again."""
        if self._untold:
            self._manager.register_feedback(self._untold.take())

    def _row(self, cohort: Cohort, reason: str, applied: bool, staleness: IntArray) -> None:  # noqa: FBT001  a column
        reports = len(cohort.arrived)
        late = cohort.stale if cohort is self._buffer else cohort.invited - reports - cohort.lost
        row = {
            "round": cohort.round,
            "version": self.version,
            "started_at": cohort.started_at,
            "deadline_at": cohort.deadline if cohort.deadline < FOREVER else -1,
            "closed_at": self.now,
            "reason": reason,
            "applied": applied,
            "idle": self._idle,
            "invited": cohort.invited,
            "goal": cohort.goal,
            "reports": reports,
            "dropped": cohort.lost,
            "late": late,
            "mean_staleness": float(staleness.mean()) if len(staleness) else float("nan"),
        }
        self._world.rows.append("server_steps", {name: [value] for name, value in row.items()})
        self._hash.add_one(cohort.round, self.version, cohort.started_at, self.now, reports, cohort.lost)
        self._write()
        self._on_step(applied, cohort.round)

    def _write(self, *, everything: bool = False) -> None:
        if everything or self.book.rows_in_memory >= self._write_at:
            self._tell_all()
            rows = self.book.release(self.now, everything=everything)
            if rows is not None:
                self._world.rows.append("tasks", self.book.as_table(rows))
            # A task that lasts for days holds back those after it: without new rows another look would find nothing.
            self._write_at = self.book.rows_in_memory + _WRITE_ROWS
