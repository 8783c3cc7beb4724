"""The server is down for a while."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, final

from typing_extensions import override

from evsim.actors.base import Actor, Process, Stage
from evsim.base.caveat import Caveat
from evsim.base.errors import require
from evsim.base.units import Duration, format_duration


@final
@dataclass(frozen=True, kw_only=True)
class Outage(Actor):
    """The server is down from an instant on: nothing is dispatched, and nothing arrives.

    Attributes:
        at: when it begins, from the start of the scenario.
        lasts: how long.
        every: it comes again after so long, counted from begin to begin; default: once.
        keep: devices keep their work: transfers stand still and go on afterwards; else running tasks are lost.
    """

    at: Duration
    lasts: Duration
    every: Duration | None = None
    keep: bool = False

    def __post_init__(self) -> None:
        require(self.lasts > 0, "lasts must be > 0", lasts=self.lasts)
        every = self.every
        require(every is None or every > self.lasts, "every must be longer than lasts, or the server is never up again")

    @override
    def caveats(self, scenario: Any) -> Iterable[Caveat]:
        horizon = scenario.stop.virtual_time
        if horizon is not None and self.at >= horizon:
            yield Caveat(
                "no_outage",
                "the server is down only after the run has ended",
                f"from {format_duration(self.at)} on, the run ends at {format_duration(horizon)}",
                "let it begin earlier, or the run end later",
            )

    @override
    def run(self, stage: Stage) -> Process[None]:
        at = self.at
        while True:
            yield from stage.until(at)
            stage.take_down(at + self.lasts, keep=self.keep)
            if self.every is None:
                return
            at += self.every
