"""Where the wall-clock time of a run went, by named parts.

Parts may nest; each second counts once, for the innermost part. Outside of `profile` a part costs next to nothing.

>>> with profile() as told:
...     with part("timeline"):
...         with part("merge"):
...             pass
>>> sorted(told.seconds)
['merge', 'other', 'timeline']
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ContextDecorator, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from time import perf_counter
from typing import Final, Literal, TypeVar, final

T = TypeVar("T")

#: The parts of a run. "other" is what no part covers.
Part = Literal["timeline", "data", "forward/backward", "merge", "evaluation", "recording", "other"]
PARTS: Final[tuple[Part, ...]] = (
    "timeline",
    "data",
    "forward/backward",
    "merge",
    "evaluation",
    "recording",
    "other",
)


def _now() -> float:
    return perf_counter()


@final
@dataclass
class Profile:
    """Seconds by part, filled while the profiled code runs."""

    seconds: dict[str, float] = field(default_factory=dict)
    _open: list[str] = field(default_factory=lambda: ["other"])
    _since: float = field(default_factory=_now)

    @property
    def total(self) -> float:
        """All seconds."""
        return sum(self.seconds.values())

    def lines(self) -> list[str]:
        """A table: part, seconds, share; the largest first.

        >>> Profile({"merge": 1.0, "timeline": 3.0}).lines()
        ['timeline             3.00 s   75.0 %', 'merge                1.00 s   25.0 %']
        """
        order = sorted(self.seconds.items(), key=lambda item: -item[1])
        whole = self.total or 1.0
        return [f"{name:<18} {seconds:>6.2f} s  {100 * seconds / whole:>5.1f} %" for name, seconds in order]

    def enter(self, name: str) -> None:
        """From here on time counts for this part."""
        self._count()
        self._open.append(name)

    def leave(self) -> None:
        """Time counts for the part around this one again."""
        self._count()
        self._open.pop()

    def _count(self) -> None:
        now, name = _now(), self._open[-1]
        self.seconds[name] = self.seconds.get(name, 0.0) + now - self._since
        self._since = now


_current: ContextVar[Profile | None] = ContextVar("evsim_profile", default=None)


@contextmanager
def profile() -> Iterator[Profile]:
    """Profile what runs inside."""
    told = Profile()
    token = _current.set(told)
    try:
        yield told
    finally:
        told.enter("other")
        told.leave()
        _current.reset(token)


@final
class _Timed(ContextDecorator):
    """`part`: without state, so that one may be entered again inside itself."""

    def __init__(self, name: Part) -> None:
        self._name = name

    def __enter__(self) -> None:
        current = _current.get()
        if current is not None:
            current.enter(self._name)

    def __exit__(self, *_: object) -> None:
        current = _current.get()
        if current is not None:
            current.leave()


def part(name: Part) -> _Timed:
    """Time inside counts for this part, if somebody profiles; a context or a decorator."""
    return _Timed(name)


def parts_of(name: Part, values: Iterable[T]) -> Iterator[T]:
    """The values; the time it takes to make them counts for this part, the time spent with them does not."""
    iterator = iter(values)
    while True:
        with part(name):
            try:
                value = next(iterator)
            except StopIteration:
                return
        yield value
