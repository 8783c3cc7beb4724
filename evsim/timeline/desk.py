"""What one aggregator process sees of the live server: `aggregation.base.Server`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, final

import numpy as np

from evsim.aggregation.base import Cohort, Process, Server
from evsim.base.errors import MisuseError
from evsim.base.units import FOREVER
from evsim.base.vocabulary import BoolArray, FloatArray, IntArray, Outcome, Rank
from evsim.selection.base import Answers, ClientView, Query
from evsim.timeline.closing import Close, close_of
from evsim.timeline.cohorts import OF_USED, Inbox
from evsim.timeline.dispatch import QUERY
from evsim.timeline.fates import ARRIVES
from evsim.timeline.refills import Refills
from evsim.timeline.world import ANSWER_BYTES, Errand, forward_only

if TYPE_CHECKING:
    from evsim.timeline.server import LiveServer

_NONE = np.empty(0, np.int64)
_AGGREGATED, _SURPLUS, _LATE = int(Outcome.AGGREGATED), int(Outcome.SURPLUS), int(Outcome.LATE)


@final
class Desk:
    """The server of one aggregator process.

    Args:
        server: what all of them share.
        name: of the process; "" for the only one.
        among: the clients it sees; None: all.
        full_goal: reports its rounds mean to have where they do not say; 0: their goal.
    """

    def __init__(self, server: LiveServer, name: str, among: IntArray | None, full_goal: int = 0) -> None:
        self._server, self._name, self._full_goal = server, name, full_goal
        self._clock, self._agenda, self._manager = server.clock, server.agenda, server.manager
        self._ledger, self._endings, self._cohorts = server.ledger, server.endings, server.cohorts
        self._feedback, self._sessions, self._world = server.feedback, server.world.sessions, server.world
        self._dispatcher, self._audience, self._learning = server.dispatcher, server.audience, server.world.learning
        self._asks, self._learns = server.manager.selector.asks, server.manager.selector.needs_utility
        self._tells_selected, self._tells_dispatched = (self._audience.hears(f) for f in ("selected", "dispatched"))
        self._mine = None if among is None else self._flags(among)
        self._inbox = server.cohorts.inboxes[name] = Inbox()
        self._refills = Refills(server)
        self._endless = server.world.horizon >= FOREVER
        self._reserved: int | None = None  # number of a round for which candidates were asked
        self._closing = (-1, 0, 0), Close(FOREVER, "")  # a round as things stood, and when it would close
        self._idle = -1  # clients when the last selection was made

    @property
    def now(self) -> int:
        """The current instant."""
        return self._clock.now

    @property
    def version(self) -> int:
        """Server steps applied so far."""
        return self._server.version

    @property
    def finished(self) -> bool:
        """Whether the run is over."""
        return bool(self._server.end_reason)

    @property
    def in_flight(self) -> int:
        """Tasks given here whose end is not known."""
        return self._inbox.in_flight

    @property
    def view(self) -> ClientView:
        """What the server knows of its clients."""
        return self._manager

    def start(self, run: Callable[[Server], Process[None]], *, name: str, among: IntArray | None = None) -> None:
        """Start another process.

        Raises:
            MisuseError: if a process of that name has begun tasks already.
        """
        taken = self._cohorts.inboxes.get(name)
        if taken is not None and (taken is not self._inbox or taken.n_heard or taken.in_flight):
            raise MisuseError(f"a process named {name!r} runs already; give each process a name of its own")
        self._server.start_process(run, name, among)

    def select_clients(self, n: int, minimum: int, among: IntArray | None = None) -> Process[IntArray]:
        """Wait for enough idle clients, query candidates if the selector wants to, then let it choose."""
        server, manager = self._server, self._manager
        self._agenda.settle()
        mine = self._mine if among is None else self._flags(among)
        while (idle := manager.n_idle_among(mine)) < minimum:
            if self._next_chance(mine, minimum) >= FOREVER and not self._may_return():
                server.in_vain()
            yield from self._agenda.until(lambda: self._next_chance(mine, minimum))
        self._feedback.before_selection()
        number = self._next_round()
        if self._asks:
            query = manager.candidates(n, self.now, number, who=self._name, among=mine)
            if query is not None and len(query.clients):
                self._reserve()
                yield from self._ask(query, number)
                idle = manager.n_idle_among(mine)
        self._idle = idle
        clients = manager.select_clients(n, self.now, number, who=self._name, among=mine)
        if manager.told:
            self._server.record_choice(number, self._name, clients)
        if self._tells_selected and len(clients):
            self._audience.done("selected", self.now, clients)
        return clients

    # -- rounds -----------------------------------------------------------------------------------------------------

    def open_round(self, goal: int, deadline: int, full_goal: int | None = None) -> Cohort:
        """Begin a round; its deadline is an event of its own."""
        full = (self._full_goal or goal) if full_goal is None else full_goal
        number, self._reserved = self._reserved, None
        return Cohort(
            self._server.new_round() if number is None else number, self.now, self._name, goal, full, deadline
        )

    def collect(self, cohort: Cohort) -> Process[str]:
        """Sleep until the round closes: nothing the server could do happens earlier."""
        with self._ledger.holding(cohort.tasks):
            if cohort.deadline < FOREVER:
                self._clock.call(cohort.deadline, Rank.DEADLINE, lambda: self._deadline(cohort))
            while (close := self._close_of(cohort)).at > self.now:
                yield from self._agenda.until(lambda: self._close_of(cohort).at)
        return close.reason

    def close(self, cohort: Cohort, reason: str, *, keep_late: bool) -> None:
        """What arrives from now on is surplus or late."""
        cohort.keep_late = keep_late
        cohort.close_code = _SURPLUS if reason == "goal" else _LATE

    def stragglers(self, cohort: Cohort) -> IntArray:
        """Tasks whose end is not known."""
        return cohort.tasks[self._ledger.column("known_at", cohort.tasks) > self.now]

    def durations(self, reports: IntArray) -> IntArray:
        """From dispatch to arrival of reports that arrived, ms."""
        return self._ledger.column("known_at", reports) - self._ledger.column("dispatched_at", reports)

    def take_late(self, max_staleness: int | None) -> IntArray:
        """Kept late reports for the step that is about to be made."""
        kept, self._inbox.kept = np.asarray(self._inbox.kept, np.int64), []
        if max_staleness is None or len(kept) == 0:
            return kept
        staleness = self.version - self._ledger.column("version", kept)
        self._ledger.set("staleness", kept, staleness)
        self._cohorts.resolve(kept[staleness > max_staleness], Outcome.STALE, self.now)
        return kept[staleness <= max_staleness]

    # -- buffers ----------------------------------------------------------------------------------------------------

    def open_buffer(self, goal: int) -> Cohort:
        """Start to fill a buffer."""
        self._inbox.buffer = Cohort(self._server.new_round(), self.now, self._name, goal, goal)
        return self._inbox.buffer

    def wait(self, *, or_check_in: bool, until: int) -> Process[None]:
        """Sleep until something happens that concerns this process."""
        heard = self._inbox.n_heard
        while True:
            if self._endless and self._next_event(or_check_in, until) >= FOREVER:
                self._server.in_vain()
            yield from self._agenda.until(lambda: self._next_event(or_check_in, until))
            if self._mine is None and self._server.n_processes == 1:
                return  # it concerns this process, since there is no other one
            if self._inbox.n_heard != heard or self.now >= until:
                return
            if or_check_in and self._manager.n_idle_among(self._mine):
                return

    def refill(self, buffer: Cohort, reports: int, timeout: int | None, until: int) -> None:
        """Ahead of the clock, as long as nothing else happens."""
        if self._mine is None:
            idle = self._refills.run(buffer, reports, timeout, until)
            self._idle = self._idle if idle < 0 else idle

    def staleness(self, task: int) -> int:
        """Server steps applied since the task was dispatched."""
        return self.version - self._ledger.cell("version", task)

    def arrivals(self) -> list[int]:
        """Reports that arrived since it was last asked, in order."""
        arrived, self._inbox.arrived = self._inbox.arrived, []
        return arrived

    def accept(self, buffer: Cohort, task: int) -> None:
        """A report enters the buffer; a selector that learns hears of its training now."""
        buffer.arrived.append(task)
        tasks = np.array([task])
        utility = self._learning.train(tasks).utility if self._learns else None
        self._feedback.decided(tasks, _AGGREGATED, utility, self.now)

    def reject(self, buffer: Cohort, task: int) -> None:
        """A report came with too much staleness."""
        buffer.arrived.append(task)
        buffer.stale += 1
        tasks = np.array([task])
        self._ledger.set("staleness", tasks, self.staleness(task))
        self._cohorts.resolve(tasks, Outcome.STALE, self.now)

    # -- both -------------------------------------------------------------------------------------------------------

    def give(self, cohort: Cohort, clients: IntArray, timeout: int | None = None) -> IntArray:
        """Give each client a task."""
        if len(clients) == 0:
            return _NONE
        stop_at = FOREVER if timeout is None else self._clock.now + timeout
        tasks = self._give(cohort.round, clients, self._dispatcher.training, cohort.deadline, stop_at)
        if self._inbox.buffer is None:
            cohort.tasks = tasks if len(cohort.tasks) == 0 else np.concatenate([cohort.tasks, tasks])
        self._cohorts.gave(cohort, len(tasks))
        self._server.changed(tasks)
        return tasks

    def stop(self, tasks: IntArray) -> None:
        """Stop tasks whose end is not known."""
        if len(tasks):
            running = self._ledger.stop(tasks, self.now)
            self._endings.cancel(tasks)
            self._dispatcher.stopped(tasks)
            self._cohorts.stopped(tasks, running)
            self._agenda.changed()

    def apply(self, cohort: Cohort, reports: IntArray, reason: str) -> None:
        """One server step from these reports; others that arrived for the round are surplus."""
        feedback, staleness, applied = self._server.step(cohort, reports)
        if cohort is not self._inbox.buffer:
            self._tell_step(feedback.valid, reports, feedback.utility if self._learns else None)
            left = _without(cohort.reports, reports)
            self._cohorts.resolve(left, _SURPLUS, self.now)
        self._record(cohort, reason if applied else "invalid", staleness, feedback.utility, applied=applied)

    def fail(self, cohort: Cohort, reports: IntArray, reason: str) -> None:
        """A round with too few reports."""
        self._cohorts.resolve(reports, Outcome.ROUND_FAILED, self.now)
        self._record(cohort, reason, _NONE, np.empty(0), applied=False)

    # -- inside -----------------------------------------------------------------------------------------------------

    def _next_round(self) -> int:
        """The number of the round that is selected for: of the open buffer, or of the round that comes next."""
        if self._inbox.buffer is not None:
            return self._inbox.buffer.round
        return self._server.rounds if self._reserved is None else self._reserved

    def _reserve(self) -> None:
        """Nobody else shall take the number while candidates are asked."""
        if self._inbox.buffer is None and self._reserved is None:
            self._reserved = self._server.new_round()

    def _give(self, number: int, clients: IntArray, errand: Errand, deadline: int, stop_at: int) -> IntArray:
        loss_by = min(deadline, stop_at)
        tasks = self._dispatcher.give(number, self._server.version, clients, errand, loss_by, stop_at)
        if self._tells_dispatched:
            self._audience.done("dispatched", self.now, tasks, clients)
        return tasks

    def _ask(self, query: Query, number: int) -> Process[None]:
        """Send the model to candidates and wait for their losses, at most until the query's timeout."""
        stop_at = FOREVER if query.timeout_ms is None else self.now + query.timeout_ms
        errand = Errand(QUERY, forward_only, (self._world.wire_bytes[0], ANSWER_BYTES), query.max_samples)
        tasks = self._give(number, query.clients, errand, stop_at, stop_at)
        self._server.changed(tasks)
        with self._ledger.holding(tasks):
            while self._last_known(tasks) > self.now:
                yield from self._agenda.until(lambda: self._last_known(tasks))
        answered = query.clients[self._ledger.column("fate", tasks) == ARRIVES]
        losses = self._learning.losses(answered, query.max_samples)
        self._manager.register_answers(Answers(answered, losses))

    def _last_known(self, tasks: IntArray) -> int:
        return int(self._ledger.column("known_at", tasks).max())

    def _close_of(self, cohort: Cohort) -> Close:
        state = cohort.round, len(cohort.tasks), self._ledger.n_changes
        if self._closing[0] != state:  # asked three times a round, and nearly always as things stood before
            known, fate = (self._ledger.column(name, cohort.tasks) for name in ("known_at", "fate"))
            self._closing = state, close_of(known, fate, cohort.goal, cohort.deadline)
        return self._closing[1]

    def _deadline(self, cohort: Cohort) -> None:
        """The round's deadline passes; its process closes it at the server's rank of this instant."""
        if cohort.close_code == Outcome.IN_FLIGHT:
            self._audience.tell("deadline_passed", self.now, cohort.round)

    def _next_chance(self, mine: BoolArray | None, minimum: int) -> int:
        """The earliest instant at which enough clients could be idle; FOREVER if that never comes."""
        missing, horizon = minimum - self._manager.n_idle_among(mine), self._world.horizon
        if missing <= 0:
            return self.now
        chances = sorted(self._sessions.next_check_ins(missing, horizon).tolist() + self._endings.coming(missing))
        return int(chances[min(missing, len(chances)) - 1]) if chances else FOREVER

    def _may_return(self) -> bool:
        """Whether devices may come back, be it after the end of the run."""
        return self._world.horizon < FOREVER and self._sessions.returns()

    def _next_event(self, or_check_in: bool, until: int) -> int:  # noqa: FBT001
        instant = min(self._endings.next(), until)
        if or_check_in:  # nearly never, where slots are full
            first = self._sessions.next_check_ins(1, min(instant, self._world.horizon))
            instant = int(first[0]) if len(first) else instant
        return instant

    def _tell_step(self, valid: BoolArray, reports: IntArray, utility: FloatArray | None) -> None:
        """What became of a step's reports; a prompt selector knows already of those that went well."""
        outcomes = OF_USED[valid.astype(np.int64)]
        if not self._manager.selector.prompt:
            self._feedback.decided(reports, outcomes, utility, self.now)
        elif not valid.all():
            self._feedback.decided(reports[~valid], outcomes[~valid], None, self.now)

    def _record(self, cohort: Cohort, reason: str, staleness: IntArray, utility: FloatArray, *, applied: bool) -> None:
        is_buffer = cohort is self._inbox.buffer
        known = utility[np.isfinite(utility)]
        row = {
            "round": cohort.round,
            "by": cohort.by,
            "version": self.version,
            "started_at": cohort.started_at,
            "deadline_at": cohort.deadline if cohort.deadline < FOREVER else -1,
            "closed_at": self.now,
            "reason": reason,
            "applied": applied,
            "idle": self._idle,
            "invited": cohort.invited,
            "goal": cohort.goal,
            "reports": len(cohort.arrived),
            "dropped": cohort.lost,
            "late": cohort.stale if is_buffer else cohort.invited - len(cohort.arrived) - cohort.lost,
            "mean_staleness": int(staleness.sum()) / len(staleness) if len(staleness) else float("nan"),
        }
        self._server.record(row, float(known.mean()) if len(known) else float("nan"))

    def _flags(self, clients: IntArray) -> BoolArray:
        flags = np.zeros(self._manager.n_clients, np.bool_)
        flags[np.asarray(clients, np.int64)] = True
        return flags


def _without(tasks: IntArray, others: IntArray) -> IntArray:
    """Those of some tasks that are not among others, ascending."""
    if len(tasks) == 0:
        return tasks
    first, last = int(tasks.min()), int(tasks.max())
    left = np.zeros(last - first + 1, np.bool_)
    left[tasks - first] = True
    left[others[(others >= first) & (others <= last)] - first] = False
    return np.flatnonzero(left) + first
