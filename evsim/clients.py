"""The client manager: who is registered, online, idle and busy, as the server knows it.

A device's check-out while it works is invisible: the manager shows only idle clients, and a client is idle when it is
online and has no task whose end the server still waits for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, final

import numpy as np

from evsim import rng

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from evsim.events import BoolArray, FloatArray, IntArray
    from evsim.selection.base import Reports, Selector

T = TypeVar("T", bound=np.generic)


@final
class ClientManager:
    """Registers clients, hears what became of their tasks, and selects (FedScale's client manager, bulk by design).

    Every method takes arrays, one call per instant or per window; costs are proportional to the arrays.

    >>> from evsim.selection.uniform import Uniform
    >>> manager = ClientManager(Uniform(), n_clients=4, seed=0)
    >>> manager.register_client(np.array([0, 2, 3]), now=5, samples=np.array([10, 10, 30]))
    >>> sorted(manager.select_clients(8, now=5).tolist())
    [0, 2, 3]
    """

    def __init__(self, selector: Selector[Any], n_clients: int, seed: int) -> None:
        self.selector = selector
        self._seed = seed
        self._state = selector.init(n_clients)
        self._online = np.zeros(n_clients, np.bool_)
        self._busy = np.zeros(n_clients, np.bool_)
        self._idle = np.zeros(n_clients, np.bool_)
        self._samples = np.full(n_clients, -1, np.int64)
        self._declared_ms = np.full(n_clients, np.nan)
        self._selected = np.zeros(n_clients, np.int64)
        self._n_idle = 0
        self.now = 0
        self.round = 0

    # -- what the timeline tells ------------------------------------------------------------------------------------

    def register_client(
        self, clients: IntArray, now: int, samples: IntArray | None = None, declared_ms: FloatArray | None = None
    ) -> None:
        """Devices check in, and may declare their data size and the task duration of their device class."""
        self.now = now
        if samples is not None:
            self._samples[clients] = samples
        if declared_ms is not None:
            self._declared_ms[clients] = declared_ms
        self._set_online(clients, np.True_)

    def deregister_client(self, clients: IntArray, now: int) -> None:
        """Devices check out; unseen for those with a task, until its end or loss becomes known."""
        self.now = now
        self._set_online(clients, np.False_)

    def observe(self, clients: IntArray, check_in: BoolArray, now: int) -> None:
        """Check-ins and check-outs of a window, in order: the last of a client counts."""
        self.now = now
        self._set_online(clients, check_in)

    def assign(self, clients: IntArray) -> None:
        """Clients were given a task."""
        self._busy[clients] = True
        self._selected[clients] += 1
        self._idle[clients] = False
        self._n_idle -= len(clients)

    def release(self, clients: IntArray) -> None:
        """The end or the loss of these clients' tasks became known."""
        self._busy[clients] = False
        self._refresh(clients)

    def register_feedback(self, reports: Reports) -> None:
        """What became known of tasks: reports, late reports, losses."""
        self._state = self.selector.feedback(self._state, reports)

    def select_clients(self, n: int, now: int) -> IntArray:
        """Min(n, idle) distinct idle clients, chosen by the selector."""
        self.now = now
        key = rng.key(self._seed, "select", self.round)
        clients, self._state = self.selector.select(self._state, self, n, key)
        self.round += 1
        return clients

    def _set_online(self, clients: IntArray, online: BoolArray | np.bool_) -> None:
        self._online[clients] = online  # NumPy assigns in order, so the last edge of a client wins
        self._refresh(clients)

    def _refresh(self, clients: IntArray) -> None:
        self._idle[clients] = self._online[clients] & ~self._busy[clients]
        self._n_idle = int(np.count_nonzero(self._idle))

    # -- the view: what selectors see -------------------------------------------------------------------------------

    @property
    def n_clients(self) -> int:
        """Size of the declared population."""
        return len(self._idle)

    @property
    def n_idle(self) -> int:
        """How many clients are idle."""
        return self._n_idle

    @property
    def idle(self) -> IntArray:
        """Ids of the idle clients, ascending."""
        return np.flatnonzero(self._idle)

    def is_idle(self, clients: IntArray) -> BoolArray:
        """Whether each of the clients is idle."""
        return self._idle[clients]

    @property
    def samples(self) -> IntArray:
        """Declared data sizes; -1 before a client's first check-in."""
        return _frozen(self._samples)

    @property
    def declared_ms(self) -> FloatArray:
        """Declared task durations, ms; NaN where unknown."""
        return _frozen(self._declared_ms)

    @property
    def selected(self) -> IntArray:
        """How often each client was given a task."""
        return _frozen(self._selected)


def _frozen(array: NDArray[T]) -> NDArray[T]:
    view = array.view()
    view.flags.writeable = False
    return view
