"""The agenda: owns what happens by itself, brings the world up to now in rank order, and is where processes sleep.

Everything that happens by itself comes from a *source*: the sessions of devices, the endings of tasks, drop-outs. The
agenda hands it on to whoever hears of it, in one of two ways with the same log:

- *in bulk*: nothing runs between two decisions; `settle` then takes everything up to now, as arrays;
- *by events*: each thing is a SimPy event of its own, at its instant and rank.

A process that sleeps gives a *question*, "when should I wake?", not an instant: `changed` asks it again.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any, Protocol, final

from typing_extensions import override

from evsim.base.units import FOREVER
from evsim.base.vocabulary import Rank

if TYPE_CHECKING:
    import simpy

    from evsim.timeline.clock import Clock, Tick

    Wait = Generator[simpy.Event, Any, None]
    Question = Callable[[], int]
    Single = tuple[Callable[[int], Any], Callable[[Any], None]]  # takes the next thing of this instant; hears it


_ALWAYS = 2  # sources of every run: sessions and endings


class Source(Protocol):
    """Things that happen by themselves, in order of instant and rank."""

    def next(self) -> int:
        """No later than the instant of the next thing not handed over; FOREVER if none will come."""

    def head(self) -> tuple[int, int]:
        """Instant and rank of the next thing; the instant may be early, and then nothing is there."""

    def take(self, now: int) -> Any:
        """Everything up to and including now that was not handed over, in order, as arrays."""

    def take_one(self, now: int) -> Any:
        """The next thing of this instant, as arrays of one entry; None if there is none."""


class Agenda:
    """Sources, settled in the order in which they were added.

    Args:
        clock: virtual time.
        by_events: whether each thing is an event of its own.
    """

    def __init__(self, clock: Clock, *, by_events: bool = False) -> None:
        self._clock = clock
        self._heard: list[tuple[Source, Callable[[Any], None]]] = []
        self._pumps: list[_Pump] = []
        self._sleepers: dict[_Sleeper, None] = {}
        self._settled_at = -1
        self._after: list[Callable[[], None]] = []
        self.by_events = by_events
        self.n_events = 0
        self.has_end = False  # whether the end of the run is scheduled: then something is left until then
        self.n_ticks = 0  # of sources, in the clock's schedule
        #: Called when a process is about to sleep for ever and nobody else will do anything.
        self.on_nothing_left: Callable[[], None] = lambda: None

    def add(self, source: Source, hear: Callable[[Any], None], single: Single | None = None) -> None:
        """Own a source; `hear` is given what it hands over.

        `single`: where there is one, how the next thing is taken and heard in plain numbers, instead of by the source's
        `take_one` and `hear`.
        """
        self._heard.append((source, hear))
        self._pumps.append(_Pump(self, self._clock, source, single or (source.take_one, hear)))

    def start(self) -> None:
        """Begin; all sources must be there."""
        if self.by_events:
            for pump in self._pumps:
                pump.arm()

    def go_bulk(self) -> None:
        """From now on in bulk; the log is the same."""
        self.by_events = False
        for pump in self._pumps:
            pump.disarm()

    def after_settling(self, call: Callable[[], None]) -> None:
        """Call this whenever the world has been brought up to now."""
        self._after.append(call)

    def settle(self) -> None:
        """Bring the world up to now; once is enough for an instant, since a task lasts at least 1 ms."""
        now = self._clock.now
        if self._settled_at == now:
            return
        self._settled_at = now
        for source, hear in self._heard:
            if source.next() <= now:
                happened = source.take(now)
                if happened is not None:
                    hear(happened)
        for call in self._after:
            call()

    def catch_up(self) -> None:
        """Bring the world up to the instant before now: somebody is going to change what happens from now on."""
        before, self._settled_at = self._clock.now - 1, -1
        for source, hear in self._heard:
            if source.next() <= before:
                happened = source.take(before)
                if happened is not None:
                    hear(happened)

    def changed(self) -> None:
        """The future of a source is not what it was: ask every sleeper again."""
        if self.by_events:
            for pump in self._pumps:
                pump.arm()
        for sleeper in self._sleepers:
            sleeper.ask()

    def until(self, when: Question) -> Wait:
        """Sleep until the instant that the question names, FOREVER for never; then the world is settled.

        The answer may change in the very instant of waking: look again, and sleep again.

        Raises:
            PolicyError: if the question names an instant in the past.
        """
        sleeper = _Sleeper(self._clock, when)
        self._sleepers[sleeper] = None
        if sleeper.at >= FOREVER and self.is_over:
            self.on_nothing_left()
        try:
            yield sleeper.event
        finally:
            del self._sleepers[sleeper]
        self.settle()

    @property
    def somebody_wakes(self) -> bool:
        """Whether a sleeper will wake."""
        return any(sleeper.at < FOREVER for sleeper in self._sleepers)

    @property
    def is_alone(self) -> bool:
        """Whether nobody sleeps, nothing is an event of its own, and there are but the two sources of every run."""
        return not self._sleepers and not self.by_events and len(self._heard) == _ALWAYS

    @property
    def is_over(self) -> bool:
        """Whether nothing is scheduled but what happens by itself: no process will ever do anything."""
        return self._clock.n_scheduled <= self.n_ticks


@final
class PatientAgenda(Agenda):
    """An agenda whose sleepers do not wake while the server is down."""

    down_until = 0

    @override
    def until(self, when: Question) -> Wait:
        yield from super().until(lambda: self._not_before(when()))
        while self.down_until > self._clock.now:  # it was to wake at the very instant at which the server went down
            yield from super().until(lambda: self.down_until)

    def _not_before(self, at: int) -> int:
        return at if at >= FOREVER else max(at, self.down_until)


@final
class _Sleeper:
    """One process that sleeps; it wakes at the server's rank."""

    __slots__ = ("_clock", "_when", "at", "event")

    def __init__(self, clock: Clock, when: Question) -> None:
        self._clock, self._when = clock, when
        self.at = when()
        self.event = clock.forever() if self.at >= FOREVER else clock.at(self.at, Rank.SERVER)

    def ask(self) -> None:
        """Ask again, and move the alarm if the answer is another one; what is due at this instant stays due."""
        if self.at <= self._clock.now:  # what it wakes for may have been taken in by somebody else already
            return
        at = self._when()
        if at != self.at:
            self.at = at
            self.event = self._clock.move(self.event, None if at >= FOREVER else at, Rank.SERVER)


@final
class _Pump:
    """Makes an event of each thing of a source: one alarm at a time, for the next one."""

    def __init__(self, agenda: Agenda, clock: Clock, source: Source, single: Single) -> None:
        self._agenda, self._clock, self._head = agenda, clock, source.head
        self._take, self._hear = single
        self._tick: Tick = clock.tick(self._happens)
        self.armed: tuple[int, int] | None = None

    def arm(self) -> None:
        head = self._head()
        if head[0] >= FOREVER or (self.armed is not None and self.armed <= head):
            return  # what is armed too early finds nothing, and arms again
        if self.armed is not None:
            self.disarm()
        self.armed = head
        self._agenda.n_ticks += 1
        self._clock.arm(self._tick, *head)

    def disarm(self) -> None:
        if self.armed is not None:
            self._tick.abandon(self._passes)
            self._tick, self.armed = self._clock.tick(self._happens), None

    def _passes(self) -> None:
        self._agenda.n_ticks -= 1

    def _happens(self) -> None:
        self.armed = None
        self._agenda.n_ticks -= 1
        happened = self._take(self._clock.now)
        if happened is not None:
            self._agenda.n_events += 1
            self._hear(happened)
        agenda = self._agenda
        if agenda.by_events and (agenda.has_end or not agenda.is_over):
            self.arm()
