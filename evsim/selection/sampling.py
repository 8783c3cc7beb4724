"""Random draws of clients as functions of a key: the layout of the arrays cannot change a choice."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from evsim.base import rng

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from evsim.base.vocabulary import FloatArray, IntArray


def smallest_keys(clients: IntArray, n: int, key: int) -> IntArray:
    """The n clients with the smallest keys, smallest first: a uniform draw without replacement."""
    return clients[_smallest(rng.hash64(key, clients), n)]


def weighted_draw(clients: IntArray, weights: FloatArray, n: int, key: int) -> IntArray:
    """Draw n clients one after the other, each with probability proportional to its weight among those left.

    Exponential races: the n smallest of E_i / w_i follow that law exactly (Efraimidis, Spirakis 2006). In logarithms,
    so that no weight is too small or too large. Clients of weight 0 come last, uniformly.

    Args:
        clients: distinct client ids.
        weights: finite and >= 0, one per client.
        n: at most len(clients).
        key: names the draw.
    """
    runs = weights > 0
    racers, n_racers = clients[runs], int(np.count_nonzero(runs))
    finish = np.log(-np.log(rng.uniform(key, racers))) - np.log(weights[runs])
    first = racers[_smallest(finish, min(n, n_racers))]
    if n <= n_racers:
        return first
    return np.concatenate([first, smallest_keys(clients[~runs], n - n_racers, key)])


def largest(clients: IntArray, values: FloatArray, n: int, key: int) -> IntArray:
    """The n clients with the largest values, largest first; ties in random order."""
    ties = rng.hash64(key, clients)
    n = min(n, len(clients))
    if 0 < n < len(clients):
        edge = np.partition(values, len(values) - n)[len(values) - n]
        near = np.flatnonzero(values >= edge)
        clients, values, ties = clients[near], values[near], ties[near]
    return clients[np.lexsort((ties, -values))[:n]]


def round_randomly(expected: float, key: int) -> int:
    """An integer next to `expected` whose mean it is.

    >>> round_randomly(3.0, key=1), round_randomly(0.0, key=1)
    (3, 0)
    """
    whole = int(np.floor(expected))
    return whole + int(float(rng.uniform(rng.mix(key))) < expected - whole)


def kth_smallest(values: FloatArray, k: int) -> float:
    """The value at 0-based position k of the sorted values; positions beyond the last one give the largest."""
    k = min(k, len(values) - 1)
    return float(np.partition(values, k)[k])


def _smallest(keys: NDArray[np.float64] | NDArray[np.uint64], n: int) -> IntArray:
    """Positions of the n smallest keys, smallest first."""
    if n >= len(keys):
        return np.argsort(keys, kind="stable")
    nearest = np.argpartition(keys, n)[:n]
    return nearest[np.argsort(keys[nearest], kind="stable")]
