"""The live server: what all aggregator processes of a run share, and what the run asks of its timeline.

It joins the sources (sessions, endings, drop-outs) to those who hear of them: `registration.py` (a check-in becomes a
registration), `cohorts.py` and `feedback.py` (a report becomes an outcome and feedback). `desk.py` is what one
aggregator process sees.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from typing import Any, final

import numpy as np
from simpy import Event

from evsim.actors.base import Stage
from evsim.aggregation.base import Aggregator, Cohort, Process, Server
from evsim.base.culprit import named
from evsim.base.errors import MisuseError
from evsim.base.units import FOREVER
from evsim.base.vocabulary import Feedback, IntArray, Outcome, Rank
from evsim.cost.network import SharedNetwork
from evsim.timeline.absences import MovingSessions, Presence
from evsim.timeline.agenda import Agenda, PatientAgenda
from evsim.timeline.cohorts import OF_USED, Cohorts
from evsim.timeline.desk import Desk
from evsim.timeline.digest import TimelineHash
from evsim.timeline.dispatch import Dispatcher
from evsim.timeline.dropouts import Dropouts
from evsim.timeline.endings import Endings
from evsim.timeline.fates import LOST
from evsim.timeline.feedback import FeedbackDesk
from evsim.timeline.ledger import Ledger, Moved
from evsim.timeline.moving import MovingDispatcher
from evsim.timeline.registration import Registration
from evsim.timeline.world import World

Acting = Callable[[Stage], Process[None]]  # an actor's process
_WRITE_ROWS = 100_000  # finished rows kept before they go to the journal, unless the world wants them earlier


@final
class LiveServer:
    """One run's server.

    Args:
        world: the parts.
        on_step: called with the row of every closed round or buffer; may end the run.
        on_end: called when the run is about to end, before anything knows of it.
    """

    def __init__(
        self,
        world: World,
        on_step: Callable[[Mapping[str, Any]], None],
        on_end: Callable[[], None] = lambda: None,
    ) -> None:
        self.world, self._on_step, self._on_end = world, on_step, on_end
        self.clock, self.manager, self.audience = world.clock, world.manager, world.audience
        self.ledger = Ledger(world.seed)
        self.endings = Endings(self.ledger)
        acted_on = isinstance(world.availability, Presence)  # then actors may change the world
        self.agenda = (PatientAgenda if acted_on else Agenda)(world.clock, by_events=world.by_events)
        self._acted_on = acted_on
        self.at_end: list[Callable[[], None]] = []
        self.feedback = FeedbackDesk(self.ledger, world.manager)
        self.cohorts = Cohorts(self.ledger, world.manager, world.learning, self.feedback, world.audience)
        self._hash = TimelineHash()
        self.dispatcher, self._moved = self._dispatching()
        self._dropouts = Dropouts(self.ledger)
        self._tells_dropouts = world.by_events or world.audience.hears("dropped")
        self.version, self.rounds, self.end_reason = 0, 0, ""
        self.n_processes = 0  # that have not returned
        self._write_at = _WRITE_ROWS
        self._own_sources()

    def start(self, aggregator: Aggregator, actors: Mapping[str, Acting] | None = None) -> None:
        """Begin: who is online at time 0 registers, then the actors' processes, by name, and the aggregator's."""
        self.registration.at_start(self.world.sessions.online_at_start())
        self.agenda.has_end = self.world.horizon < FOREVER
        self.agenda.start()
        for name, run in (actors or {}).items():
            self._start_actor(name, run)
        self.start_process(aggregator.run, "", None, aggregator.reports_per_step)

    def start_process(
        self, run: Callable[[Server], Process[None]], name: str, among: IntArray | None, full_goal: int = 0
    ) -> None:
        """A process of an aggregator, with a server of its own."""
        process: object = run(Desk(self, name, among, full_goal))
        if not isinstance(process, Generator):
            whose = getattr(run, "__qualname__", repr(run))
            raise MisuseError(
                f"aggregation {whose}: gave {process!r}; expected a generator, a function with yield in it"
            )
        self.clock.process(self._after_actors(self._alive(process)) if self._acted_on else self._alive(process))

    @property
    def now(self) -> int:
        """The current instant."""
        return self.clock.now

    @property
    def finished(self) -> bool:
        """Whether the run is over."""
        return bool(self.end_reason)

    @property
    def in_flight(self) -> int:
        """Tasks and queries whose end the server does not know."""
        return self.endings.in_flight

    def end(self, reason: str) -> None:
        """End the run at this instant, after everything else of it; the first reason stands."""
        if not self.end_reason:
            self._on_end()
            self.end_reason = reason
            self.clock.call(self.now, Rank.END, self.clock.stop)

    def in_vain(self) -> None:
        """A process waits for clients that never come by themselves; the run ends unless another one will wake."""
        self.clock.call(self.now, Rank.END, self._end_if_all_wait)  # others may only begin at this instant

    def down_until(self, instant: int) -> None:
        """The server decides nothing until an instant."""
        if isinstance(self.agenda, PatientAgenda):
            self.agenda.down_until = max(self.agenda.down_until, instant)

    def settle(self) -> None:
        """Bring the world up to now."""
        self.agenda.settle()

    def changed(self, tasks: IntArray) -> None:
        """New tasks, or tasks whose end has moved: whoever sleeps may have to wake at another instant."""
        if self._tells_dropouts:
            self._dropouts.enter(tasks)
        self.agenda.changed()

    def new_round(self) -> int:
        """A number for a round or buffer."""
        self.rounds += 1
        return self.rounds - 1

    # -- steps --------------------------------------------------------------------------------------------------------

    def step(self, cohort: Cohort, reports: IntArray) -> tuple[Feedback, IntArray, bool]:
        """Merge the updates of these tasks; gives the feedback, each report's staleness, and whether it was a step."""
        self._write()  # training may take long
        feedback = self.world.learning.apply(reports, by=cohort.by, goal=cohort.full_goal)
        staleness = self.version - self.ledger.column("version", reports)
        applied = bool(feedback.valid.any())
        self.version += applied
        used = reports[feedback.valid]
        self.ledger.set("staleness", reports, staleness)
        self.ledger.set("used_at", reports, self.now)
        self.ledger.set("server_step", used, self.version)
        if feedback.weight is not None:
            self.ledger.set("weight", used, feedback.weight[feedback.valid].view(np.int64))
        self.ledger.set("outcome", reports, OF_USED[feedback.valid.astype(np.int64)])
        return feedback, staleness, applied

    def record(self, row: Mapping[str, Any], loss: float) -> None:
        """The row of a closed round or buffer."""
        self.world.rows.append("server_steps", {name: [value] for name, value in row.items()})
        self._hash.add_one(
            *(row[name] for name in ("round", "version", "started_at", "closed_at", "reports", "dropped"))
        )
        self._write()
        if self.audience.hears("round_closed"):
            self.audience.tell("round_closed", self.now, {**row, "loss": loss})
        self._on_step(row)

    def record_choice(self, number: int, by: str, clients: IntArray) -> None:
        """Rows of what the selector said of the selection that it has just made."""
        for name, value in self.manager.told.items():
            values = np.atleast_1d(value)
            columns: dict[str, list[Any]] = {"round": [number], "by": [by], "at": [self.now], "name": [name]}
            rows: dict[str, Any] = {key: column * len(values) for key, column in columns.items()}
            rows |= {"client": clients.tolist() if value.ndim else [-1], "value": values.tolist()}
            self.world.rows.append("selections", rows)

    def finish(self) -> None:
        """Write the rows of all tasks; those lost without the server's knowledge are told as lost."""
        self.settle()
        self.feedback.tell()
        tasks, column = self.ledger.unresolved(), self.ledger.column
        lost = tasks[(column("ended_at", tasks) <= self.now) & (column("fate", tasks) == LOST)]
        self.ledger.set("outcome", lost, Outcome.DROPPED)
        self.ledger.set("known_at", lost, FOREVER)
        for call in self.at_end:
            call()
        self.dispatcher.freeze()
        self._write(everything=True)

    @property
    def asked(self) -> IntArray:
        """Ids of the clients that got a task or a query so far, ascending."""
        return self.dispatcher.asked

    @property
    def timeline_hash(self) -> str:
        """Digest of every dispatch with its fate and of every closed round so far."""
        return self._hash.hexdigest()

    # -- inside -----------------------------------------------------------------------------------------------------

    def _dispatching(self) -> tuple[Dispatcher, Moved | None]:
        """Who gives tasks, and who knows what transfers that were cut short had moved."""
        world, network = self.world, self.world.pricing.network
        if self._acted_on or isinstance(network, SharedNetwork):
            moving = MovingDispatcher(world, self.ledger, self.endings, self._hash, self.changed)
            return moving, moving.transfers.moved
        dispatcher = Dispatcher(world, self.ledger, self.endings, self._hash)
        return dispatcher, None if network.is_even else world.pricing.moved

    def _end_if_all_wait(self) -> None:
        if not (self.agenda.somebody_wakes or self.dispatcher.busy or self._somebody_is_away()):
            self.end("no_clients")

    def _own_sources(self) -> None:
        world = self.world
        world.sessions.wait_for(world.samples > 0)
        declared = world.pricing.declared_ms(world.whole_work, world.sizes)
        transfers = None
        if world.manager.needs_transfers:
            transfers = np.stack(world.pricing.promised_ms(world.whole_work, world.sizes)[::2], axis=1)
        self.registration = Registration(world.manager, world.audience, world.samples, declared, transfers)
        self.agenda.add(
            world.sessions, self.registration.hear, (world.sessions.take_single, self.registration.hear_one)
        )
        self.agenda.add(self.endings, self.cohorts.hear, (self.endings.take_single, self.cohorts.hear_one))
        if self._tells_dropouts:
            self.agenda.add(self._dropouts, self._tell_dropouts)
        if world.audience.hears_in_bulk:
            self.agenda.after_settling(world.audience.flush)
        self.agenda.on_nothing_left = lambda: self.end("nothing_left")

    def _tell_dropouts(self, tasks: IntArray) -> None:
        column = self.ledger.column
        self.audience.happened("dropped", column("ended_at", tasks), tasks, column("client", tasks))

    def _after_actors(self, run: Process[None]) -> Process[None]:
        yield from self.agenda.until(lambda: self.now)
        yield from run

    def _start_actor(self, name: str, run: Acting) -> None:
        from evsim.timeline.stage import LiveStage, acting

        world, dispatcher = self.world, self.dispatcher
        if not (
            isinstance(dispatcher, MovingDispatcher)
            and isinstance(world.availability, Presence)
            and isinstance(world.sessions, MovingSessions)
        ):
            raise MisuseError("actors need a world of Presence and MovingSessions")
        stage = LiveStage(self, dispatcher, world.sessions, world.availability, name)
        self.clock.process(acting(run, stage, name))

    def _somebody_is_away(self) -> bool:
        """Whether an actor keeps a device away, which it may let back."""
        trace = self.world.availability
        return isinstance(trace, Presence) and bool((trace.away_until > self.now).any())

    def _alive(self, run: Process[None]) -> Process[None]:
        """An aggregator's process; what it cannot ask is told with its own lines."""
        self.n_processes += 1
        try:
            event = run.send(None)
            while True:
                if not isinstance(event, Event):
                    run.throw(
                        MisuseError(f"yielded {event!r}; expected what yield from gives with the server's methods")
                    )
                event = run.send((yield event))
        except StopIteration:
            self.n_processes -= 1
        except MisuseError as error:
            raise MisuseError(named(error) or str(error)) from error

    def _write(self, *, everything: bool = False) -> None:
        if everything or self.ledger.rows_in_memory >= self._write_at or self.world.write_now():
            self.feedback.before_writing()
            rows = self.ledger.release(self.now, everything=everything, moved=self._moved)
            if rows is not None:
                self.world.rows.append("tasks", self.ledger.as_table(rows))
            # A task that lasts for days holds back those after it: without new rows another look would find nothing.
            self._write_at = self.ledger.rows_in_memory + _WRITE_ROWS
