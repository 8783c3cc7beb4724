"""Which samples a task uses in which step: a function of names only, the same for every executor."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from evsim import rng

if TYPE_CHECKING:
    from evsim.algorithms.base import Schedule
    from evsim.events import IntArray


def batches(schedule: Schedule, n_samples: int, key: int, client: int, nth: int) -> list[IntArray]:
    """Positions within the client's samples, one array per step; every pass has a fresh random order.

    `key` is ``rng.key(seed, "local")``; `nth` counts the client's tasks.
    """
    steps = int(schedule.n_steps(np.asarray([n_samples]))[0])
    size = schedule.batch_size
    found: list[IntArray] = []
    epoch = 0
    while len(found) < steps:
        order = np.argsort(rng.hash64(key, client, nth, epoch, np.arange(n_samples)), kind="stable")
        found += [order[start : start + size] for start in range(0, n_samples, size)]
        epoch += 1
    return found[:steps]
