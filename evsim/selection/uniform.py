"""Uniform selection: every idle client with the same probability."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, final

import numpy as np
from typing_extensions import override

from evsim.base import rng
from evsim.selection.base import ClientView, Outcomes, Selector, Singles
from evsim.selection.sampling import smallest_keys

if TYPE_CHECKING:
    from evsim.base.vocabulary import IntArray

_BLOCK = 32  # draws beyond the expected number, so that one block nearly always suffices
_LIKELY = 24  # draws one by one that cost about as much as one block
_MOST_DRAWS = 128  # prepared for one selection
_SHARE = 16  # chosen among so many of the population: few
_CHUNK = 1 << 14  # draws at a time where many are chosen: arrays that stay in the processor's cache
_ONE_BY_ONE = 64  # one by one at most: where `_LIKELY` are expected to suffice, one in fifteen needs more than these


@final
@dataclass(frozen=True, kw_only=True)
class Uniform(Selector[None]):
    """A uniform draw without replacement among the idle clients.

    Clients are drawn from the whole population in an order that depends on the seed and the round only, and the first
    n idle ones are taken: two scenarios share their draws, and the cost does not grow with the population. When so few
    are idle that this would take longer than looking at all of them, the n smallest keys of hash(round, client) win.
    """

    memoryless: ClassVar[bool] = True

    @override
    def init(self, n_clients: int) -> None:
        return None

    @override
    def select(self, state: None, view: ClientView, n: int, key: int) -> tuple[IntArray, None]:
        n = min(n, view.n_idle)
        if n == 0:
            return np.empty(0, np.int64), None
        if n * view.n_clients <= view.n_idle**2:
            return (_one_idle(view, key) if n == 1 else _first_idle(view, n, key)), None
        return smallest_keys(view.idle, n, key), None

    @override
    def feedback(self, state: None, reports: Outcomes) -> None:
        return None

    @override
    def singles(self, view: ClientView, keys: list[int]) -> Singles:
        return _Singles(view, keys)


def _one_idle(view: ClientView, key: int) -> IntArray:
    """`_first_idle` for n = 1, as a server asks for that refills slot by slot."""
    client = _first_of_few(view, key)
    if client >= 0:
        return np.array([client])
    n_clients, block = np.uint64(view.n_clients), 2 * view.n_clients // view.n_idle + _BLOCK
    start = 0
    while True:
        clients = (rng.hashes(key, start, start + block) % n_clients).view(np.int64)
        idle = view.is_idle(clients)
        place = int(idle.argmax())
        if idle[place]:
            return clients[place : place + 1]
        start += block


def _first_of_few(view: ClientView, key: int) -> int:
    """The client of `_first_idle` for n = 1, if a few draws are likely to find and do find one; otherwise -1."""
    n_clients = view.n_clients
    if n_clients > _LIKELY * view.n_idle:
        return -1
    mix, is_idle = rng.mix, view.is_idle_one
    for draw in range(_ONE_BY_ONE):
        client = mix(key ^ draw) % n_clients
        if is_idle(client):
            return client
    return -1


def _first_idle(view: ClientView, n: int, key: int) -> IntArray:
    """The first n distinct idle clients of an endless sequence of uniform draws from the population."""
    if n > view.n_clients // _SHARE:
        return _first_of_many(view, n, key)
    chosen: IntArray = np.empty(0, np.int64)
    block = 2 * n * view.n_clients // view.n_idle + _BLOCK
    start = 0
    while len(chosen) < n:
        draws = rng.hash64(key, np.arange(start, start + block)) % np.uint64(view.n_clients)
        clients = draws.astype(np.int64)
        candidates = np.concatenate([chosen, clients[view.is_idle(clients)]])
        _, first = np.unique(candidates, return_index=True)
        chosen = candidates[np.sort(first)]
        start += block
    return chosen[:n]


def _first_of_many(view: ClientView, n: int, key: int) -> IntArray:
    """`_first_idle` where so many are chosen that a flag per client is cheaper than sorting the draws."""
    n_clients = view.n_clients
    free, place = np.zeros(n_clients, np.bool_), np.empty(n_clients, np.int64)
    free[view.idle] = True
    parts: list[IntArray] = []
    start = 0
    while n > 0:
        draws = (rng.hash64(key, np.arange(start, start + _CHUNK)) % np.uint64(n_clients)).astype(np.int64)
        found = draws[free[draws]]
        place[found[::-1]] = np.arange(len(found))[::-1]  # the last assignment wins, so the first draw of a client
        first = found[place[found] == np.arange(len(found))][:n]
        free[first] = False
        parts.append(first)
        n, start = n - len(first), start + _CHUNK
    return np.concatenate(parts)


@final
class _Singles:
    """`select` for n = 1 under many keys: the first draws of each are hashed together."""

    def __init__(self, view: ClientView, keys: list[int]) -> None:
        self._view, self._keys = view, keys
        self._length = min(_MOST_DRAWS, _BLOCK // 4 + 4 * view.n_clients // max(1, view.n_idle))
        hashes = rng.hash_rows(np.array(keys, np.uint64), self._length)
        draws = (hashes % np.uint64(max(1, view.n_clients))).astype(np.int64)
        self.likely: IntArray = draws[np.arange(len(keys)), view.is_idle(draws).argmax(axis=1)]
        self._draws = draws.ravel().data

    def choose(self, nth: int) -> int:
        """The first idle one of a few draws, if there is one, and it is a case for draws at all."""
        view, first = self._view, nth * self._length
        if view.n_clients <= view.n_idle**2:
            is_idle = view.is_idle_one
            for client in self._draws[first : first + self._length]:
                if is_idle(client):
                    return client
        return int(Uniform().select(None, view, 1, self._keys[nth])[0][0])
