"""Synthetic(alpha, beta): logistic data whose clients differ in model (alpha) and in inputs (beta).

Li et al., Federated Optimization in Heterogeneous Networks, MLSys 2020, section 5.1, as the authors' generator computes
it (FedProx, ``data/synthetic_*/generate_synthetic.py``). For client k, with N(mean, standard deviation)::

    u_k ~ N(0, alpha)    W_k ~ N(u_k, 1)    b_k ~ N(u_k, 1)    B_k ~ N(0, beta)    v_k ~ N(B_k, 1) per dimension
    x ~ N(v_k, S), S diagonal with variance S_jj = j^-1.2, j = 1 ..    y = argmax(softmax(W_k x + b_k))

The paper leaves open whether alpha and beta are variances; in the authors' code they are standard deviations.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import final

import numpy as np
from typing_extensions import override

from evsim.base import rng
from evsim.base.errors import DataError, require
from evsim.base.vocabulary import FloatArray, IntArray
from evsim.training.data.base import DataSet, Samples


@final
@dataclass(frozen=True, kw_only=True)
class Synthetic(DataSet):
    """Any number of clients, each a group of the natural partition.

    A client's samples are a function of the seed and its number: a larger population begins with the same clients.

    Attributes:
        alpha: how much the clients' models differ.
        beta: how much their inputs differ.
        dimension: of the inputs.
        classes: number of labels.
        iid: all clients share one model, and v_k = B_k in every dimension.
        samples_per_client: of every client; None: log-normal(4, 2) rounded down, plus 50, as in the authors' generator.
        most_samples: bound on a client's samples; None: no bound (a client in 10,000 has some 90,000).
    """

    alpha: float = 0.0
    beta: float = 0.0
    dimension: int = 60
    classes: int = 10
    iid: bool = False
    samples_per_client: int | None = None
    most_samples: int | None = None

    def __post_init__(self) -> None:
        require(isfinite(self.alpha) and self.alpha >= 0, "alpha must be >= 0", alpha=self.alpha)
        require(isfinite(self.beta) and self.beta >= 0, "beta must be >= 0", beta=self.beta)
        require(self.dimension >= 1, "dimension must be >= 1", dimension=self.dimension)
        require(self.classes >= 2, "classes must be >= 2", classes=self.classes)  # noqa: PLR2004
        count, most = self.samples_per_client, self.most_samples
        require(count is None or count >= 1, "samples_per_client must be >= 1", samples_per_client=count)
        require(most is None or most >= 1, "most_samples must be >= 1", most_samples=most)

    @override
    def load(self, *, n_clients: int | None, seed: int, folder: Path) -> Samples:
        if n_clients is None:
            raise DataError("population.clients: missing; the data set synthetic makes as many clients as you ask for")
        sizes = self.sizes(n_clients, seed)
        ends = np.cumsum(sizes)
        x = np.empty((ends[-1], self.dimension), np.float32)
        y = np.empty(ends[-1], np.int64)
        shared = self._model(0.0, rng.stream(seed, "data", "synthetic", "shared")) if self.iid else None
        for client in range(n_clients):
            rows = slice(ends[client] - sizes[client], ends[client])
            x[rows], y[rows] = self._client(int(sizes[client]), rng.stream(seed, "data", "synthetic", client), shared)
        groups = np.repeat(np.arange(n_clients), sizes)
        return Samples(x, y, self.classes, groups, f"synthetic({self.alpha:g}, {self.beta:g})")

    def sizes(self, n_clients: int, seed: int) -> IntArray:
        """Samples per client."""
        if self.samples_per_client is not None:
            counts = np.full(n_clients, self.samples_per_client, np.int64)
        else:
            normal = rng.normal(rng.key(seed, "data", "synthetic", "sizes"), np.arange(n_clients))
            counts = np.exp(4.0 + 2.0 * normal).astype(np.int64) + 50
        return counts if self.most_samples is None else np.minimum(counts, self.most_samples)

    def _client(
        self, n: int, draw: np.random.Generator, shared: tuple[FloatArray, FloatArray] | None
    ) -> tuple[FloatArray, IntArray]:
        """Inputs (n, dimension) and labels (n,) of one client."""
        lean, center = draw.normal(0.0, self.alpha), draw.normal(0.0, self.beta)
        mean = np.full(self.dimension, center) if self.iid else draw.normal(center, 1.0, self.dimension)
        weight, bias = shared or self._model(lean, draw)
        deviation = np.arange(1, self.dimension + 1) ** -0.6  # square root of j^-1.2
        x = mean + deviation * draw.standard_normal((n, self.dimension))
        return x, (x @ weight + bias).argmax(axis=1)  # softmax keeps the order

    def _model(self, lean: float, draw: np.random.Generator) -> tuple[FloatArray, FloatArray]:
        """W (dimension, classes) and b (classes,), normal around `lean`."""
        return draw.normal(lean, 1.0, (self.dimension, self.classes)), draw.normal(lean, 1.0, self.classes)
