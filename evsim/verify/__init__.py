"""Recomputes a run from its folder alone, with code that shares nothing with the engine.

A run folder says what the devices did (`sessions`), what each task would have taken (`tasks`), what the server wanted
(`scenario.toml`); from these every end, outcome, close, version and count follows. A difference is a fault: of the
engine, of this package, or of a hand that changed the folder.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import final

from evsim.base.errors import RunFolderError
from evsim.verify import changes, evaluations, fates, prices, steps
from evsim.verify.folder import FORMAT, Folder, read
from evsim.verify.sessions import Presence
from evsim.verify.table import Check, LacksError
from evsim.verify.trace_file import against_trace

__all__ = ["Check", "Verdict", "verify"]


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
    try:
        return audit(run, trace)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, LacksError) as error:
        given = f"{folder}: holds what no run wrote, or lacks what each does ({type(error).__name__}: {error})"
        raise RunFolderError(f"{given}; run its scenario again") from error


def audit(run: Folder, trace: str | None = None) -> Verdict:
    """`verify` of a folder that was read."""
    checks: list[Check] = []
    lacks: dict[str, None] = {}
    for name, part in _parts(run, trace).items():
        try:
            for check in part():
                checks.append(check)  # noqa: PERF402  what a part said before it came upon a column that is not there
        except LacksError as error:
            lacks[str(error)] = None
            checks.append(Check(name, skipped=f"the folder lacks {error}"))
        except (IndexError, ValueError):
            if all(check.ok for check in checks):
                raise  # else ids or instants point outside the tables, and that was said
            checks.append(Check(name, skipped="the rows contradict each other, see above"))
    return Verdict(tuple(checks), tuple(lacks), evaluations.figures(run))


def _parts(run: Folder, trace: str | None) -> dict[str, Callable[[], Iterator[Check]]]:
    """The parts of an audit; a column that one of them lacks stops that part only."""
    tables = [steps.rows, fates.session_checks, steps.dispatches, prices.samples, prices.steps, prices.prices]
    tables += [prices.phases, _fates, steps.used, steps.weights, steps.conservation, steps.choices]
    tables += [changes.checks]
    tables += [evaluations.evaluations, evaluations.client_evaluations, evaluations.ending]
    with_sessions = [fates.presence_checks, steps.idle, evaluations.online]
    found: dict[str, Callable[[], Iterator[Check]]] = {_name(part): partial(part, run) for part in tables}
    found |= {_name(part): partial(_with_presence, part, run) for part in with_sessions}
    return found if trace is None else found | {"trace": partial(against_trace, run, trace)}


def _name(part: Callable[..., Iterator[Check]]) -> str:
    return part.__name__.strip("_").replace("_", " ")


def _with_presence(part: Callable[[Folder, Presence], Iterator[Check]], run: Folder) -> Iterator[Check]:
    if run.manifest.get("format", 1) < FORMAT and not len(run.sessions):  # it kept none unless it was asked to
        raise LacksError("the rows of sessions")
    yield from part(run, Presence(run.sessions, run.end))


def _fates(run: Folder) -> Iterator[Check]:
    """Fates of tasks, and what the server made of them."""
    fate = fates.recompute(run, Presence(run.sessions, run.end))
    yield from fates.fates(run, fate)
    yield from fates.partial_work(run, fate)
    yield from steps.story_checks(run, fate)
