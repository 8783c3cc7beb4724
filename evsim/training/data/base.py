"""Data sets, partitions, and the two joined: what each client has and what the server tests on."""

from __future__ import annotations

import hashlib
import zlib
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, final

import numpy as np
from numpy.typing import NDArray

from evsim.base import rng
from evsim.base.errors import DataError, require
from evsim.base.vocabulary import BoolArray, FloatArray, IntArray
from evsim.training.data import shared
from evsim.training.data.gathered import Gathered, Values, select
from evsim.training.data.held_out import HeldOut, hold_out
from evsim.training.data.labels import IN_WORDS, LabelKind, check_labels, strata
from evsim.training.data.transforms.base import Transform

_DIGESTED = 1000  # inputs
_MOST_DIGESTED = 1 << 30  # bytes
_BLOCK = 1 << 24


@final
@dataclass(frozen=True, eq=False)
class Samples:
    """A data set as arrays.

    Attributes:
        x: (N, ...) float32 inputs, uint8 images, or integers that are token ids. Images stay uint8 until they are used;
            a model gets them divided by 255. `Gathered` rows are read when they are used, and were checked before.
        y: labels, of the kind that `labels` says: by default (N,) classes in 0..n_classes - 1.
        n_classes: number of classes, tokens, flags, or numbers per sample.
        groups: (N,) natural client of each sample, -1 for none; None if the data set has no natural clients.
        name: for messages.
        n_tokens: size of the vocabulary if x holds token ids.
        is_test: (N,) samples of the data set's own test set; None if it has none.
        labels: what y holds.
    """

    x: Values
    y: NDArray[Any]
    n_classes: int
    groups: IntArray | None
    name: str
    n_tokens: int | None = None
    is_test: BoolArray | None = None
    labels: LabelKind = "classes"

    def __post_init__(self) -> None:
        if not len(self.x) == len(self.y) > 0:
            raise DataError(
                f"{self.name}: {len(self.x)} inputs and {len(self.y)} labels; expected as many, at least one"
            )
        if self.groups is not None and len(self.groups) != len(self.y):
            raise DataError(f"{self.name}: {len(self.groups)} client ids for {len(self.y)} samples; expected as many")
        check_labels(self.y, self.n_classes, self.labels, self.name)
        if not (isinstance(self.x, Gathered) or self.x.dtype.kind in "iub" or np.isfinite(self.x).all()):
            raise DataError(f"{self.name}: inputs hold numbers that are not finite")


class DataSet(ABC):
    """Where samples come from; nothing is downloaded."""

    @abstractmethod
    def load(self, *, n_clients: int | None, seed: int, folder: Path) -> Samples:
        """All samples. `n_clients` is what the scenario asks for; `folder` is where relative paths are looked up."""


class Partition(ABC):
    """How samples are dealt to clients.

    Attributes:
        by_groups: the clients are the data set's own; without, the scenario says how many there are.
        by_labels: it looks at labels, and so needs a class per sample; without, it gets zeros where there is none.
    """

    by_groups: ClassVar[bool] = False
    by_labels: ClassVar[bool] = True

    @abstractmethod
    def split(
        self, y: IntArray, groups: IntArray | None, n_classes: int, n_clients: int | None, rng: np.random.Generator
    ) -> tuple[IntArray, IntArray]:
        """Sample numbers and offsets: client i draws ``index[offsets[i]:offsets[i + 1]]``.

        Raises:
            DataError: if these samples cannot be dealt so.
        """

    def listed(self, n_samples: int, n_clients: int | None, folder: Path) -> tuple[IntArray, IntArray] | None:
        """Numbers in the whole data set and offsets, for a partition that names samples; by default it deals them.

        Then `split` is not asked, no listed sample is tested on, and the offsets say how many clients there are.
        """
        return None


@final
@dataclass(frozen=True, eq=False)
class FederatedData:
    """What each client trains on and what the server tests on.

    Client i has the rows ``index[offsets[i]:offsets[i + 1]]`` of x and y; rows may be shared.

    Attributes:
        held: what each client is evaluated on and nobody trains on; None: nothing is held out.
        sources: (N,) the sample that each row of x was made from; None: every row is a sample of its own.
        labels: what y holds.
        transforms: what is made of inputs when they are used.
    """

    x: Values
    y: NDArray[Any]
    index: IntArray
    offsets: IntArray
    x_test: Values
    y_test: NDArray[Any]
    n_classes: int
    n_tokens: int | None
    name: str
    held: HeldOut | None = None
    sources: IntArray | None = None
    labels: LabelKind = "classes"
    transforms: tuple[Transform, ...] = ()

    @property
    def n_clients(self) -> int:
        """Number of clients, those without samples included."""
        return len(self.offsets) - 1

    @property
    def sizes(self) -> IntArray:
        """Samples per client, (n_clients,)."""
        return np.diff(self.offsets)

    def samples_of(self, client: int) -> IntArray:
        """Rows of one client."""
        return self.index[self.offsets[client] : self.offsets[client + 1]]

    def digest(self) -> str:
        """Of who has which samples, all labels, and all inputs; beyond 1 GB only 1,000: a large store takes minutes."""
        found = hashlib.blake2b(digest_size=16)
        for part in (self.x, self.x_test):
            some = np.unique(np.linspace(0, max(len(part) - 1, 0), _DIGESTED).astype(np.int64))[: len(part)]
            found.update(f"{part.dtype} {part.shape} {_checksum(part)}".encode())
            found.update(np.ascontiguousarray(part[some]).tobytes())
        for column in (self.y, self.index, self.offsets, self.y_test):
            found.update(np.ascontiguousarray(column, "<f8" if column.dtype.kind == "f" else "<i8").tobytes())
        return found.hexdigest()

    def label_share(self, label: int) -> FloatArray:
        """The share of a label among each client's samples, (n_clients,); 0 without samples.

        Raises:
            DataError: if there is no such label.
        """
        if label >= self.n_classes:
            raise DataError(f"label {label} of {self.name}; expected 0 to {self.n_classes - 1}")
        found = np.concatenate([[0], np.cumsum(self.y[self.index] == label)])
        counts = found[self.offsets[1:]] - found[self.offsets[:-1]]
        return np.asarray(counts / np.maximum(self.sizes, 1))

    def label_counts(self) -> IntArray:
        """How often each client has each label, (n_clients, n_classes)."""
        owner = np.repeat(np.arange(self.n_clients), self.sizes)
        flat = np.bincount(owner * self.n_classes + self.y[self.index], minlength=self.n_clients * self.n_classes)
        return flat.reshape(self.n_clients, self.n_classes).astype(np.int64)


def _checksum(values: Values) -> int:
    """CRC-32 of all values, at several GB per second; 0 where that would take long. Changes are what it finds."""
    if values.nbytes > _MOST_DIGESTED or not len(values):
        return 0
    plain = replace(values, change=None) if isinstance(values, Gathered) else values  # a change comes of the scenario
    rows, found = max(_BLOCK * len(values) // max(values.nbytes, 1), 1), 0
    for start in range(0, len(values), rows):
        found = zlib.crc32(np.ascontiguousarray(plain[start : start + rows]).reshape(-1).view(np.uint8).data, found)
    return found


def federate(  # noqa: PLR0913  what a scenario says of its data, all by name
    dataset: DataSet,
    partition: Partition,
    *,
    test_fraction: float,
    n_clients: int | None,
    seed: int,
    folder: Path,
    client_test_fraction: float | None = None,
) -> FederatedData:
    """Split off the test set first (stratified by label), then deal the rest to clients, then hold out a part of it.

    A data set with a test set of its own keeps it, and `test_fraction` has no effect. Without `n_clients` there are as
    many clients as the data set has natural ones.

    Raises:
        DataError: if the data cannot be read or dealt, or no client gets any.
    """
    require(0 < test_fraction < 1, "0 < test_fraction < 1 must hold", test_fraction=test_fraction)
    samples = shared.load(dataset, n_clients=n_clients, seed=seed, folder=folder)
    given = partition.listed(len(samples.y), n_clients, folder)
    train, test = _split(samples, test_fraction, seed, None if given is None else given[0])
    if len(train) == 0 or len(test) == 0:
        raise DataError(f"{samples.name}: {len(samples.y)} samples are too few for test_fraction {test_fraction}")
    y = samples.y[train]
    if given is None:
        if partition.by_labels and samples.labels != "classes":
            raise DataError(
                f"data.partition: {type(partition).__name__.lower()} deals samples by their class; the labels of "
                f"{samples.name} are {IN_WORDS[samples.labels]}; expected a partition such as iid, natural or quantity"
            )
        dealt, count = strata(y, samples.n_classes, samples.labels)
        groups = None if samples.groups is None else samples.groups[train]
        stream = rng.stream(seed, "partition")
        index, offsets = partition.split(dealt, groups, count, _count(samples, partition, n_clients), stream)
    else:
        index, offsets = np.searchsorted(train, given[0]), given[1]
    if offsets[-1] == 0:
        raise DataError(f"{samples.name}: no client has data; ask for more samples per client or fewer clients")
    held = None
    if client_test_fraction is not None:
        index, offsets, held = hold_out(index, offsets, client_test_fraction, seed)
    return FederatedData(
        select(samples.x, train),
        y,
        index,
        offsets,
        select(samples.x, test),
        samples.y[test],
        samples.n_classes,
        samples.n_tokens,
        samples.name,
        held,
        labels=samples.labels,
    )


def _count(samples: Samples, partition: Partition, asked: int | None) -> int:
    """How many clients there are: as many as asked for, by default as many as the data set has of its own."""
    require(asked is None or asked >= 1, "clients must be >= 1", clients=asked)
    own = None if samples.groups is None else int(samples.groups.max(initial=-1)) + 1
    if partition.by_groups and own is None:
        raise DataError(f"{samples.name} has no natural clients; use another partition")
    if partition.by_groups and asked is not None and own is not None and asked > own:
        raise DataError(f"population.clients: {asked}; expected at most {own}, the natural clients of {samples.name}")
    count = own if asked is None else asked
    if count is None:
        raise DataError(f"population.clients: missing; {samples.name} has no natural clients to count")
    return count


def _split(samples: Samples, fraction: float, seed: int, listed: IntArray | None = None) -> tuple[IntArray, IntArray]:
    """Rows of the train pool and of the test set, sorted: the data set's own, or a share of every label by the seed.

    Listed samples are in the pool; of a label of which too few are left, the test set has fewer.
    """
    y, taken = strata(samples.y, samples.n_classes, samples.labels)[0], np.zeros(len(samples.y), bool)
    if listed is not None:
        taken[listed] = True
    if samples.is_test is not None:
        if (both := np.flatnonzero(taken & samples.is_test)).size:
            raise DataError(f"{samples.name}: sample {both[0]} is listed for a client and in the data's test set")
        return np.flatnonzero(~samples.is_test), np.flatnonzero(samples.is_test)
    if taken.all():
        raise DataError(f"{samples.name}: every sample is listed for a client; leave some out, to be tested on")
    shuffled = rng.stream(seed, "data", "test").permutation(len(y))
    ordered = shuffled[np.lexsort((taken[shuffled], y[shuffled]))]
    counts = np.bincount(y)
    first = np.repeat(np.cumsum(counts) - counts, counts)
    rank = np.arange(len(y)) - first
    is_test = (rank < np.rint(fraction * counts)[y[ordered]]) & ~taken[ordered]
    return np.sort(ordered[~is_test]), np.sort(ordered[is_test])
