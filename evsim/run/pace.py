"""What real time decides: whether each thing that happens by itself is an event of its own, and when rows are written.

Instead of by events all may be settled in bulk. The log is the same both ways, so `auto` may look at real time: it
begins with events where a model is trained, and goes on in bulk once events have cost more than a tenth of the run.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, final

from evsim.base.errors import ScenarioError

if TYPE_CHECKING:
    from evsim.scenario import EngineTable
    from evsim.timeline.agenda import Agenda

_EVENT_S = 8e-6  # what an event costs at most: SimPy's step, and what is done in it
_SHARE = 0.1
_ENOUGH = 20_000  # events before anybody judges


@final
class Every:
    """True at most once in so many seconds of wall clock, when asked."""

    def __init__(self, seconds: float) -> None:
        self._seconds, self._last = seconds, time.perf_counter()

    def __call__(self) -> bool:
        """Whether it is time again."""
        now = time.perf_counter()
        due = now - self._last >= self._seconds
        if due:
            self._last = now
        return due


@final
class Pace:
    """Chooses, watches, and tells what was chosen.

    Args:
        table: the scenario's `[engine]`.
        trains: whether a model is trained.
        wanted: who needs an event for each thing, in words; "" if nobody does.

    Raises:
        ScenarioError: if the scenario says "bulk" and somebody needs events.
    """

    def __init__(self, table: EngineTable, *, trains: bool, wanted: str) -> None:
        if table.replay == "bulk" and wanted:
            raise ScenarioError(f'engine.replay: "bulk", but {wanted}; use "auto" or "events"')
        self._may_change = table.replay == "auto" and not wanted
        self.by_events = table.replay == "events" or bool(wanted) or (table.replay == "auto" and trains)
        self._began = time.perf_counter()
        self._bulk_from: int | None = None if self.by_events else 0

    def watch(self, agenda: Agenda, now: int) -> None:
        """After a step: go on in bulk if events are too dear."""
        if not self._may_change or not agenda.by_events or agenda.n_events <= _ENOUGH:
            return
        if agenda.n_events * _EVENT_S > _SHARE * (time.perf_counter() - self._began):
            agenda.go_bulk()
            self._bulk_from = now

    def told(self, agenda: Agenda) -> dict[str, object]:
        """For the manifest: how many things were events, and from when on (ms) none was."""
        replay = "bulk" if self._bulk_from == 0 else "events" if self._bulk_from is None else "events, then bulk"
        return {"replay": replay, "events": agenda.n_events, "bulk_from_ms": self._bulk_from}
