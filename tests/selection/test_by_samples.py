"""Selection by data size."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from evsim.base.errors import PolicyError
from evsim.selection.by_samples import BySamples
from evsim.timeline.manager import ClientManager
from tests.selection.laws_of_draws import assert_follows, successive


@pytest.mark.parametrize("power", [0.0, 1.0, 2.0])
def test_clients_are_drawn_in_proportion_to_a_power_of_their_size(power: float) -> None:
    sizes = {0: 1, 2: 2, 3: 5}
    seen: Counter[tuple[int, ...]] = Counter()
    for seed in range(5000):
        manager = ClientManager(BySamples(power=power), 4, seed)
        manager.register_client(np.array(list(sizes)), 0, samples=np.array(list(sizes.values())))
        seen[tuple(manager.select_clients(2, 0).tolist())] += 1
    assert_follows(seen, successive({client: size**power for client, size in sizes.items()}, 2))


def test_clients_that_declared_nothing_come_last() -> None:
    manager = ClientManager(BySamples(), 5, 0)
    manager.register_client(np.arange(5), 0)
    manager.register_client(np.array([4]), 0, samples=np.array([3]))
    assert manager.select_clients(3, 0)[0] == 4


@pytest.mark.parametrize("power", [-1.0, float("inf"), float("nan")])
def test_an_impossible_power_is_refused(power: float) -> None:
    with pytest.raises(PolicyError, match="power must be >= 0"):
        BySamples(power=power)
