"""Four groups of clients against one with the same arithmetic: updates per second. Figures only.

Run with `make bench-training`. The runs take turns, and each figure is the best of several rounds.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from evsim.algorithms.base import ClientInfo, GroupedBroadcast, Method
from evsim.algorithms.broadcast import FullModel
from evsim.algorithms.mean import Mean
from evsim.algorithms.server_sgd import ServerSgd
from evsim.algorithms.sgd import Sgd
from evsim.algorithms.weighting import SampleWeights
from evsim.training.data.base import FederatedData
from evsim.training.executors.batched import Batched
from evsim.training.executors.serial import Serial
from evsim.training.executors.workers import Workers
from evsim.training.learning.learning import Learning, Setting

pytestmark = pytest.mark.benchmark
N, OWN, ROUNDS = 400, 20, 12


@dataclass(frozen=True, kw_only=True)
class Whole(GroupedBroadcast):
    """Groups that all hold the whole model, position by position."""

    n: int

    @property
    def n_groups(self) -> int:
        return self.n

    def groups(self, clients: ClientInfo) -> Any:
        return clients.client % self.n

    def wires(self, model: Any) -> Any:
        return model

    def send(self, server: Any) -> Any:
        return {"model": server["model"], "buffers": server["buffers"]}

    def part(self, leaf: str, shape: tuple[int, ...], group: int) -> Any:
        return tuple(np.arange(size) for size in shape)


def data() -> FederatedData:
    draw = np.random.default_rng(0)
    x, y = draw.normal(size=(N * OWN, 1, 8, 8)).astype(np.float32), draw.integers(0, 10, N * OWN)
    offsets, index = np.arange(N + 1) * OWN, np.arange(N * OWN)
    return FederatedData(x=x, y=y, index=index, offsets=offsets, x_test=x[:9], y_test=y[:9], n_classes=10,
                         n_tokens=None, name="groups")  # fmt: skip


def learning(broadcast: Any, executor: Any) -> Learning:
    torch.manual_seed(0)
    layers = torch.nn.Flatten(), torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10)
    rule = Sgd(learning_rate=0.1, batch_size=5, epochs=2)
    method = Method(broadcast=broadcast, client_rule=rule, upload=(), weighting=SampleWeights(), merge=Mean(),
                    server_optimizer=ServerSgd())  # fmt: skip
    return Learning(method, torch.nn.Sequential(*layers), data(), executor, Setting(seed=0))


@pytest.mark.parametrize("cohort", [60, 200])
@pytest.mark.parametrize("executor", [Serial(threads=1), Batched(threads=1), Workers()], ids=lambda e: type(e).__name__)
def test_groups(executor: Any, cohort: int) -> None:
    runs = {"nobody differs": FullModel(), "one group": Whole(n=1), "four groups": Whole(n=4)}
    learners = {name: learning(broadcast, executor) for name, broadcast in runs.items()}
    took: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(ROUNDS):
        tasks = np.arange(number * cohort, (number + 1) * cohort)
        for name, each in learners.items():
            begin = time.perf_counter()
            each.dispatched(tasks, tasks * 7 % N, np.full(cohort, number))
            each.apply(tasks)
            took[name].append(time.perf_counter() - begin)
    rate = {name: cohort / min(times[1:]) for name, times in took.items()}
    told = ", ".join(f"{name} {each:,.0f}/s" for name, each in rate.items())
    print(
        f"\n{type(executor).__name__}, {cohort} reports: {told}; four/one {rate['four groups'] / rate['one group']:.2f}"
    )
    for each in learners.values():
        each.close()
