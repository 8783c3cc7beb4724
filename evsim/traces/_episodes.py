"""Building blocks of generators: point processes of many devices at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np

from evsim.base import rng
from evsim.base.vocabulary import BoolArray, FloatArray, IntArray


@final
@dataclass(frozen=True)
class Episodes:
    """Times at which devices are charging, one entry each."""

    device: IntArray
    ordinal: IntArray  # among the device's episodes
    start: FloatArray  # s
    length: FloatArray  # s


def poisson_process(device: IntArray, expected: FloatArray, key: int) -> tuple[IntArray, IntArray, FloatArray]:
    """Arrivals of a Poisson process per device: device, ordinal, and when as a share of the time, in (0, 1).

    One step per arrival, all devices at once; `expected` is the mean number of arrivals of each device.
    """
    elapsed = np.zeros(len(device))
    found = [(device[:0], device[:0], elapsed[:0])]
    step = 0
    while len(device):
        elapsed = elapsed - np.log(rng.uniform(key, device, step))
        going: BoolArray = elapsed < expected
        device, elapsed, expected = device[going], elapsed[going], expected[going]
        found.append((device, np.full(len(device), step, np.int64), elapsed / expected))
        step += 1
    columns = [np.concatenate(column) for column in zip(*found, strict=True)]
    return columns[0], columns[1], columns[2]
