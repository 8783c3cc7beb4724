"""Devices that go with the data: with its size, the share of a label, or a column of a file."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, final

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from evsim.base.errors import TraceError, require
from evsim.base.vocabulary import IntArray
from evsim.traces.formats import _table
from evsim.traces.joins.base import Axis, Deal, Join, Roster, Score, draw
from evsim.traces.joins.by_client import rows_by_client

if TYPE_CHECKING:
    from numpy.random import Generator


@final
@dataclass(frozen=True, kw_only=True)
class RankJoin(Join):
    """A chosen Spearman correlation between a score of a client's data and its device's speed or online share.

    Devices are drawn as by `Sample`, then dealt by a Gaussian copula: Pearson 2 sin(pi rho / 6) of the normal scores
    gives Spearman rho of the ranks (Kruskal 1958). Clients of equal score are ranked at random. The other axis is drawn
    as by `Sample`.

    Attributes:
        correlation: from -1 (clients with a high score have the worst devices) to 1.
        with_: what the score correlates with.
        score: "samples": the data size; "label:7": the share of label 7 among its samples; or a column of `file`.
        file: a CSV with columns client (its number, from 0) and the score, relative to the scenario.
    """

    varies_clones: ClassVar[bool] = True

    correlation: float
    with_: Axis = "speed"
    score: str = "samples"
    file: str | None = None

    def __post_init__(self) -> None:
        require(-1 <= self.correlation <= 1, "correlation must lie in [-1, 1]", correlation=self.correlation)
        require(self.with_ in ("availability", "speed"), "with_ must be 'availability' or 'speed'", with_=self.with_)
        known = self.file is not None or self.score == "samples" or re.fullmatch(r"label:\d+", self.score) is not None
        require(known, "score must be 'samples', 'label:' and a number, or a column of a file", score=self.score)

    @override
    def deal(self, roster: Roster) -> Deal:
        by = self._scores(roster)
        device, clone = self._dealt(roster, "availability", by)
        return Deal(device, clone, self._dealt(roster, "speed", by)[0])

    def _dealt(self, roster: Roster, axis: Axis, by: NDArray[Any]) -> tuple[IntArray, IntArray]:
        score = roster.score(axis)
        return self.devices(roster.n_clients, len(score.value), by, score, roster.stream(axis))

    def _scores(self, roster: Roster) -> NDArray[Any]:
        """What clients are ranked by, (clients,)."""
        if self.file is not None:
            path = roster.folder / Path(self.file).expanduser()
            client, table = rows_by_client(path, roster.n_clients, self.score)
            values, problems = _table.numbers(table, self.score)
            if problems:
                raise _table.fail(path, problems)
            found = np.empty(roster.n_clients)
            found[client] = values
            return found
        if self.score == "samples":
            return roster.sizes
        if roster.label_share is None:
            raise TraceError(f"population.join.score: {self.score!r}, but there are no data with a class per sample")
        return roster.label_share(int(self.score.removeprefix("label:")))

    @override
    def devices(
        self, n_clients: int, n_devices: int, sizes: IntArray, score: Score, stream: Generator
    ) -> tuple[IntArray, IntArray]:
        device, clone = draw(n_clients, n_devices, stream)
        if score.axis != self.with_:
            return device, clone
        by_score = np.lexsort((stream.random(n_clients), score.value[device]))
        by_size = np.lexsort((stream.random(n_clients), sizes))
        order = np.empty(n_clients, np.int64)
        order[_correlated_order(by_size, self.correlation, stream)] = by_score
        return device[order], clone[order]


def _correlated_order(by_size: IntArray, correlation: float, stream: Generator) -> IntArray:
    """Clients from the worst to the best device, given clients from the least to the most data."""
    from scipy.special import ndtri

    n = len(by_size)
    pearson = 2 * np.sin(np.pi * correlation / 6)
    mixed = pearson * ndtri((np.arange(n) + 0.5) / n) + np.sqrt(max(0.0, 1 - pearson**2)) * stream.standard_normal(n)
    return by_size[np.argsort(mixed, kind="stable")]
