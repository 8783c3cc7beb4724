"""Devices crash and links break, at random."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import final

import numpy as np
from typing_extensions import override

from evsim.actors.base import Actor, Process, Stage
from evsim.base import rng
from evsim.base.errors import require
from evsim.base.units import Duration
from evsim.base.vocabulary import IntArray

_SHARE = 8  # of the mean time between faults that is looked ahead


@final
@dataclass(frozen=True, kw_only=True)
class Fault(Actor):
    """Every device crashes, and every link breaks, after exponential times, and is back after exponential times.

    Each of them is a function of seed, name, client and number: the same faults happen whatever the server does.

    Attributes:
        crash_every: mean time from a device's return to its next crash; default: none crashes.
        crash_for: mean time until it is back.
        link_every: mean time from the return of a link to its next break; default: none breaks.
        link_for: mean time until it carries again.
        name: of the draws; two actors of one name have the same faults.
    """

    crash_every: Duration | None = None
    crash_for: Duration = 300_000
    link_every: Duration | None = None
    link_for: Duration = 60_000
    name: str = "fault"

    def __post_init__(self) -> None:
        given = (self.crash_every, self.link_every)
        require(given != (None, None), "at least one of crash_every and link_every is needed: what fails")
        for key in ("crash_every", "crash_for", "link_every", "link_for"):
            value = getattr(self, key)
            require(value is None or value > 0, f"{key} must be > 0", **{key: value})

    @override
    def run(self, stage: Stage) -> Process[None]:
        kinds = (
            (self.crash_every, self.crash_for, "crash", stage.cut_devices),
            (self.link_every, self.link_for, "link", stage.cut_links),
        )
        plans = [
            (_faults(rng.key(stage.seed, "fault", self.name, word), stage.n_clients, every, lasts), cut)
            for every, lasts, word, cut in kinds
            if every is not None
        ]
        coming: list[tuple[int, int, int, int]] = []  # (when, which plan, client, until)
        for place, (plan, _) in enumerate(plans):
            _push_next(coming, place, plan)
        while True:
            at, place, client, until = heapq.heappop(coming)
            yield from stage.until(at)
            plan, cut = plans[place]
            act: Callable[[IntArray, int], None] = cut
            act(np.array([client]), until)
            _push_next(coming, place, plan)


def _push_next(coming: list[tuple[int, int, int, int]], place: int, plan: Iterator[tuple[int, int, int]]) -> None:
    at, client, until = next(plan)
    heapq.heappush(coming, (at, place, client, until))


def _faults(key: int, n_clients: int, every: int, lasts: int) -> Iterator[tuple[int, int, int]]:
    """When, who, until when: all faults of all clients in order, without end; a window of time at once."""
    everyone = np.arange(n_clients)
    count = np.zeros(n_clients, np.int64)
    at = _exponential(key, everyone, 2 * count, every)
    end = 0
    while True:
        end += max(every // _SHARE, 1)
        found: list[tuple[int, int, int]] = []
        while len(due := np.flatnonzero(at < end)):
            until = at[due] + _exponential(key, due, 2 * count[due] + 1, lasts)
            found += zip(at[due].tolist(), due.tolist(), until.tolist(), strict=True)
            count[due] += 1
            at[due] = until + _exponential(key, due, 2 * count[due], every)
        yield from sorted(found)


def _exponential(key: int, clients: IntArray, number: IntArray, mean: int) -> IntArray:
    """Whole ms, at least 1."""
    drawn = -mean * np.log(rng.uniform(key, clients, number))
    return np.asarray(np.maximum(np.rint(drawn), 1), np.int64)
