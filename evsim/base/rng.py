"""Randomness is a function of names: the order of execution cannot change a draw.

``stream(seed, "local", client, k)`` is a generator of its own for a client's k-th task. For draws per client or per
task there is no generator at all: ``uniform(key, clients)`` hashes, so a million draws are a few array operations and
two scenarios that differ in one policy share every other draw (common random numbers).
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import ArrayLike, NDArray

_MASK = (1 << 64) - 1
_GAMMA = 0x9E3779B97F4A7C15  # splitmix64 (Steele, Lea, Flood 2014)
_M1 = 0xBF58476D1CE4E5B9
_M2 = 0x94D049BB133111EB
_GAMMA_64, _M1_64, _M2_64 = (np.uint64(number) for number in (_GAMMA, _M1, _M2))
_30, _27, _31 = (np.uint64(bits) for bits in (30, 27, 31))


@lru_cache(maxsize=1024)
def key(seed: int, *names: str | int) -> int:
    """A 64-bit key for a list of names; the same on every machine and in every process.

    >>> key(0, "select", 3) == key(0, "select", 3), key(0, "a") == key(1, "a")
    (True, False)
    """
    return int.from_bytes(_hashed(seed, *names).digest(), "little")


def numbered(seed: int, *names: str | int) -> Callable[[int], int]:
    """`key` of the names and one more, a number: what stays the same is hashed once.

    >>> numbered(7, "select")(3) == key(7, "select", 3)
    True
    """
    prefix = _hashed(seed, *names)

    def of(number: int) -> int:
        digest = prefix.copy()
        digest.update(b"i%d\0" % number)
        return int.from_bytes(digest.digest(), "little")

    return of


def _hashed(*names: str | int) -> hashlib.blake2b:
    digest = hashlib.blake2b(digest_size=8)
    for name in names:
        text = f"{'s' if isinstance(name, str) else 'i'}{name}\0"
        digest.update(text.encode())
    return digest


def stream(seed: int, *names: str | int) -> np.random.Generator:
    """A NumPy generator of its own for a list of names."""
    return np.random.Generator(np.random.Philox(key=key(seed, *names)))


def mix(value: int) -> int:
    """The splitmix64 finaliser on a Python int; equals `hash64` element by element."""
    value = (value + _GAMMA) & _MASK
    value = ((value ^ (value >> 30)) * _M1) & _MASK
    value = ((value ^ (value >> 27)) * _M2) & _MASK
    return value ^ (value >> 31)


def hash64(base: int, *columns: ArrayLike) -> NDArray[np.uint64]:
    """A 64-bit hash per row of the integer columns (broadcast together), under the key `base`."""
    state: NDArray[np.uint64] = np.asarray(base & _MASK, dtype=np.uint64)
    for column in columns:
        state = _mix(state ^ np.asarray(column).astype(np.uint64))
    return state


def hashes(base: int, start: int, stop: int) -> NDArray[np.uint64]:
    """`hash64` of the numbers from start to stop, for a key in [0, 2^64); they are kept, not made again each time."""
    return _mix(_numbers(-(-stop // _KEPT) * _KEPT)[start:stop] ^ np.uint64(base))


def hash_rows(bases: NDArray[np.uint64], stop: int) -> NDArray[np.uint64]:
    """`hash64` of the numbers up to stop under each of the keys: a row for each key."""
    return _mix(_numbers(-(-stop // _KEPT) * _KEPT)[:stop] ^ bases[:, None])


_KEPT = 4096


@lru_cache(maxsize=4)
def _numbers(stop: int) -> NDArray[np.uint64]:
    numbers = np.arange(stop, dtype=np.uint64)
    numbers.flags.writeable = False
    return numbers


def _mix(z: NDArray[np.uint64]) -> NDArray[np.uint64]:
    if z.ndim == 0:
        return np.asarray(mix(int(z)), np.uint64)  # NumPy warns of overflow in a single number
    z = z + _GAMMA_64
    z ^= z >> _30
    z *= _M1_64
    z ^= z >> _27
    z *= _M2_64
    z ^= z >> _31
    return z


def uniform(base: int, *columns: ArrayLike) -> NDArray[np.float64]:
    """A draw from the open interval (0, 1) per row, 53 bits."""
    draws: NDArray[np.float64] = ((hash64(base, *columns) >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
    return draws


def uniform_one(base: int, value: int) -> float:
    """`uniform` of one integer >= 0, without array overhead; a hash of columns as base continues them."""
    return ((mix(base ^ value) >> 11) + 0.5) * 2.0**-53


def normal(base: int, *columns: ArrayLike) -> NDArray[np.float64]:
    """A draw from the standard normal per row, by inversion."""
    from scipy.special import ndtri

    draws: NDArray[np.float64] = ndtri(uniform(base, *columns))
    return draws
