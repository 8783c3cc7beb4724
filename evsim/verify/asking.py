"""When the server was asking candidates: what it hears then is handled when it has asked."""

from __future__ import annotations

from typing import final

import numpy as np

from evsim.verify.folder import Folder
from evsim.verify.table import NEVER, NULL, Flags, Ints


@final
class Asking:
    """The stretches between sending queries and the last answer or loss, one after the other."""

    def __init__(self, run: Folder) -> None:
        query = run.tasks["kind"] == "query"
        known = run.tasks["known_at"][query]
        self.begin, which = np.unique(run.tasks["dispatched_at"][query], return_inverse=True)
        self.until: Ints = np.zeros(len(self.begin), np.int64)
        np.maximum.at(self.until, which, np.where(known == NULL, NEVER, known))

    def handled(self, at: Ints) -> Ints:
        """When the server handles what it hears at each instant."""
        if not len(self.begin):
            return at
        place = np.searchsorted(self.begin, at, side="left") - 1  # what comes as it begins to ask is handled before
        asked = np.where(place >= 0, self.until[np.maximum(place, 0)], -1)
        return np.maximum(at, np.where(at <= asked, asked, at))

    def ends_at(self, at: Ints) -> Flags:
        """Whether the server had just asked at each instant: it then gives tasks before it handles anything else."""
        return np.isin(at, self.until)

    def periods(self, period: int, end: int) -> Ints:
        """The instants up to the end at which a period is over; the next one begins when that is handled."""
        if not len(self.begin):
            return np.arange(period, end + 1, period)
        found, at = [], period
        while at <= end:
            at = int(self.handled(np.array([at]))[0])
            found.append(at)
            at += period
        return np.array([at for at in found if at <= end], np.int64)
