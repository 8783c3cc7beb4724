"""How long selection takes: register, feedback and select 130 of up to a million clients (`make bench-selection`).

Half of the clients are online, half explored. Prints a table; asserts only memory, the same on every machine.
"""

from __future__ import annotations

import gc
from dataclasses import dataclass
from functools import partial
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pytest

from evsim.base import rng
from evsim.base.vocabulary import Outcome
from evsim.selection.afl import ActiveFl
from evsim.selection.base import Outcomes
from evsim.selection.bounds import Fastest
from evsim.selection.by_samples import BySamples
from evsim.selection.fedcs import FedCs
from evsim.selection.forecast import Constant
from evsim.selection.oort import Oort
from evsim.selection.power_of_choice import PowerOfChoiceStale
from evsim.selection.refl_ips import ReflIps
from evsim.selection.tifl import Tifl, TiflLoss
from evsim.selection.uniform import Uniform
from evsim.timeline.manager import ClientManager

if TYPE_CHECKING:
    from collections.abc import Callable

    from evsim.base.vocabulary import IntArray
    from evsim.selection.base import Selector

T = TypeVar("T")
SIZES = (1_000, 10_000, 100_000, 1_000_000)
COHORT = 130
REPEATS = 9
SELECTORS: dict[str, Callable[[], Selector[Any]]] = {
    "uniform": Uniform,
    "by_samples": BySamples,
    "power_of_choice_stale": lambda: PowerOfChoiceStale(d=2 * COHORT),
    "oort paper": Oort,
    "tifl": Tifl,
    "tifl_loss": TiflLoss,
    "afl": ActiveFl,
    "fastest": Fastest,
    "fedcs": lambda: FedCs(deadline=10**9),
    "refl_ips": lambda: ReflIps(predictor=Constant()),
    "oort fedscale": lambda: Oort(preset="fedscale"),
}


@dataclass(frozen=True)
class Figures:
    """Median times in ms, and bytes per client of manager and selector state together."""

    register: float
    feedback: float
    select: float
    bytes_per_client: float

    def __str__(self) -> str:
        return f"{self.register:>12.3f}{self.feedback:>12.3f}{self.select:>12.3f}{self.bytes_per_client:>14.0f}"


def reports_of(clients: IntArray, number: int) -> Outcomes:
    k = len(clients)
    return Outcomes(
        clients=clients,
        at=np.full(k, number, np.int64),
        round=np.full(k, number, np.int64),
        outcome=np.full(k, Outcome.AGGREGATED, np.int8),
        duration_ms=(1000 * np.exp(rng.normal(3, clients))).astype(np.int64),
        samples=1 + clients % 300,
        utility=rng.uniform(4, clients, number) * 3,
    )


def timed(call: Callable[[], T]) -> tuple[float, T]:
    start = perf_counter()
    answer = call()
    return 1000 * (perf_counter() - start), answer


def measure(selector: Selector[Any], n_clients: int) -> Figures:
    """One manager, half of it online and half explored; medians over a few rounds."""
    manager = ClientManager(selector, n_clients, seed=0)
    everyone = np.arange(n_clients)
    online = everyone[rng.uniform(1, everyone) < 0.5]
    declared = 1000 * np.exp(rng.normal(2, everyone))
    first, _ = timed(partial(manager.register_client, online, 0, 1 + online % 300, declared[online]))
    manager.register_feedback(reports_of(everyone[rng.uniform(5, everyone) < 0.5], 0))
    feedback, select = [], []
    for now in range(REPEATS):
        ms, chosen = timed(partial(manager.select_clients, COHORT, now))
        select.append(ms)
        manager.assign(chosen)
        manager.release(chosen)
        ms, _ = timed(partial(manager.register_feedback, reports_of(chosen, manager.round - 1)))
        feedback.append(ms)
    return Figures(first, median(feedback), median(select), (manager.n_bytes + state_bytes(manager)) / n_clients)


def state_bytes(manager: ClientManager) -> int:
    state = manager._state
    return 0 if state is None else int(getattr(state, "n_bytes", 0) or state.nbytes)


@pytest.mark.benchmark
@pytest.mark.parametrize("name", SELECTORS)
def test_times_of_register_feedback_and_select(name: str) -> None:
    print(f"\n{name}, ms: register half of the clients at once, feedback of {COHORT}, select {COHORT}")
    print(f"{'clients':>12}{'register':>12}{'feedback':>12}{'select':>12}{'bytes/client':>14}")
    for n_clients in SIZES:
        gc.collect()
        figures = measure(SELECTORS[name](), n_clients)
        print(f"{n_clients:>12,}{figures}")
        assert figures.bytes_per_client < 100
