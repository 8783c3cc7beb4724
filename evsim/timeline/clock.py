"""The virtual clock: integer milliseconds on a SimPy environment, and the only place that schedules at a rank.

SimPy runs events of one instant by priority and then in the order they were scheduled. `Clock.at` uses `Rank` as the
priority, so that simultaneous events have the one order written in `events.py`, however early each was scheduled.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, final

import simpy
import simpy.core

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from evsim.base.vocabulary import Rank

    Wait = Generator[simpy.Event, Any, None]  # a part of a process that only waits


@final
class Clock:
    """Virtual time since the scenario starts, in ms.

    >>> from evsim.base.vocabulary import Rank
    >>> clock, log = Clock(), []
    >>> clock.call(10, Rank.SERVER, lambda: log.append("server"))
    >>> clock.call(10, Rank.REPORT, lambda: log.append("report"))
    >>> clock.call(20, Rank.END, clock.stop)
    >>> clock.run()
    >>> log, clock.now
    (['report', 'server'], 20)
    """

    def __init__(self) -> None:
        self._env = simpy.Environment()
        self._stopped = False

    @property
    def now(self) -> int:
        """The current instant in ms; always a Python int."""
        return self._env._now  # type: ignore[return-value]  # noqa: SLF001  asked ten times per event; only ints are added

    def at(self, instant: int, rank: Rank) -> simpy.Event:
        """An event to wait for; it happens at the instant, in the order of its rank."""
        event = simpy.Event(self._env)
        event._ok = True  # noqa: SLF001  as SimPy's own Timeout does: succeeded before it is scheduled
        event._value = None  # noqa: SLF001
        self._env.schedule(event, priority=rank, delay=int(instant) - self.now)  # type: ignore[arg-type]  # a rank
        return event

    def call(self, instant: int, rank: Rank, action: Callable[[], None]) -> None:
        """Run the action at the instant."""
        callbacks = self.at(instant, rank).callbacks
        callbacks.append(lambda _: action())

    def process(self, generator: Generator[simpy.Event, Any, Any]) -> simpy.Process:
        """Start a SimPy process."""
        return self._env.process(generator)

    def forever(self) -> simpy.Event:
        """An event that never happens."""
        return simpy.Event(self._env)

    def stop(self) -> None:
        """End `run` after the current event."""
        self._stopped = True

    def run(self) -> None:
        """Move from event to event until `stop`; returns early when nothing is left to happen."""
        step = self._env.step
        with suppress(simpy.core.EmptySchedule):
            while not self._stopped:
                step()

    @property
    def stopped(self) -> bool:
        """Whether `stop` was called."""
        return self._stopped
