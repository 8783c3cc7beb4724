"""The virtual clock: integer milliseconds on a SimPy environment, and the only place that schedules at a rank.

SimPy runs events of one instant by priority and then in the order they were scheduled. `Clock.at` uses `Rank` as the
priority, so that simultaneous events have the one order written in `base/vocabulary.py`, however early each was
scheduled.
"""

from __future__ import annotations

from contextlib import suppress
from heapq import heappush
from typing import TYPE_CHECKING, Any, final

import simpy
import simpy.core

from evsim.base.errors import MisuseError
from evsim.base.units import FOREVER

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
    >>> clock.at(5, Rank.SERVER)
    Traceback (most recent call last):
    evsim.base.errors.MisuseError: asked for instant 5 ms, but the clock stands at 20 ms: nothing happens in the past
    """

    def __init__(self) -> None:
        self._env = simpy.Environment()
        self._stopped, self._goes = False, True

    @property
    def now(self) -> int:
        """The current instant in ms; always a Python int."""
        return self._env._now  # type: ignore[return-value]  # noqa: SLF001  asked ten times per event; only ints are added

    def at(self, instant: int, rank: Rank) -> simpy.Event:
        """An event to wait for; it happens at the instant, in the order of its rank.

        Raises:
            MisuseError: if the instant is in the past.
        """
        event = simpy.Event(self._env)
        event._ok = True  # noqa: SLF001  as SimPy's own Timeout does: succeeded before it is scheduled
        event._value = None  # noqa: SLF001
        self._schedule(event, instant, rank)
        return event

    def call(self, instant: int, rank: Rank, action: Callable[[], None]) -> None:
        """Run the action at the instant."""
        callbacks = self.at(instant, rank).callbacks
        callbacks.append(lambda _: action())

    def move(self, event: simpy.Event, instant: int | None, rank: Rank) -> simpy.Event:
        """Another event in place of one from `at`: who waits for it waits for the new one; None: never."""
        moved = self.forever() if instant is None else self.at(instant, rank)
        moved.callbacks, event.callbacks = event.callbacks, []
        return moved

    def tick(self, action: Callable[[], None]) -> Tick:
        """An event that happens whenever it is armed."""
        return Tick(self._env, action)

    def arm(self, tick: Tick, instant: int, rank: int) -> None:
        """Let a tick that is not armed happen at the instant."""
        env = self._env
        if instant < env._now:  # noqa: SLF001
            raise _past(instant, self.now)
        tick.callbacks = tick.actions
        heappush(env._queue, (instant, rank, next(env._eid), tick))  # type: ignore[misc]  # noqa: SLF001  as `schedule` does

    def process(self, generator: Generator[simpy.Event, Any, Any]) -> simpy.Process:
        """Start a SimPy process."""
        return self._env.process(generator)

    def forever(self) -> simpy.Event:
        """An event that never happens."""
        event = simpy.Event(self._env)
        event._ok = True  # noqa: SLF001
        event._value = None  # noqa: SLF001
        return event

    @property
    def n_scheduled(self) -> int:
        """Events that are going to happen."""
        return len(self._env._queue)  # noqa: SLF001  SimPy does not tell how many

    @property
    def next_at(self) -> int:
        """The instant of the next event; FOREVER if there is none."""
        queue = self._env._queue  # noqa: SLF001  its `peek` gives a float where there is none
        return queue[0][0] if queue else FOREVER  # type: ignore[return-value]

    def stop(self) -> None:
        """End `run` for good after the current event."""
        self._stopped, self._goes = True, False

    def pause(self) -> None:
        """End `run` after the current event; `run` may be called again. Safe in a signal handler."""
        self._goes = False

    def run(self) -> None:
        """Move from event to event until `stop` or `pause`; returns early when nothing is left to happen."""
        step = self._env.step
        with suppress(simpy.core.EmptySchedule):
            while self._goes:
                step()

    def run_a_while(self, events: int) -> bool:
        """Move by so many events at most; whether nothing is left to do, or it was stopped."""
        step = self._env.step
        with suppress(simpy.core.EmptySchedule):
            for _ in range(events):
                if not self._goes:
                    return True
                step()
            return not self._goes
        return True

    def go_on(self) -> None:
        """`run` again after a pause; nothing if the clock was stopped."""
        self._goes = not self._stopped
        self.run()

    @property
    def stopped(self) -> bool:
        """Whether `stop` was called."""
        return self._stopped

    def _schedule(self, event: simpy.Event, instant: int, rank: int) -> None:
        delay = int(instant) - self.now
        if delay < 0:
            raise _past(instant, self.now)
        self._env.schedule(event, rank, delay)  # type: ignore[arg-type]  # a rank is a priority


def _past(instant: int, now: int) -> MisuseError:
    return MisuseError(f"asked for instant {instant} ms, but the clock stands at {now} ms: nothing happens in the past")


@final
class Tick(simpy.Event):
    """An event that is used again and again: one per thing that happens would cost more than what happens."""

    def __init__(self, env: simpy.Environment, action: Callable[[], None]) -> None:
        super().__init__(env)
        self._ok, self._value = True, None
        self.actions: list[Any] = [lambda _: action()]

    def abandon(self, instead: Callable[[], None]) -> None:
        """It is armed, and shall do something else."""
        self.callbacks = [lambda _: instead()]
