"""Building blocks of generators: point processes of many devices at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np

from evsim import rng
from evsim.events import BoolArray, FloatArray, IntArray


@final
@dataclass(frozen=True)
class Episodes:
    """Times at which devices are charging, one entry each."""

    device: IntArray
    ordinal: IntArray  # among the device's episodes
    start: FloatArray  # s
    length: FloatArray  # s


def poisson_process(expected: FloatArray, key: int) -> tuple[IntArray, IntArray, FloatArray]:
    """Arrivals at rate 1 on [0, expected) per device: device, ordinal, time; one step per arrival of all devices."""
    device = np.arange(len(expected), dtype=np.int64)
    elapsed = np.zeros(len(expected))
    found: list[tuple[IntArray, IntArray, FloatArray]] = []
    step = 0
    while len(device):
        elapsed = elapsed - np.log(rng.uniform(key, device, step))
        going: BoolArray = elapsed < expected[device]
        device, elapsed = device[going], elapsed[going]
        found.append((device, np.full(len(device), step, np.int64), elapsed))
        step += 1
    if not found:
        return device, device, elapsed
    columns = [np.concatenate(column) for column in zip(*found, strict=True)]
    return columns[0], columns[1], columns[2]
