"""A few server steps in small: a scenario's own aggregation, selection and pacing, on devices that never leave.

Nothing is trained, recorded or listened to. What others wrote may fail in any of its methods, ask for what no server
can do, or never come back: it runs in a thread that is given up after a while, and what it did not reach is told.
"""

from __future__ import annotations

import ctypes
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import numpy as np

from evsim.base.caveat import Caveat
from evsim.base.errors import MisuseError
from evsim.base.units import FOREVER, format_duration
from evsim.base.user_code import is_the_users
from evsim.base.vocabulary import Feedback, FloatArray, IntArray, Rank
from evsim.run.assembly import drawn_work, partial_work
from evsim.timeline.clock import Clock
from evsim.timeline.fates import ARRIVES
from evsim.timeline.manager import ClientManager
from evsim.timeline.server import LiveServer
from evsim.timeline.sessions import Sessions
from evsim.timeline.world import World, n_drawn
from evsim.traces.availability import AvailabilityTrace

if TYPE_CHECKING:
    from evsim.run.assembly import Opened
    from evsim.scenario import Scenario

STEPS = 3  # closed rounds or buffers: the second selection hears of the first round, the third of both
_EVENTS = 300  # of the clock; where others' code is at work ten more for each report that the steps want
_PATIENCE_S = 5.0  # of wall clock
_FEW = 2_000  # clients that are enough where no code of others is at work
_LAST_S = 1.0  # for a thread to end that was told to


def rehearse(scenario: Scenario, opened: Opened, patience_s: float = _PATIENCE_S) -> Iterator[Caveat]:
    """Make a few server steps; what it is worth saying about them.

    Raises:
        Exception: whatever aggregation, selection or pacing raise.
    """
    play = _Play(scenario, opened)
    thread = threading.Thread(target=play.run, name="evsim-rehearsal", daemon=True)
    thread.start()
    thread.join(patience_s)
    if thread.is_alive():
        where = _where(thread)
        _give_up(thread)
        yield Caveat(
            "not_rehearsed",
            "aggregation and selection did not get through a few server steps in small: a long computation, or a loop "
            "without end",
            f"after {patience_s:g} s: {play.reached}{where}",
            "find out with a debugger if it is a loop; a long computation will be made at every selection or step",
        )
        return
    if play.error is not None:
        raise play.error
    if play.foreign and play.closed < STEPS and play.reason not in {"virtual_time", "nothing_left"}:
        yield Caveat(
            "not_rehearsed",
            "aggregation and selection did not get through a few server steps in small",
            f"{play.reached}, {play.reason}",
            "look whether the aggregation applies or fails what it opened",
        )
    elif not play.closed and play.reason in {"virtual_time", "nothing_left"}:
        yield Caveat(
            "no_step_in_small",
            "with every client online all the time the run would still end without a server step",
            play.reached,
            "a later stop.virtual_time, less work for a task, or an aggregation that steps sooner",
        )


@final
class _Play:
    """One rehearsal; `run` may be called in a thread of its own."""

    def __init__(self, scenario: Scenario, opened: Opened) -> None:
        self._scenario, self._opened = scenario, opened
        self._server: LiveServer | None = None
        parts = (scenario.aggregation, scenario.selection, getattr(scenario.aggregation, "pacing", None))
        self.foreign = any(not type(each).__module__.startswith("evsim.") for each in parts if each is not None)
        self.closed, self.reason = 0, ""
        self.error: BaseException | None = None

    @property
    def reached(self) -> str:
        """How far it came, in words."""
        at = 0 if self._server is None else self._server.now
        return f"{self.closed} of {STEPS} rounds or buffers closed, {format_duration(at)} of virtual time"

    def run(self) -> None:
        """Move until enough is closed, nothing is left to do, or it takes too many events."""
        try:
            self._run()
        except BaseException as error:  # raised again in the thread that waits
            self.error = error

    def _run(self) -> None:
        scenario, clock = self._scenario, Clock()
        server = self._server = LiveServer(self._world(clock), self._on_step)
        horizon = scenario.stop.virtual_time
        if horizon is not None:
            clock.call(horizon, Rank.END, partial(server.end, "virtual_time"))
        server.start(scenario.aggregation)
        events = _EVENTS + (10 * STEPS * scenario.aggregation.reports_per_step if self.foreign else 0)
        over = clock.run_a_while(events)
        self.reason = (server.end_reason or "nothing_left") if over else f"given up after {events:,} events"
        server.finish()

    def _on_step(self, row: Mapping[str, Any]) -> None:
        del row
        self.closed += 1
        if self.closed == STEPS and self._server is not None:
            self._server.end("enough")

    def _world(self, clock: Clock) -> World:
        scenario, opened = self._scenario, self._opened
        n = self._n_clients()
        samples, trace = np.ascontiguousarray(opened.samples[:n]), AvailabilityTrace.always(n)
        rule, horizon = scenario.client_rule, scenario.stop.virtual_time
        return World(
            clock=clock,
            availability=trace,
            samples=samples,
            manager=ClientManager(scenario.selection, n_drawn(samples), scenario.seed, trace),
            sessions=Sessions(trace),
            pricing=replace(opened.pricing, speed=opened.population.speed.take(np.arange(n))),
            work=rule.work,
            own=opened.own,
            drawn_work=drawn_work(rule, scenario.seed),
            partial=partial_work(rule),
            wire_bytes=opened.wire_bytes,
            learning=_Teaches(np.nan if opened.model is None else 1.0, self._check_arrived),
            rows=_Nowhere(),
            seed=scenario.seed,
            horizon=FOREVER if horizon is None else horizon,
            by_events=scenario.selection.prompt,
        )

    def _check_arrived(self, tasks: IntArray) -> None:
        """A step may only be made of reports that the server has."""
        if self._server is None:
            return
        ledger, now = self._server.ledger, self._server.now
        for task in tasks.tolist():
            given = 0 <= task < ledger.rows_in_memory  # nothing is released in so small a run
            if not given or ledger.cell("fate", task) != ARRIVES or ledger.cell("known_at", task) > now:
                raise MisuseError(f"apply: task {task} did not report so far; expected tasks whose reports arrived")

    def _n_clients(self) -> int:
        """As many as there are where others' code may know them by number; otherwise enough of them."""
        having = np.flatnonzero(self._opened.samples > 0)
        scenario, whole = self._scenario, len(self._opened.samples)
        if self.foreign or self._opened.own is not None:
            return whole
        enough = max(_FEW, scenario.aggregation.minimum_clients)
        return whole if len(having) <= enough else int(having[enough - 1]) + 1


@final
class _Teaches:
    """Learning whose every update is valid, and as useful as any other; a report can be used once."""

    def __init__(self, utility: float, check_arrived: Callable[[IntArray], None]) -> None:
        self._utility, self._check_arrived, self._used = utility, check_arrived, set[int]()

    def dispatched(self, tasks: IntArray, clients: IntArray, nth: IntArray, max_steps: IntArray) -> None:
        """Nothing to fix."""

    def discard(self, tasks: Any) -> None:
        """Nothing to forget."""

    def train(self, tasks: IntArray) -> Feedback:
        """All valid, with the same utility."""
        self._check_arrived(tasks)
        return Feedback(tasks, np.full(len(tasks), self._utility), np.ones(len(tasks), np.bool_))

    def apply(self, tasks: IntArray, *, by: str = "", goal: int = 0) -> Feedback:
        """All valid, with the same utility."""
        for task in tasks.tolist():
            if task in self._used:
                raise MisuseError(f"apply: the report of task {task} was merged already; expected each report once")
            self._used.add(task)
        return self.train(tasks)

    def losses(self, clients: IntArray, max_samples: int | None) -> FloatArray:
        """All the same."""
        return np.full(len(clients), self._utility)


@final
class _Nowhere:
    """Forgets rows."""

    def append(self, table: str, columns: Mapping[str, Any]) -> None:
        """Forget a batch of rows."""


def _where(thread: threading.Thread) -> str:
    """The line of a user's own at which a thread stands, in words."""
    frame = sys._current_frames().get(thread.ident or -1)  # noqa: SLF001  the only way to ask another thread
    for each, line in traceback.walk_stack(frame) if frame is not None else ():  # the innermost first
        if is_the_users(each):
            code = each.f_code
            return f", in {Path(code.co_filename).name}, line {line}, in {code.co_name}"
    return ""


class _TimeIsUpError(BaseException):
    """Ends a thread that is waited for no longer."""


def _give_up(thread: threading.Thread) -> None:
    """Ask a thread to end; one that is deep in a library ends with the program."""
    if thread.ident is not None:
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(_TimeIsUpError))
    thread.join(_LAST_S)
