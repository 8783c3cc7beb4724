"""Feature skew: clients whose inputs look different, by a function of the client and the sample.

Every pair of a client and a sample of its own becomes a row, which is made when it is read, or at once if all of them
are few. So executors, queries and evaluations on clients see the same inputs, and none of them knows of it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from math import isfinite
from typing import TYPE_CHECKING, Any, final

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from evsim.base import rng
from evsim.base.errors import DataError, require
from evsim.base.vocabulary import FloatArray, IntArray
from evsim.training.data.gathered import Change, Gathered, Values

if TYPE_CHECKING:
    from evsim.training.data.base import FederatedData

_KEPT = 1 << 30  # bytes of rows up to which they are made at once, of inputs that are in memory
_BLOCK = 1 << 22  # numbers that are made at a time
_IMAGES = 4  # axes of images: samples, channels, height, width
_QUARTER = 90.0


@final
@dataclass(frozen=True, eq=False)
class Seen:
    """Whose inputs rows are.

    Attributes:
        client: (n,) number of the client.
        sample: (n,) number of the sample among those that clients learn from.
        n_clients: how many clients there are.
        key: of the random draws.
    """

    client: IntArray
    sample: IntArray
    n_clients: int
    key: int


class Skew(ABC):
    """How a client's inputs differ from the data set's; the server's test set stays as it is."""

    @abstractmethod
    def refusal(self, shape: tuple[int, ...], *, tokens: bool) -> str:
        """Why inputs of this shape (n, ...) cannot be skewed, as the end of a sentence; "" if they can."""

    @abstractmethod
    def dtype(self, stored: np.dtype[Any]) -> np.dtype[Any]:
        """Type of what `apply` gives for inputs stored in a type: float32, or as they were."""

    @abstractmethod
    def apply(self, x: NDArray[Any], seen: Seen) -> NDArray[Any]:
        """Inputs (n, ...) as stored, float32 or images in uint8, as their clients see them: the same shape.

        A row must depend on its input, client, sample and the key alone, not on the rows beside it.
        """


@final
@dataclass(frozen=True, kw_only=True)
class Noise(Skew):
    """Normal noise whose standard deviation rises from client to client: client i of n has level x (i + 1) / n.

    The noise-based feature imbalance of Li et al. (Federated Learning on Non-IID Data Silos, ICDE 2022). A client sees
    a sample always with the same noise. Images in bytes count as 0 to 1; sums are not clipped.

    Attributes:
        level: standard deviation of the last client, in units of the inputs.
    """

    level: float

    def __post_init__(self) -> None:
        require(isfinite(self.level) and self.level >= 0, "level must be a finite number >= 0", level=self.level)

    @override
    def refusal(self, shape: tuple[int, ...], *, tokens: bool) -> str:
        return "are token ids; expected numbers" if tokens else ""

    @override
    def dtype(self, stored: np.dtype[Any]) -> np.dtype[Any]:
        return np.dtype(np.float32)

    @override
    def apply(self, x: NDArray[Any], seen: Seen) -> NDArray[Any]:
        place = np.arange(int(np.prod(x.shape[1:])))
        drawn = rng.normal(seen.key, seen.client[:, None], seen.sample[:, None], place)
        deviation = self.level * (seen.client + 1) / seen.n_clients
        plain = x.astype(np.float32) / np.float32(255) if x.dtype == np.uint8 else x.astype(np.float32)
        return np.asarray(plain + (deviation[:, None] * drawn).astype(np.float32).reshape(x.shape))


@final
@dataclass(frozen=True, kw_only=True)
class Rotation(Skew):
    """Images turned by an angle of the client's: client i has angle i modulo their number.

    With the default, the rotated images of Ghosh et al. (IFCA, NeurIPS 2020). Quarter turns are exact; other angles
    interpolate linearly between the four nearest pixels, and what comes from outside the image is 0.

    Attributes:
        angles: degrees, counterclockwise.
    """

    angles: tuple[float, ...] = (0.0, 90.0, 180.0, 270.0)

    def __post_init__(self) -> None:
        require(len(self.angles) > 0, "at least one angle is needed", angles=self.angles)
        require(all(map(isfinite, self.angles)), "angles must be finite", angles=self.angles)

    @override
    def refusal(self, shape: tuple[int, ...], *, tokens: bool) -> str:
        if tokens or len(shape) != _IMAGES:
            return f"have the shape {shape[1:]}; expected images (channels, height, width)"
        is_square = shape[2] == shape[3]
        upright = all(angle % (2 * _QUARTER) == 0 or angle % _QUARTER for angle in self.angles)
        return "" if is_square or upright else f"are {shape[2]}x{shape[3]} pixels; a quarter turn needs square ones"

    @override
    def dtype(self, stored: np.dtype[Any]) -> np.dtype[Any]:
        return stored

    @override
    def apply(self, x: NDArray[Any], seen: Seen) -> NDArray[Any]:
        made, which = np.empty_like(x), seen.client % len(self.angles)
        for number in np.unique(which).tolist():
            own = which == number
            made[own] = _turned(x[own], self.angles[number])
        return made


def skewed(data: FederatedData, skew: Skew, seed: int) -> FederatedData:
    """The data as clients see them: a row of x and y for every place of `index` and of what is held out.

    Raises:
        DataError: if these inputs cannot be skewed so.
    """
    refusal = skew.refusal(data.x.shape, tokens=data.n_tokens is not None)
    if refusal:
        raise DataError(f"data.skew: the inputs of {data.name} {refusal}")
    parts = [(data.index, data.offsets)] + ([] if data.held is None else [(data.held.index, data.held.offsets)])
    owner = np.concatenate([np.repeat(np.arange(data.n_clients), np.diff(offsets)) for _, offsets in parts])
    sample = np.concatenate([index for index, _ in parts])
    seen = Seen(owner, sample, data.n_clients, rng.key(seed, "data", "skew"))
    x = _made(data.x, SkewedRows(skew, seen, skew.dtype(data.x.dtype)))
    rows, count = np.arange(len(sample)), len(data.index)
    held = None if data.held is None else replace(data.held, index=rows[count:])
    return replace(data, x=x, y=data.y[sample], index=rows[:count], held=held, sources=sample)


@final
@dataclass(frozen=True, eq=False)
class SkewedRows(Change):
    """What a skew makes of rows when they are read."""

    skew: Skew
    seen: Seen
    gives: np.dtype[Any]

    @property
    @override
    def dtype(self) -> np.dtype[Any]:
        return self.gives

    @override
    def select(self, rows: IntArray) -> SkewedRows:
        own = replace(self.seen, client=self.seen.client[rows], sample=self.seen.sample[rows])
        return replace(self, seen=own)

    @override
    def of(self, values: NDArray[Any], rows: IntArray) -> NDArray[Any]:
        return self.skew.apply(values, self.select(rows).seen)


def _made(x: Values, change: SkewedRows) -> Values:
    """The rows of all clients: in memory, if the inputs are there and the rows are not too many; else when read."""
    rows = x.select(change.seen.sample) if isinstance(x, Gathered) else Gathered(x, change.seen.sample)
    later = replace(rows, change=change)
    if later.pages is not None or later.nbytes > _KEPT:
        return later
    made = np.empty(later.shape, later.dtype)
    step = max(1, _BLOCK // max(1, int(np.prod(later.shape[1:]))))
    for start in range(0, len(made), step):  # in blocks, to bound the memory
        made[start : start + step] = later[start : start + step]
    return made


def _turned(images: NDArray[Any], angle: float) -> NDArray[Any]:
    """Images (n, channels, height, width) turned counterclockwise, in their own type."""
    if angle % _QUARTER == 0:
        return np.rot90(images, int(angle // _QUARTER) % 4, axes=(2, 3))
    rows, weights = _pixels(images.shape[2], images.shape[3], np.deg2rad(angle))
    flat = images.reshape(*images.shape[:2], -1)
    total = sum(flat[..., row] * weight for row, weight in zip(rows, weights, strict=True))
    made = np.asarray(total).reshape(images.shape)
    return np.rint(made).astype(np.uint8) if images.dtype == np.uint8 else made.astype(images.dtype)


def _pixels(height: int, width: int, angle: float) -> tuple[list[IntArray], list[FloatArray]]:
    """For each pixel the four pixels it comes from, as places in a flat image, and their weights."""
    down, right = np.indices((height, width), dtype=np.float64).reshape(2, -1)
    down, right = down - (height - 1) / 2, right - (width - 1) / 2
    cos, sin = np.cos(angle), np.sin(angle)
    row, column = cos * down + sin * right + (height - 1) / 2, cos * right - sin * down + (width - 1) / 2
    top, left = np.floor(row), np.floor(column)
    rows, weights = [], []
    for r, c in ((top, left), (top, left + 1), (top + 1, left), (top + 1, left + 1)):
        inside = (r >= 0) & (r < height) & (c >= 0) & (c < width)
        rows.append((np.clip(r, 0, height - 1) * width + np.clip(c, 0, width - 1)).astype(np.int64))
        weights.append((1 - abs(row - r)) * (1 - abs(column - c)) * inside)
    return rows, weights
