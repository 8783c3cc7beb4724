"""A part of every client's samples that is evaluated on and never trained on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np

from evsim.base import rng
from evsim.base.errors import DataError
from evsim.base.vocabulary import BoolArray, IntArray


@final
@dataclass(frozen=True, eq=False)
class HeldOut:
    """Client i is evaluated on the rows ``index[offsets[i]:offsets[i + 1]]``."""

    index: IntArray
    offsets: IntArray


def hold_out(index: IntArray, offsets: IntArray, share: float, seed: int) -> tuple[IntArray, IntArray, HeldOut]:
    """Index and offsets of what clients train on, and what is held out of it.

    A share of each client's samples, rounded, chosen by a draw per sample. A sample of several clients is held out of
    all of them or of none: as one of the first of these clients. So nobody trains on a sample that anybody is tested
    on, and where clients share samples the share of a client varies.

    Raises:
        DataError: if nothing is left to train on, or nothing is held out.
    """
    is_held = _held_rows(index, offsets, share, seed)[index]
    owner = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    parts = []
    for part in (~is_held, is_held):
        sizes = np.bincount(owner[part], minlength=len(offsets) - 1)
        parts.append((index[part], np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)))
    for (rows, _), what in zip(parts, ("train on", "be evaluated on"), strict=True):
        if not len(rows):
            raise DataError(f"data.client_test_fraction: {share}; it leaves no client a sample to {what}")
    return *parts[0], HeldOut(*parts[1])


def _held_rows(index: IntArray, offsets: IntArray, share: float, seed: int) -> BoolArray:
    """Whether each row is held out, up to the largest that a client has."""
    rows, first = np.unique(index, return_index=True)
    owner = np.searchsorted(offsets, first, side="right") - 1
    order = np.lexsort((rng.uniform(rng.key(seed, "data", "held out"), rows), owner))
    counts = np.bincount(owner, minlength=len(offsets) - 1)
    rank = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    wanted = np.rint(np.round(share * counts, 12))  # 0.29 x 100 is 28.999999999999996
    found = np.zeros(int(rows[-1]) + 1, bool)
    found[rows[order]] = rank < wanted[owner[order]]
    return found
