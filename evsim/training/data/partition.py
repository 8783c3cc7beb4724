"""Partitions: how samples are dealt to clients. Vectorised over clients; loops run over labels only."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import ClassVar, final

import numpy as np
from typing_extensions import override

from evsim.base.errors import DataError, require
from evsim.base.vocabulary import FloatArray, IntArray
from evsim.training.data.base import Partition

Split = tuple[IntArray, IntArray]


@final
@dataclass(frozen=True, kw_only=True)
class Iid(Partition):
    """Samples dealt at random.

    Attributes:
        samples_per_client: draw so many each, with replacement over clients; None deals all samples out once.
    """

    by_labels: ClassVar[bool] = False

    samples_per_client: int | None = None

    def __post_init__(self) -> None:
        _check_count(self.samples_per_client)

    @override
    def split(
        self, y: IntArray, groups: IntArray | None, n_classes: int, n_clients: int | None, rng: np.random.Generator
    ) -> Split:
        n = count_of(n_clients)
        if self.samples_per_client is not None:
            index = rng.integers(len(y), size=n * self.samples_per_client)
            return index, np.arange(n + 1) * self.samples_per_client
        order = rng.permutation(len(y))
        return order, np.linspace(0, len(y), n + 1).astype(np.int64)


@final
@dataclass(frozen=True, kw_only=True)
class Natural(Partition):
    """The data set's own clients, in order of their ids; `population.clients` may ask for the first so many.

    Attributes:
        min_samples: clients with fewer are left out, and the others move up (FedScale's `filter_less`).
        max_samples: so many of a client's samples are kept, the first ones; None: all.
    """

    by_groups: ClassVar[bool] = True
    by_labels: ClassVar[bool] = False

    min_samples: int = 0
    max_samples: int | None = None

    def __post_init__(self) -> None:
        require(self.min_samples >= 0, "min_samples must be >= 0", min_samples=self.min_samples)
        most = self.max_samples
        require(most is None or most >= 1, "max_samples must be >= 1", max_samples=most)

    @override
    def split(
        self, y: IntArray, groups: IntArray | None, n_classes: int, n_clients: int | None, rng: np.random.Generator
    ) -> Split:
        if groups is None:
            raise DataError("partition natural: this data set has no natural clients; use another partition")
        own = int(groups.max(initial=-1)) + 1
        n = own if n_clients is None else n_clients
        number = np.arange(own)
        if self.min_samples:
            number, n = self._moved_up(groups, own, n)
        owner = np.append(number, n)[groups]  # groups of -1 are nobody's
        index, offsets = by_owner(np.where(owner < n, owner, n), n)
        return (index, offsets) if self.max_samples is None else _cut(index, offsets, self.max_samples)

    def _moved_up(self, groups: IntArray, own: int, n: int) -> tuple[IntArray, int]:
        """The numbers of clients when those with few samples are left out, and how many there are."""
        keeps = np.bincount(groups[groups >= 0], minlength=own) >= self.min_samples
        kept = int(keeps.sum())
        if kept < n < own:
            raise DataError(
                f"population.clients: {n}; expected at most {kept}, the natural clients with {self.min_samples} samples"
            )
        n = min(n, kept)
        return np.where(keeps, np.cumsum(keeps) - 1, n), n


@final
@dataclass(frozen=True, kw_only=True)
class Dirichlet(Partition):
    """Label shares per client from Dirichlet(alpha x prior x classes) (Hsu et al. 2019); small alpha, strong skew.

    Attributes:
        alpha: concentration per class.
        samples_per_client: draw so many each with replacement, for any number of clients; None splits each label's
            samples over the clients without replacement, with shares from Dirichlet(alpha) over clients.
    """

    alpha: float
    samples_per_client: int | None = None

    def __post_init__(self) -> None:
        require(isfinite(self.alpha) and self.alpha > 0, "alpha must be > 0", alpha=self.alpha)
        _check_count(self.samples_per_client)

    @override
    def split(
        self, y: IntArray, groups: IntArray | None, n_classes: int, n_clients: int | None, rng: np.random.Generator
    ) -> Split:
        n = count_of(n_clients)
        if self.samples_per_client is not None:
            prior = np.bincount(y, minlength=n_classes) / len(y)
            shares = _dirichlet(self.alpha * n_classes * prior, n, rng)
            return _draw(y, shares, np.full(n, self.samples_per_client), rng)
        owner = np.empty(len(y), np.int64)
        for label in range(n_classes):
            rows = rng.permutation(np.flatnonzero(y == label))
            cuts = np.cumsum(_dirichlet(np.full(n, self.alpha), 1, rng)[0])
            owner[rows] = np.minimum(np.searchsorted(cuts, (np.arange(len(rows)) + 0.5) / max(len(rows), 1)), n - 1)
        return by_owner(owner, n)


@final
@dataclass(frozen=True, kw_only=True)
class Shards(Partition):
    """Samples sorted by label, cut into equal shards, some to each client (McMahan et al. 2017).

    Attributes:
        shards_per_client: number of shards each client gets.
    """

    shards_per_client: int = 2

    def __post_init__(self) -> None:
        require(self.shards_per_client >= 1, "shards_per_client must be >= 1", shards_per_client=self.shards_per_client)

    @override
    def split(
        self, y: IntArray, groups: IntArray | None, n_classes: int, n_clients: int | None, rng: np.random.Generator
    ) -> Split:
        n = count_of(n_clients)
        n_shards = n * self.shards_per_client
        if n_shards > len(y):
            raise DataError(f"partition shards: {n_shards} shards of {len(y)} samples; expected at most one per sample")
        shuffled = rng.permutation(len(y))
        ordered = shuffled[np.argsort(y[shuffled], kind="stable")]
        shard = np.minimum(np.arange(len(y)) * n_shards // len(y), n_shards - 1)
        owner = np.empty(len(y), np.int64)
        owner[ordered] = (rng.permutation(n_shards) // self.shards_per_client)[shard]
        return by_owner(owner, n)


@final
@dataclass(frozen=True, kw_only=True)
class Classes(Partition):
    """Each client has k labels, chosen at random, in equal shares.

    Attributes:
        classes_per_client: k.
        samples_per_client: draw so many each, with replacement.
    """

    classes_per_client: int
    samples_per_client: int = 20

    def __post_init__(self) -> None:
        require(
            self.classes_per_client >= 1, "classes_per_client must be >= 1", classes_per_client=self.classes_per_client
        )
        _check_count(self.samples_per_client)

    @override
    def split(
        self, y: IntArray, groups: IntArray | None, n_classes: int, n_clients: int | None, rng: np.random.Generator
    ) -> Split:
        n, k = count_of(n_clients), self.classes_per_client
        present = np.unique(y)
        if k > len(present):
            raise DataError(f"partition classes: classes_per_client = {k}; the data has {len(present)} labels")
        chosen = present[np.argsort(rng.random((n, len(present))), axis=1)[:, :k]]
        shares = np.zeros((n, n_classes))
        np.put_along_axis(shares, chosen, 1.0 / k, axis=1)
        return _draw(y, shares, np.full(n, self.samples_per_client), rng)


@final
@dataclass(frozen=True, kw_only=True)
class Quantity(Partition):
    """Log-normal numbers of samples, at least one, labels at random (drawn with replacement).

    Attributes:
        mean: mean number of samples per client.
        sigma: standard deviation of the logarithm.
    """

    by_labels: ClassVar[bool] = False

    mean: float = 20.0
    sigma: float = 1.0

    def __post_init__(self) -> None:
        require(isfinite(self.mean) and self.mean >= 1, "mean must be >= 1", mean=self.mean)
        require(isfinite(self.sigma) and self.sigma >= 0, "sigma must be >= 0", sigma=self.sigma)

    @override
    def split(
        self, y: IntArray, groups: IntArray | None, n_classes: int, n_clients: int | None, rng: np.random.Generator
    ) -> Split:
        n = count_of(n_clients)
        sizes = self.mean * np.exp(self.sigma * rng.standard_normal(n) - self.sigma**2 / 2)
        offsets = np.concatenate([[0], np.cumsum(np.maximum(np.rint(sizes), 1))]).astype(np.int64)
        return rng.integers(len(y), size=int(offsets[-1])), offsets


def label_skew(label_counts: IntArray) -> float:
    """Mean Jensen-Shannon distance (base 2, in 0..1) of the clients' label distributions to the overall one."""
    counts = label_counts[label_counts.sum(axis=1) > 0].astype(np.float64)
    own = counts / counts.sum(axis=1, keepdims=True)
    overall = counts.sum(axis=0) / counts.sum()
    middle = (own + overall) / 2
    divergence = (_entropy(middle) - (_entropy(own) + _entropy(overall[None])) / 2).clip(0)
    return float(np.sqrt(divergence).mean())


def _entropy(p: FloatArray) -> FloatArray:
    logs = np.log2(p, out=np.zeros_like(p), where=p > 0)
    return np.asarray(-(p * logs).sum(axis=1))


def count_of(n_clients: int | None) -> int:
    """The number of clients that a scenario asks for.

    Raises:
        DataError: if it does not say.
    """
    if n_clients is None:
        raise DataError("population.clients: missing; only the natural partition knows how many clients there are")
    require(n_clients >= 1, "clients must be >= 1", clients=n_clients)
    return n_clients


def _check_count(samples: int | None) -> None:
    require(samples is None or samples >= 1, "samples_per_client must be >= 1", samples_per_client=samples)


def _cut(index: IntArray, offsets: IntArray, most: int) -> Split:
    """The first so many samples of each client."""
    sizes = np.diff(offsets)
    rank = np.arange(len(index)) - np.repeat(offsets[:-1], sizes)
    return index[rank < most], np.concatenate([[0], np.cumsum(np.minimum(sizes, most))]).astype(np.int64)


def by_owner(owner: IntArray, n: int) -> Split:
    """Index and offsets from the owner of each sample; owners >= n are nobody."""
    order = np.argsort(owner, kind="stable")
    counts = np.bincount(owner, minlength=n)[:n]
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return order[: offsets[-1]], offsets


def _dirichlet(alphas: FloatArray, n: int, rng: np.random.Generator) -> FloatArray:
    """Rows from Dirichlet(alphas); in logarithms, since gamma draws of small shape underflow to an all-zero row."""
    possible = alphas > 0
    shape = np.where(possible, alphas, 1.0)
    logs = np.log(rng.gamma(shape + 1.0, size=(n, len(alphas)))) + np.log(rng.random((n, len(alphas)))) / shape
    logs = np.where(possible, logs, -np.inf)
    weights = np.exp(logs - logs.max(axis=1, keepdims=True))
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


def _draw(y: IntArray, shares: FloatArray, sizes: IntArray, rng: np.random.Generator) -> Split:
    """For each client so many samples with replacement: first a label by its shares, then a sample of that label."""
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    owner = np.repeat(np.arange(len(sizes)), sizes)
    cuts = np.cumsum(shares, axis=1)
    draws = rng.random(len(owner)) * cuts[owner, -1]
    label = np.zeros(len(owner), np.int64)
    for cut in cuts.T[:-1]:  # a loop over labels: all at once would need labels x samples numbers
        label += draws >= cut[owner]
    by_label = np.argsort(y, kind="stable")
    counts = np.bincount(y, minlength=shares.shape[1])
    first = np.cumsum(counts) - counts
    return by_label[first[label] + (rng.random(len(owner)) * counts[label]).astype(np.int64)], offsets
