"""The slot of pacing: the reporting deadline of the next round, from what the server saw of the last ones."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from math import isfinite
from typing import ClassVar, final

import numpy as np
from typing_extensions import override

from evsim.base.counts import ceil_count
from evsim.base.errors import require
from evsim.base.units import MS_PER_HOUR, MS_PER_MINUTE, Duration
from evsim.base.vocabulary import IntArray


class Pacing(ABC):
    """Chooses deadlines; the state between rounds is the last deadline, ms."""

    slot: ClassVar[str] = "pacing"

    @abstractmethod
    def first(self) -> int:
        """The deadline of the first round, ms after dispatch."""

    @abstractmethod
    def next(self, deadline: int, durations: IntArray, invited: int) -> int:
        """The deadline of the next round.

        Args:
            deadline: of the round that closed, ms.
            durations: from dispatch to arrival of the reports that came before the close, ms.
            invited: clients that were asked.
        """


@final
@dataclass(frozen=True, kw_only=True)
class QuantileDeadline(Pacing):
    """Long enough for a share of the invited clients, as the last rounds showed.

    When the share reported in time, the deadline moves towards the time the share took, times `slack`; when it did not,
    that time is unknown and the deadline grows by `growth`.

    Attributes:
        share: of the invited clients that should report in time.
        slack: factor on the time the share took.
        growth: factor after a round in which the share did not report.
        memory: weight of the last deadline, 0 forgets it.
        start: deadline of the first round, ms.
        shortest, longest: bounds, ms.
    """

    share: float = 0.8
    slack: float = 1.1
    growth: float = 1.5
    memory: float = 0.5
    start: Duration = 5 * MS_PER_MINUTE
    shortest: Duration = 1000
    longest: Duration = 2 * MS_PER_HOUR

    def __post_init__(self) -> None:
        require(0 < self.share <= 1, "0 < share <= 1 must hold", share=self.share)
        require(isfinite(self.slack) and self.slack >= 1, "slack must be >= 1", slack=self.slack)
        require(isfinite(self.growth) and self.growth > 1, "growth must be > 1", growth=self.growth)
        require(0 <= self.memory < 1, "0 <= memory < 1 must hold", memory=self.memory)
        require(
            0 < self.shortest <= self.start <= self.longest,
            "0 < shortest <= start <= longest must hold",
            shortest=self.shortest,
            start=self.start,
            longest=self.longest,
        )

    @override
    def first(self) -> int:
        return self.start

    @override
    def next(self, deadline: int, durations: IntArray, invited: int) -> int:
        wanted = ceil_count(self.share, invited)
        if len(durations) < wanted:
            target = deadline * self.growth
        else:
            took = float(np.partition(durations, wanted - 1)[wanted - 1])
            target = self.memory * deadline + (1 - self.memory) * took * self.slack
        return int(np.clip(round(target), self.shortest, self.longest))
