"""What an importer finds: a row per sample, in any order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, final

import numpy as np
from numpy.typing import NDArray

from evsim.base.errors import DataError
from evsim.base.vocabulary import BoolArray, IntArray
from evsim.training.data.columns import Reading
from evsim.training.data.labels import Labels


class Column(Protocol):
    """What inputs must be able to do: an array can, and so can files that are decoded when they are asked for."""

    def __len__(self) -> int:
        """Number of samples."""

    def __getitem__(self, rows: IntArray, /) -> NDArray[Any]:
        """The inputs of these rows."""


@final
@dataclass(frozen=True, eq=False, kw_only=True)
class Table:
    """Samples as they were found.

    Attributes:
        x: inputs, (n, ...).
        y: labels, as `labels` says: (n,) whole numbers, texts or floats; (n, m) flags, floats or classes of steps.
        client: whose each sample is, (n,): integers or texts; None if nobody's.
        is_test: which samples are the test set, (n,); None if the data have none of their own.
        inputs: what integers in x are, as in the data set `arrays`.
        labels: what y holds, likewise.
        label_names: names of the labels 0, 1, ...; None: none, or the texts in y.
        vocabulary: what the token ids 0, 1, ... stand for, if x holds token ids and it is known.
    """

    x: Column
    y: NDArray[Any]
    client: NDArray[Any] | None = None
    is_test: BoolArray | None = None
    inputs: Reading = "auto"
    labels: Labels = "auto"
    label_names: tuple[str, ...] | None = None
    vocabulary: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        lengths = {"x": len(self.x), "y": len(self.y)}
        lengths |= {} if self.client is None else {"client": len(self.client)}
        lengths |= {} if self.is_test is None else {"is_test": len(self.is_test)}
        if len(set(lengths.values())) > 1 or not lengths["x"]:
            said = ", ".join(f"{name}: {length}" for name, length in lengths.items())
            raise DataError(f"the columns hold {said}; expected as many of each, at least one")
        for name, column, kinds, axes in (("label", self.y, "fiubUS", 2), ("client", self.client, "fiuUS", 1)):
            if column is None:
                continue
            most = 1 if column.dtype.kind in "US" else axes
            if not 1 <= column.ndim <= most or column.dtype.kind not in kinds:
                what = f"{column.dtype} of shape {column.shape}"
                raise DataError(f"the {name} column holds {what}; expected a number or a text per sample")


@final
@dataclass(frozen=True, eq=False)
class Decoded:
    """Inputs that are made when they are asked for, such as images from files.

    Attributes:
        items: what each is made from, (n,).
        decode: makes one.
    """

    items: NDArray[Any]
    decode: Callable[[Any], NDArray[Any]]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, rows: IntArray) -> NDArray[Any]:
        made = [self.decode(item) for item in self.items[rows]]
        for item, each in zip(self.items[rows], made, strict=True):
            if each.shape != made[0].shape or each.dtype != made[0].dtype:
                raise DataError(
                    f"{item}: {each.dtype} of shape {each.shape}; expected {made[0].dtype} of shape {made[0].shape}, "
                    f"as {self.items[rows][0]} has"
                )
        return np.stack(made)


def stacked(tables: list[Table]) -> Table:
    """Tables of arrays, one after the other."""
    first = tables[0]
    try:
        x = np.concatenate([table.x[np.arange(len(table.x))] for table in tables])
        y = np.concatenate([table.y for table in tables])
    except ValueError as error:
        raise DataError(f"the parts do not fit together: {error}") from error
    clients = [table.client for table in tables if table.client is not None]
    tests = [np.zeros(len(table.y), bool) if table.is_test is None else table.is_test for table in tables]
    is_test = np.concatenate(tests)
    return Table(
        x=x,
        y=y,
        client=np.concatenate(clients) if len(clients) == len(tables) else None,
        is_test=is_test if is_test.any() else None,
        inputs=first.inputs,
        labels=first.labels,
        label_names=first.label_names,
        vocabulary=first.vocabulary,
    )
