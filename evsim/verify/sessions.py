"""When clients were reachable, as the table `sessions` has it."""

from __future__ import annotations

from typing import final

import numpy as np

from evsim.verify.table import NEVER, Flags, Ints, Table


@final
class Presence:
    """Questions to sessions, sorted by client and check-in; instants at or before the end of the run."""

    def __init__(self, sessions: Table, end: int) -> None:
        self._width = end + 2  # one client's instants, beside the next one's
        order = np.lexsort((sessions["check_in_at"], sessions["client"]))
        self.client: Ints = sessions["client"][order]
        self.begin: Ints = sessions["check_in_at"][order]
        until = sessions["check_out_at"][order]
        self.until: Ints = np.where(until < 0, NEVER, until)
        self._keys = self.client * self._width + self.begin

    def until_of(self, clients: Ints, at: Ints) -> Ints:
        """The check-out that ends the session around each instant; -1 where the client is offline."""
        at = np.minimum(at, self._width - 1)
        if not len(self._keys):
            return np.full(len(clients), -1, np.int64)
        row = np.searchsorted(self._keys, clients * self._width + at, side="right") - 1
        safe = np.maximum(row, 0)
        inside = (row >= 0) & (self.client[safe] == clients) & (at < self.until[safe])
        return np.where(inside, self.until[safe], -1)

    def online(self, clients: Ints, at: Ints) -> Flags:
        """Whether each client is reachable at each instant."""
        return self.until_of(clients, at) >= 0

    def next_check_in(self, clients: Ints, at: Ints) -> Ints:
        """The first check-in at or after each instant; never, if the run ended first."""
        if not len(self._keys):
            return np.full(len(clients), NEVER, np.int64)
        row = np.searchsorted(self._keys, clients * self._width + np.minimum(at, self._width - 1), side="left")
        safe = np.minimum(row, len(self._keys) - 1)
        there = (row < len(self._keys)) & (self.client[safe] == clients)
        return np.where(there, self.begin[safe], NEVER)

    def count(self, at: Ints, counted: Flags) -> Ints:
        """How many of the counted clients, a flag each, are reachable at each instant."""
        mine = counted[self.client]
        begins, ends = np.sort(self.begin[mine]), np.sort(self.until[mine])
        return np.searchsorted(begins, at, side="right") - np.searchsorted(ends, at, side="right")
