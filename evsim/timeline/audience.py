"""Who listens to what happens: plain objects with any of the methods named in `FACTS`.

A listener is told instants in ms and ids. What happens by itself (the first five facts) reaches it as arrays, whenever
the server decides something; with ``every = True`` one thing at a time, at its own instant and in the order of ranks,
as plain integers. The arrays are read-only. With nobody listening a fact costs one look at an empty list.

===============  =====================================================  ==============================================
method           arguments                                              told when
===============  =====================================================  ==============================================
``started``      ``run``: a `RunFacts`                                  before anything happens
``checked_in``   ``at, clients``                                        devices come online
``checked_out``  ``at, clients``                                        devices leave, seen by the server or not
``reported``     ``at, tasks, clients``                                 reports arrive, answers to queries too
``dropped``      ``at, tasks, clients``                                 devices leave with a task unfinished
``stopped``      ``at, tasks, clients``                                 the server stops tasks
``selected``     ``at, clients``                                        the selector has chosen
``dispatched``   ``at, tasks, clients``                                 tasks are given
``deadline_passed`` ``at, round``                                       a round's deadline passes while it is open
``round_closed`` ``at, row``: the row of ``server_steps``, and "loss"   a round or buffer is closed
``evaluated``    ``at, version, metrics``: a mapping                    the model was evaluated
``ended``        ``at, reason``                                         nothing will happen any more
===============  =====================================================  ==============================================
"""

from __future__ import annotations

import inspect
import reprlib
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

import numpy as np

from evsim.base.caveat import Caveat, CaveatWarning
from evsim.base.errors import EvsimError, ListenerError, PolicyError
from evsim.base.user_code import blame
from evsim.base.vocabulary import IntArray

#: What happens by itself, in the order of ranks; then what the server and the run do.
HAPPENINGS = ("reported", "dropped", "checked_out", "checked_in", "stopped")
#: What each fact is told with.
WORDS = {
    "started": ("run",),
    "reported": ("at", "tasks", "clients"),
    "dropped": ("at", "tasks", "clients"),
    "checked_out": ("at", "clients"),
    "checked_in": ("at", "clients"),
    "stopped": ("at", "tasks", "clients"),
    "selected": ("at", "clients"),
    "dispatched": ("at", "tasks", "clients"),
    "deadline_passed": ("at", "round"),
    "round_closed": ("at", "row"),
    "evaluated": ("at", "version", "metrics"),
    "ended": ("at", "reason"),
}
FACTS = tuple(WORDS)


@final
@dataclass(frozen=True)
class RunFacts:
    """What a listener is told before anything happens.

    Attributes:
        name: of the scenario.
        seed: of the run.
        n_clients: size of the population.
        start_ms: time of day of virtual time 0.
        horizon_ms: when the run ends at the latest; None if it has no such instant.
        folder: the run folder; None if nothing is written.
        end: ends the run at this instant, after everything else of it, with a reason of the listener's own.
    """

    name: str
    seed: int
    n_clients: int
    start_ms: int
    horizon_ms: int | None
    folder: Path | None
    end: Callable[[str], None] = field(repr=False)


@final
class Audience:
    """Tells listeners.

    Raises:
        PolicyError: if a listener has none of the methods, or one that cannot be called with what it is told.
    """

    def __init__(self, listeners: Sequence[object] = ()) -> None:
        self._bulk: dict[str, list[Callable[..., Any]]] = {fact: [] for fact in FACTS}
        self._single: dict[str, list[Callable[..., Any]]] = {fact: [] for fact in FACTS}
        self._heard: set[str] = set()
        self._waiting: dict[str, list[tuple[IntArray, ...]]] = {fact: [] for fact in HAPPENINGS}
        self._given: dict[str, str] = {}  # by method: what it gave back first
        for listener in listeners:
            self._add(listener)

    @property
    def caveats(self) -> tuple[Caveat, ...]:
        """What listeners gave back and nobody took; empty if they gave nothing."""
        return (_unasked(", ".join(self._given.values())),) if self._given else ()

    @property
    def wants_every(self) -> bool:
        """Whether somebody wants things that happen by themselves one at a time."""
        return any(self._single[fact] for fact in HAPPENINGS)

    @property
    def hears_in_bulk(self) -> bool:
        """Whether `flush` ever has something to tell."""
        return any(self._bulk[fact] for fact in HAPPENINGS)

    def hears(self, fact: str) -> bool:
        """Whether somebody listens to a fact."""
        return fact in self._heard

    def happened(self, fact: str, at: IntArray, *ids: IntArray) -> None:
        """Things that happened by themselves: told one by one at once, as arrays at the next `flush`."""
        if not len(at):
            return
        self._one_by_one(fact, (at, *ids))
        if self._bulk[fact]:
            self._waiting[fact].append((at, *ids))

    def happened_one(self, fact: str, *words: int) -> None:
        """`happened` of one thing, in plain numbers: its instant, then ids."""
        for call in self._single[fact]:
            self._told(call, fact, words)
        if self._bulk[fact]:
            self._waiting[fact].append(tuple(np.array([word]) for word in words))

    def flush(self) -> None:
        """Tell what waits, as arrays, in the order of ranks."""
        for fact, waiting in self._waiting.items():
            if waiting:
                parts, self._waiting[fact] = waiting, []
                columns = [_frozen(np.concatenate(column)) for column in zip(*parts, strict=True)]
                for call in self._bulk[fact]:
                    self._told(call, fact, columns)

    def done(self, fact: str, at: int, *ids: IntArray) -> None:
        """Things that the server does, all at this instant."""
        columns = tuple(_frozen(column) for column in (np.full(len(ids[0]), at, np.int64), *ids))
        self._one_by_one(fact, columns)
        for call in self._bulk[fact]:
            self._told(call, fact, columns)

    def tell(self, fact: str, *words: Any) -> None:
        """A fact that is no list of ids."""
        for call in (*self._bulk[fact], *self._single[fact]):
            self._told(call, fact, words)

    def _one_by_one(self, fact: str, columns: tuple[IntArray, ...]) -> None:
        calls = self._single[fact]
        if not calls:
            return
        if len(columns[0]) == 1:  # as when each thing is an event: no need to walk over rows
            words = [column.item() for column in columns]
            for call in calls:
                self._told(call, fact, words)
            return
        for call in calls:
            for row in zip(*(column.tolist() for column in columns), strict=True):
                self._told(call, fact, row)

    def _told(self, call: Callable[..., Any], fact: str, words: Sequence[Any]) -> None:
        try:
            given = call(*words)
        except (EvsimError, KeyboardInterrupt):
            raise
        except BaseException as error:  # whatever a user's code raises, what leaves programs and generators too
            when = {} if fact == "started" else {"at": f"{_instant(words[0])} ms"}
            raise ListenerError(blame(error, slot="listener", cls=_name(call, fact), details=when)) from error
        if given is not None:
            self._gave(_name(call, fact), given)

    def _gave(self, name: str, given: object) -> None:
        """A method that gives something back: said once."""
        if name not in self._given:
            plain = isinstance(given, bool | int | float | str)
            self._given[name] = f"{name} gave {reprlib.repr(given) if plain else f'a {type(given).__name__}'}"
            warnings.warn(CaveatWarning(_unasked(self._given[name])), stacklevel=2)

    def _add(self, listener: object) -> None:
        of = self._single if getattr(listener, "every", False) else self._bulk
        found = {fact: getattr(listener, fact) for fact in FACTS if callable(getattr(listener, fact, None))}
        if not found:
            raise PolicyError(f"listener {type(listener).__name__} has none of the methods {', '.join(FACTS)}")
        for fact, call in found.items():
            _check(call, type(listener).__name__, fact)
            of[fact].append(call)
        self._heard |= found.keys()


def _unasked(given: str) -> Caveat:
    return Caveat(
        "listener_returns",
        "what a listener gives back changes nothing",
        given,
        "to end the run call run.end(reason), of the run that `started` is told; otherwise return nothing",
    )


def _check(call: Callable[..., Any], name: str, fact: str) -> None:
    if inspect.isgeneratorfunction(call) or inspect.iscoroutinefunction(call) or inspect.isasyncgenfunction(call):
        raise PolicyError(
            f"listener {name}: {fact} is a generator or async, and would never run; expected a plain method"
        )
    try:
        taken = inspect.signature(call)
    except ValueError:  # of a function without Python code: found out when it is called
        return
    try:
        taken.bind(*WORDS[fact])
    except TypeError as error:
        given = f"listener {name}: {fact}{taken} cannot be called with what it is told ({error})"
        raise PolicyError(f"{given}; expected {fact}(self, {', '.join(WORDS[fact])})") from error


def _name(call: Callable[..., Any], fact: str) -> str:
    return f"{type(getattr(call, '__self__', call)).__name__}.{fact}"


def _instant(at: Any) -> int:
    return int(at[-1]) if isinstance(at, np.ndarray) else int(at)


def _frozen(column: IntArray) -> IntArray:
    view = column.view()
    view.flags.writeable = False
    return view
