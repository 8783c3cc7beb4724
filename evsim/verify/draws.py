"""The named draws of a run, written anew: BLAKE2b names them, splitmix64 (Steele, Lea, Flood 2014) draws."""

from __future__ import annotations

import hashlib

import numpy as np

from evsim.verify.table import Ints


def ties(seed: int, tasks: Ints) -> Ints:
    """The column `order`: 63 bits drawn for each task from the scenario's seed and the word "tie".

    >>> ties(0, np.array([0, 1]))
    array([8888450002453269734, 1200911017101916558])
    """
    return (_drawn(_key(seed, "tie"), tasks) >> np.uint64(1)).astype(np.int64)


def passes(seed: int, clients: Ints, nth: Ints, least: int, most: int) -> Ints:
    """Passes drawn for each task from its client and number: whole numbers from least to most, all alike.

    >>> passes(0, np.array([3, 3, 4]), np.array([0, 1, 0]), 1, 5)
    array([3, 4, 3])
    """
    word = _drawn(_drawn(_key(seed, "epochs"), clients), nth)
    share = ((word >> np.uint64(11)).astype(np.float64) + 0.5) / 2.0**53
    return np.asarray(least + np.floor(share * (most - least + 1)).astype(np.int64))


def _key(seed: int, name: str) -> np.uint64:
    digest = hashlib.blake2b(f"i{seed}\0s{name}\0".encode(), digest_size=8).digest()
    return np.uint64(int.from_bytes(digest, "little"))


def _drawn(word: np.uint64 | np.ndarray, numbers: Ints) -> np.ndarray:
    mixed = word ^ numbers.astype(np.uint64)
    with np.errstate(over="ignore"):
        mixed = mixed + np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(mixed ^ (mixed >> np.uint64(31)))
