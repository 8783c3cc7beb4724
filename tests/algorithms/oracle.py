"""A problem small enough to be written out: softmax regression, and textbook local training, in NumPy only.

Parameters are one vector: the rows of the weight matrix (classes x inputs), then the bias.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from evsim.algorithms.base import Method
from evsim.algorithms.broadcast import FullModel
from evsim.algorithms.mean import Mean
from evsim.algorithms.server_sgd import ServerSgd
from evsim.algorithms.weighting import SampleWeights
from evsim.base import rng
from evsim.training.data.base import FederatedData
from evsim.training.executors.base import Executor
from evsim.training.executors.batches import batches
from evsim.training.executors.serial import Serial
from evsim.training.learning.learning import Learning, Setting

Vector = NDArray[np.float64]
INPUTS, CLASSES, SEED = 3, 3, 11
SIZES = (7, 12, 5, 20, 9, 3)
ROUNDS = ((0, 2, 3), (1, 3, 4, 5), (2, 4), (0, 1, 2, 3, 4, 5), (3,))  # partial participation


def problem(sizes: tuple[int, ...] = SIZES, *, skew: float = 1.0) -> FederatedData:
    """Clients with different inputs and different relations of labels to inputs."""
    draw = np.random.default_rng(5)
    x, y = [], []
    for size in sizes:
        own = draw.normal(skew * draw.normal(size=INPUTS), 1.0, (size, INPUTS))
        logits = own @ draw.normal(0, 1 + skew, (INPUTS, CLASSES))
        x.append(own)
        y.append((logits + draw.gumbel(size=logits.shape)).argmax(1))
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    features, labels = np.concatenate(x), np.concatenate(y).astype(np.int64)
    return FederatedData(
        x=features,
        y=labels,
        index=np.arange(len(labels)),
        offsets=offsets,
        x_test=features,
        y_test=labels,
        n_classes=CLASSES,
        n_tokens=None,
        name="oracle",
    )


def learning(data: FederatedData, goal: int = 3, executor: Executor | None = None, **slots: object) -> Learning:
    """evsim on the problem, in float64; slots not given are FedAvg's."""
    parts = {
        "broadcast": FullModel(),
        "upload": (),
        "weighting": SampleWeights(),
        "merge": Mean(),
        "server_optimizer": ServerSgd(),
        **slots,
    }
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = torch.nn.Linear(INPUTS, CLASSES)
    setting = Setting(seed=SEED, precision="float64", cohort_goal=goal)
    return Learning(Method(**parts), model, data, executor or Serial(threads=1), setting)  # type: ignore[arg-type]


def parameters(server: Learning) -> Vector:
    """The current model as a vector."""
    tensors = server.tensors()
    return np.concatenate([tensors["weight"].ravel(), tensors["bias"]])


class Drive:
    """Dispatches cohorts and applies their reports, counting the clients' tasks."""

    def __init__(self, server: Learning) -> None:
        self.server, self.n_tasks, self.nth = server, 0, dict.fromkeys(range(1000), 0)

    def dispatch(self, clients: tuple[int, ...]) -> NDArray[np.int64]:
        tasks = np.arange(self.n_tasks, self.n_tasks + len(clients))
        nth = np.array([self.nth[client] for client in clients])
        for client in clients:
            self.nth[client] += 1
        self.n_tasks += len(clients)
        self.server.dispatched(tasks, np.array(clients), nth)
        return tasks

    def round(self, clients: tuple[int, ...]) -> Vector:
        self.server.apply(self.dispatch(clients))
        return parameters(self.server)


def client_batches(rule: object, data: FederatedData, client: int, nth: int) -> list[tuple[Vector, NDArray[np.int64]]]:
    """The mini-batches of a client's nth task."""
    rows = data.index[data.offsets[client] : data.offsets[client + 1]]
    key = rng.key(SEED, "local")
    found = batches(rule.schedule, len(rows), key, client, nth)  # type: ignore[attr-defined]
    return [(data.x[rows[positions]], data.y[rows[positions]]) for positions in found]


def client_rows(data: FederatedData, client: int) -> tuple[Vector, NDArray[np.int64]]:
    rows = data.index[data.offsets[client] : data.offsets[client + 1]]
    return data.x[rows], data.y[rows]


def loss(w: Vector, x: Vector, y: NDArray[np.int64]) -> float:
    """Mean cross-entropy."""
    weight, bias = w[: CLASSES * INPUTS].reshape(CLASSES, INPUTS), w[CLASSES * INPUTS :]
    logits = x @ weight.T + bias
    logits -= logits.max(1, keepdims=True)
    return float((np.log(np.exp(logits).sum(1)) - logits[np.arange(len(y)), y]).mean())


def gradient(w: Vector, x: Vector, y: NDArray[np.int64]) -> Vector:
    """Of the mean cross-entropy."""
    weight, bias = w[: CLASSES * INPUTS].reshape(CLASSES, INPUTS), w[CLASSES * INPUTS :]
    logits = x @ weight.T + bias
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    p[np.arange(len(y)), y] -= 1
    p /= len(y)
    return np.concatenate([(p.T @ x).ravel(), p.sum(0)])


def local(
    w: Vector,
    steps: list[tuple[Vector, NDArray[np.int64]]],
    rate: float,
    direction: Callable[[Vector, Vector], Vector] = lambda g, _: g,
    momentum: float = 0.0,
) -> Vector:
    """y after local steps from w; `direction` takes the gradient and y."""
    y, v = w.copy(), np.zeros_like(w)
    for batch in steps:
        v = momentum * v + direction(gradient(y, *batch), y)
        y = y - rate * v
    return y
