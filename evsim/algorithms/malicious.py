"""Who is malicious in a study of attacks."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from evsim.base import rng
from evsim.base.counts import round_count


@lru_cache(maxsize=8)
def malicious_clients(seed: int, n_clients: int, share: float) -> frozenset[int]:
    """round(share N) of the N clients with data, numbered from 0; the same in every scenario of this seed and N.

    A larger share adds clients. Clients without data take no part, so they take no number either.

    >>> len(malicious_clients(0, 50, 0.2))
    10
    """
    order = np.argsort(rng.hash64(rng.key(seed, "malicious"), np.arange(n_clients)), kind="stable")
    return frozenset(order[: round_count(share, n_clients)].tolist())
