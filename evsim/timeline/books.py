"""The books of the client manager: who is registered, online, busy and idle, and what is known of each.

Costs are proportional to the clients that something happens to, never to the population. One client is changed in plain
numbers, several as arrays; the caller need not choose.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import numpy as np

from evsim.base.errors import PolicyError, Problem, report, require

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from evsim.base.vocabulary import BoolArray, FloatArray, IntArray
    from evsim.selection.base import Outcomes

T = TypeVar("T", bound=np.generic)

_FEW = 16  # so many clients are handled one by one sooner than as an array
COUNTED = 1_000  # flags are counted in the time that it takes to sort one client


class Books:
    """A row per client, in arrays by id; what of it selectors may see is what `ClientView` names.

    Args:
        n_clients: the size of the whole population.
    """

    def __init__(self, n_clients: int) -> None:
        require(n_clients >= 0, "n_clients must be >= 0", n_clients=n_clients)
        self._online = np.zeros(n_clients, np.bool_)
        self._busy = np.zeros(n_clients, np.bool_)
        self._idle = np.zeros(n_clients, np.bool_)
        self._online_since = np.full(n_clients, -1, np.int64)
        self._samples = np.full(n_clients, -1, np.int64)
        self._declared_ms = np.full(n_clients, np.nan)
        self._declared_transfers_ms = np.empty((0, 2))
        self._selected = np.zeros(n_clients, np.int64)
        self._successes, self._failures = np.zeros(n_clients, np.int32), np.zeros(n_clients, np.int32)
        self._last_duration_ms, self._last_utility = np.full(n_clients, np.nan), np.full(n_clients, np.nan)
        self._n_idle = 0
        # The same storage again: an entry of a memoryview is a Python number, several times faster than NumPy's.
        self._one_online, self._one_busy = self._online.data, self._busy.data
        self._one_idle, self._one_selected = self._idle.data, self._selected.data
        self._one_online_since = self._online_since.data
        #: Whether one client is idle: the look-up itself, since a method around it would cost more than the look-up.
        self.is_idle_one: Callable[[int], bool] = self._one_idle.__getitem__  # type: ignore[assignment]
        self._among: BoolArray | None = None  # during a selection among some clients only
        self.now, self.round = 0, 0

    # -- tasks and visits -------------------------------------------------------------------------------------------

    def assign(self, clients: IntArray, *, counted: bool = True) -> None:
        """Clients were given a task; a query is not counted as being selected."""
        if len(clients) <= _FEW:
            for client in clients.tolist():
                self.occupy(client, counted=counted)
            return
        self._busy[clients] = True
        self._selected[clients] += counted
        self._refresh(clients)

    def release(self, clients: IntArray) -> None:
        """The end or the loss of these clients' tasks became known."""
        if len(clients) <= _FEW:
            for client in clients.tolist():
                self.free(client)
            return
        self._busy[clients] = False
        self._refresh(clients)

    def check_in(self, client: int, at: int) -> None:
        """A device that registered before checks in."""
        self._one_online_since[client] = at
        self._one_online[client] = True
        self._refresh_one(client)

    def check_out(self, client: int) -> None:
        """A device checks out."""
        self._one_online[client] = False
        self._refresh_one(client)

    def occupy(self, client: int, *, counted: bool = True) -> None:
        """`assign` of one client."""
        self._one_busy[client] = True
        self._one_selected[client] += counted
        self._refresh_one(client)

    def free(self, client: int) -> None:
        """`release` of one client."""
        self._one_busy[client] = False
        self._refresh_one(client)

    # -- the view: what selectors see -------------------------------------------------------------------------------

    @property
    def n_clients(self) -> int:
        """Size of the declared population."""
        return len(self._idle)

    @property
    def n_idle(self) -> int:
        """How many clients are idle."""
        return self._n_idle if self._among is None else self.n_idle_among(self._among)

    def n_idle_among(self, among: BoolArray | None) -> int:
        """How many of some clients are idle; None: of all."""
        return self._n_idle if among is None else int(np.count_nonzero(self._idle & among))

    @property
    def idle(self) -> IntArray:
        """Ids of the idle clients, ascending."""
        return np.flatnonzero(self._idle if self._among is None else self._idle & self._among)

    def is_idle(self, clients: IntArray) -> BoolArray:
        """Whether each of the clients is idle."""
        idle = self._idle[clients]
        return idle if self._among is None else idle & self._among[clients]

    @property
    def online_since(self) -> IntArray:
        """Each client's last check-in, ms; -1 before its first."""
        return _frozen(self._online_since)

    @property
    def samples(self) -> IntArray:
        """Declared data sizes; -1 before a client's first check-in."""
        return _frozen(self._samples)

    @property
    def declared_ms(self) -> FloatArray:
        """Declared task durations, ms; NaN where unknown."""
        return _frozen(self._declared_ms)

    @property
    def declared_transfers_ms(self) -> FloatArray:
        """Declared durations of download and upload, (clients, 2), ms; NaN where unknown, no rows if nobody asks."""
        return _frozen(self._declared_transfers_ms)

    @property
    def selected(self) -> IntArray:
        """How often each client was given a task."""
        return _frozen(self._selected)

    @property
    def successes(self) -> NDArray[np.int32]:
        """Tasks whose report was used, per client."""
        return _frozen(self._successes)

    @property
    def failures(self) -> NDArray[np.int32]:
        """Tasks that ended otherwise, per client."""
        return _frozen(self._failures)

    @property
    def last_duration_ms(self) -> FloatArray:
        """Duration of the last report, ms; NaN before the first."""
        return _frozen(self._last_duration_ms)

    @property
    def last_utility(self) -> FloatArray:
        """Utility of the last report that had one; NaN before the first."""
        return _frozen(self._last_utility)

    @property
    def n_bytes(self) -> int:
        """Memory of the manager's arrays, without the selector's state."""
        arrays = (value for name, value in vars(self).items() if name != "_state")
        return sum(value.nbytes for value in arrays if isinstance(value, np.ndarray))

    # -- inside -----------------------------------------------------------------------------------------------------

    def _look(self, now: int, number: int | None, among: BoolArray | None) -> None:
        """What the view shows during a selection."""
        self.now, self._among = now, among
        if among is not None:
            self.is_idle_one = (self._idle & among).data.__getitem__  # type: ignore[assignment]
        self.round = self.round if number is None else number

    def _look_at_all(self) -> None:
        self._among, self.is_idle_one = None, self._one_idle.__getitem__  # type: ignore[assignment]

    def _set_online(self, clients: IntArray, online: BoolArray | np.bool_) -> None:
        if len(clients) == 1:
            client = int(clients[0])
            self._one_online[client] = bool(online)
            self._refresh_one(client)
            return
        self._online[clients] = online  # NumPy assigns in order, so the last edge of a client wins
        self._refresh(clients)

    def _refresh(self, clients: IntArray) -> None:
        if len(clients) <= _FEW:
            for client in clients.tolist():
                self._refresh_one(client)
            return
        idle = self._online[clients] & ~self._busy[clients]
        if self.n_clients < COUNTED * len(clients):  # counting flags is fast, sorting clients is not
            self._idle[clients] = idle
            self._n_idle = int(np.count_nonzero(self._idle))
            return
        changed = np.unique(clients[idle != self._idle[clients]])  # a window may name a client more than once
        self._idle[clients] = idle
        self._n_idle += 2 * int(np.count_nonzero(self._idle[changed])) - len(changed)

    def _refresh_one(self, client: int) -> None:
        idle = self._one_online[client] and not self._one_busy[client]
        if idle != self._one_idle[client]:
            self._one_idle[client] = idle
            self._n_idle += 1 if idle else -1

    def _remember(self, reports: Outcomes) -> None:
        clients, succeeded = reports.clients, reports.succeeded
        np.add.at(self._successes, clients[succeeded], 1)
        np.add.at(self._failures, clients[~succeeded], 1)
        arrived, told = reports.arrived, reports.has_utility
        self._last_duration_ms[clients[arrived]] = reports.duration_ms[arrived]
        self._last_utility[clients[told]] = reports.utility[told]

    def _check_ids(self, where: str, clients: IntArray) -> None:
        if len(clients) == 1 and 0 <= clients[0] < self.n_clients:
            return
        if len(clients) and not (clients.min() >= 0 and clients.max() < self.n_clients):
            wrong = clients[(clients < 0) | (clients >= self.n_clients)]
            raise PolicyError(
                report(
                    [
                        Problem(
                            f"ClientManager.{where}",
                            f"client {int(wrong[0])}",
                            f"ids from 0 to {self.n_clients - 1}",
                            "give n_clients the size of the whole population",
                        )
                    ]
                )
            )


def _frozen(array: NDArray[T]) -> NDArray[T]:
    view = array.view()
    view.flags.writeable = False
    return view
