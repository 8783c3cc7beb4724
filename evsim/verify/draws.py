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
    digest = hashlib.blake2b(f"i{seed}\0stie\0".encode(), digest_size=8).digest()
    word = np.uint64(int.from_bytes(digest, "little")) ^ tasks.astype(np.uint64)
    with np.errstate(over="ignore"):
        word = word + np.uint64(0x9E3779B97F4A7C15)
        word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((word ^ (word >> np.uint64(31))) >> np.uint64(1)).astype(np.int64)
