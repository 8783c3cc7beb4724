"""Recomputes a run from its folder alone, with code that shares nothing with the engine.

A run folder says what the devices did (`sessions`), what each task would have taken (`tasks`), what the server wanted
(`scenario.toml`); from these every end, outcome, close, version and count follows. A difference is a fault: of the
engine, of this package, or of a hand that changed the folder.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import final

from evsim.verify import evaluations, fates, prices, steps
from evsim.verify.folder import Folder, read
from evsim.verify.sessions import Presence
from evsim.verify.table import Check, LacksError
from evsim.verify.trace_file import against_trace

__all__ = ["Check", "Verdict", "verify"]

FORMAT = 2  # of run folders; an older one lacks columns


@final
@dataclass(frozen=True)
class Verdict:
    """What was recomputed.

    Attributes:
        checks: in order, each with its first violation if it has any.
        lacks: columns that the folder does not have, as `table.column`.
        figures: the numbers that results quote, recomputed.
    """

    checks: tuple[Check, ...]
    lacks: tuple[str, ...]
    figures: dict[str, float | int | None]

    @property
    def ok(self) -> bool:
        """Whether every check that could be made found nothing."""
        return all(check.ok for check in self.checks)


def verify(folder: str | Path, trace: str | None = None) -> Verdict:
    """Recompute a run.

    >>> from evsim import Scenario, Simulation
    >>> scenario = Scenario.load("replay", overrides=['stop.virtual_time = "30min"'])
    >>> verdict = verify(Simulation(scenario).run(getfixture("tmp_path") / "run"))
    >>> verdict.ok, verdict.lacks
    (True, ())

    Args:
        folder: a run folder.
        trace: a trace file, or the name of a bundled trace, to compare the sessions with.

    Raises:
        RunFolderError: if the folder is none, or cannot be read.
        TraceError: if the trace cannot be read.
    """
    run = read(Path(folder))
    checks: list[Check] = []
    lacks: dict[str, None] = {}
    for name, part in _parts(run, trace):
        try:
            checks += part()
        except LacksError as error:
            lacks[str(error)] = None
            checks.append(Check(name, skipped=f"the folder lacks {error}"))
    return Verdict(tuple(checks), tuple(lacks), evaluations.figures(run))


def _parts(run: Folder, trace: str | None) -> Iterator[tuple[str, Callable[[], list[Check]]]]:
    """The parts of an audit; a column that one of them lacks stops that part only."""

    def listed(found: Callable[[], Iterator[Check]]) -> Callable[[], list[Check]]:
        return lambda: list(found())

    yield "rows", listed(lambda: steps.rows(run))
    yield "dispatches", listed(lambda: steps.dispatches(run))
    yield "samples", listed(lambda: prices.samples(run))
    yield "steps", listed(lambda: prices.steps(run))
    yield "prices", listed(lambda: prices.prices(run))
    yield "phases", listed(lambda: prices.phases(run))
    yield "presence", listed(lambda: fates.presence_checks(run, Presence(run.sessions, run.end)))
    yield "fates and closes", listed(lambda: _told(run))
    yield "use of reports", listed(lambda: steps.used(run))
    yield "weights", listed(lambda: steps.weights(run))
    yield "conservation", listed(lambda: steps.conservation(run))
    yield "idle clients", listed(lambda: steps.idle(run, Presence(run.sessions, run.end)))
    yield "evaluations", listed(lambda: evaluations.evaluations(run))
    yield "ending", listed(lambda: evaluations.ending(run))
    yield "clients online", listed(lambda: evaluations.online(run, Presence(run.sessions, run.end)))
    if trace is not None:
        yield "trace", listed(lambda: against_trace(run, trace))


def _told(run: Folder) -> Iterator[Check]:
    """Fates of tasks, and what the server made of them."""
    fate = fates.recompute(run, Presence(run.sessions, run.end))
    yield from fates.fates(run, fate)
    yield from fates.partial_work(run, fate)
    yield from steps.story_checks(run, fate)
