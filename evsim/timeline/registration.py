"""Where a check-in becomes a registration: sessions of devices on their way to the client manager.

The manager hears every check-in and check-out in order, each with its own instant: one call per thing when things are
events, a window at a time in bulk. Clients without data have no work to do and never register.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import numpy as np

if TYPE_CHECKING:
    from evsim.base.vocabulary import BoolArray, FloatArray, IntArray
    from evsim.timeline.audience import Audience
    from evsim.timeline.port import ManagerPort
    from evsim.timeline.sessions import SessionEdges


@final
class Registration:
    """Hears the source `Sessions`.

    Args:
        manager: who is told.
        audience: who listens.
        samples: data size that each client declares.
        declared_ms: task duration that each client's device class promises, ms.
        transfers_ms: download and upload of it, (clients, 2); None if the manager does not want them.
    """

    def __init__(
        self,
        manager: ManagerPort,
        audience: Audience,
        samples: IntArray,
        declared_ms: FloatArray,
        transfers_ms: FloatArray | None = None,
    ) -> None:
        self._manager, self._audience = manager, audience
        self._samples, self._declared, self._transfers = samples, declared_ms, transfers_ms
        self._one = manager.one_by_one
        self._has_data = samples > 0
        self._all_have_data = bool(self._has_data.all())
        self._seen = np.zeros(len(samples), np.bool_)
        self._one_has_data, self._one_seen = self._has_data.data, self._seen.data
        self._tells = audience.hears("checked_in") or audience.hears("checked_out")

    def at_start(self, clients: IntArray) -> None:
        """Devices that are online at virtual time 0."""
        self._audience.happened("checked_in", np.zeros(len(clients), np.int64), clients)
        clients = clients[self._has_data[clients]]
        self._register(clients, np.zeros(len(clients), np.int64))

    def hear(self, edges: SessionEdges) -> None:
        """Check-ins and check-outs, in order."""
        at, clients, check_in = edges
        if self._tells:
            self._tell(at, clients, check_in)
        if not self._all_have_data:
            keep = self._has_data[clients]
            at, clients, check_in = at[keep], clients[keep], check_in[keep]
        if len(at) == 1:
            if not check_in[0]:
                self._manager.deregister_client(clients, at)
            elif self._seen[clients[0]]:  # what it declares does not change
                self._manager.register_client(clients, at)
            else:
                self._register(clients, at)
        elif len(at):
            new = np.flatnonzero(check_in & ~self._seen[clients])
            if len(new):
                new = new[np.unique(clients[new], return_index=True)[1]]  # each client's first
                self._register(clients[new], at[new])
            self._manager.observe(clients, check_in, at)

    def hear_one(self, edge: tuple[int, int, bool]) -> None:
        """`hear` of one, in plain numbers: instant, client, whether it is a check-in."""
        at, client, check_in = edge
        if self._tells:
            self._audience.happened_one("checked_in" if check_in else "checked_out", at, client)
        if not self._one_has_data[client]:
            return
        if not self._one_seen[client]:
            self._register(np.array([client]), np.array([at]))
        elif self._one is None:
            self._manager.observe(np.array([client]), np.array([check_in]), np.array([at]))
        elif check_in:  # what it declares does not change
            self._one.check_in(client, at)
        else:
            self._one.check_out(client)

    def _register(self, clients: IntArray, at: IntArray) -> None:
        """Devices check in, and declare their data size and their class."""
        self._seen[clients] = True
        transfers = None if self._transfers is None else self._transfers[clients]
        self._manager.register_client(clients, at, self._samples[clients], self._declared[clients], transfers)

    def _tell(self, at: IntArray, clients: IntArray, check_in: BoolArray) -> None:
        if len(at) == 1:
            self._audience.happened("checked_in" if check_in[0] else "checked_out", at, clients)
            return
        for fact, mask in (("checked_out", ~check_in), ("checked_in", check_in)):
            if self._audience.hears(fact):
                self._audience.happened(fact, at[mask], clients[mask])
