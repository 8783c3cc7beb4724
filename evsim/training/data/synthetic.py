"""LEAF's synthetic(alpha, beta): logistic data whose clients differ in model (alpha) and in inputs (beta).

Li et al., Federated Optimization in Heterogeneous Networks, MLSys 2020, section 5.1: y = argmax(softmax(W_k x + b_k)),
W_k, b_k ~ N(u_k, 1), u_k ~ N(0, alpha); x ~ N(v_k, S), S diagonal with S_jj = j^-1.2, v_k ~ N(B_k, 1),
B_k ~ N(0, beta). alpha and beta are variances.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import final

import numpy as np
from typing_extensions import override

from evsim import rng
from evsim.errors import DataError, require
from evsim.training.data.base import DataSet, Samples

_BLOCK = 256  # clients whose models are in memory at a time


@final
@dataclass(frozen=True, kw_only=True)
class Synthetic(DataSet):
    """Any number of clients, each a group of the natural partition.

    Attributes:
        alpha: how much the clients' models differ.
        beta: how much their inputs differ.
        dimension: of the inputs.
        classes: number of labels.
        iid: all clients share one model and inputs around 0.
        samples_per_client: of every client; None: log-normal(4, 2) + 50 as in the paper, at most `most_samples`.
        most_samples: bound on a client's samples.
    """

    alpha: float = 1.0
    beta: float = 1.0
    dimension: int = 60
    classes: int = 10
    iid: bool = False
    samples_per_client: int | None = None
    most_samples: int = 1000

    def __post_init__(self) -> None:
        require(isfinite(self.alpha) and self.alpha >= 0, "alpha must be >= 0", alpha=self.alpha)
        require(isfinite(self.beta) and self.beta >= 0, "beta must be >= 0", beta=self.beta)
        require(self.dimension >= 1, "dimension must be >= 1", dimension=self.dimension)
        require(self.classes >= 2, "classes must be >= 2", classes=self.classes)  # noqa: PLR2004
        count = self.samples_per_client
        require(count is None or count >= 1, "samples_per_client must be >= 1", samples_per_client=count)
        require(self.most_samples >= 1, "most_samples must be >= 1", most_samples=self.most_samples)

    @override
    def load(self, *, n_clients: int | None, seed: int, folder: Path) -> Samples:
        if n_clients is None:
            raise DataError("population.clients: missing; the data set synthetic makes as many clients as you ask for")
        draw = rng.stream(seed, "data", "synthetic")
        sizes = self._sizes(n_clients, draw)
        owner = np.repeat(np.arange(n_clients), sizes)
        x = np.empty((len(owner), self.dimension), np.float32)
        y = np.empty(len(owner), np.int64)
        ends = np.concatenate([[0], np.cumsum(sizes)])
        shared = draw.standard_normal((self.classes, self.dimension)), draw.standard_normal(self.classes)
        for first in range(0, n_clients, _BLOCK):
            last = min(first + _BLOCK, n_clients)
            rows = slice(ends[first], ends[last])
            x[rows], y[rows] = self._block(owner[rows] - first, last - first, shared, draw)
        return Samples(x, y, self.classes, owner, f"synthetic({self.alpha:g}, {self.beta:g})")

    def _sizes(self, n: int, draw: np.random.Generator) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        if self.samples_per_client is not None:
            return np.full(n, self.samples_per_client)
        return np.minimum(draw.lognormal(4.0, 2.0, n).astype(np.int64) + 50, self.most_samples)

    def _block(
        self, owner: np.ndarray, n: int, shared: tuple[np.ndarray, np.ndarray], draw: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Inputs and labels of the clients of one block; owner counts from its first client."""
        center = draw.normal(0.0, self.beta**0.5, n)
        mean = draw.standard_normal((n, self.dimension)) + center[:, None]
        lean = draw.normal(0.0, self.alpha**0.5, n)
        weight = draw.standard_normal((n, self.classes, self.dimension)) + lean[:, None, None]
        bias = draw.standard_normal((n, self.classes)) + lean[:, None]
        if self.iid:
            mean = np.zeros_like(mean)
            weight, bias = (np.broadcast_to(part, (n, *part.shape)) for part in shared)
        spread = np.arange(1, self.dimension + 1) ** -0.6  # square root of j^-1.2
        x = mean[owner] + spread * draw.standard_normal((len(owner), self.dimension))
        y = np.empty(len(owner), np.int64)
        bounds = np.searchsorted(owner, np.arange(n + 1))
        for client in range(n):
            mine = slice(bounds[client], bounds[client + 1])
            y[mine] = (x[mine] @ weight[client].T + bias[client]).argmax(axis=1)
        return x.astype(np.float32), y
