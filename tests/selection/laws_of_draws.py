"""What draws must follow: laws by enumeration, and the test that compares them with frequencies."""

from __future__ import annotations

from collections import Counter
from itertools import permutations

from scipy.stats import chi2

FALSE_ALARM = 1e-6


def assert_follows(seen: Counter[tuple[int, ...]], law: dict[tuple[int, ...], float]) -> None:
    assert set(seen) <= set(law)
    total = seen.total()
    statistic = sum((seen[what] - total * p) ** 2 / (total * p) for what, p in law.items())
    assert statistic < chi2.isf(FALSE_ALARM, len(law) - 1)


def successive(weights: dict[int, float], n: int) -> dict[tuple[int, ...], float]:
    """Probability of every ordered draw of n, each proportional to weight among those left."""
    law = {}
    for order in permutations(weights, n):
        p, left = 1.0, sum(weights.values())
        for client in order:
            p, left = p * weights[client] / left, left - weights[client]
        law[order] = p
    return law
