"""The clients' samples as tensors: on the device if they fit, else in host memory and brought over batch by batch."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING, Any, final

import numpy as np
import torch
from numpy.typing import NDArray

from evsim.base.profiling import part
from evsim.base.vocabulary import IntArray
from evsim.training.data.gathered import Gathered, Values
from evsim.training.data.held_out import HeldOut
from evsim.training.data.placing import on_device
from evsim.training.data.transforms.base import Keys, Transform, applied

if TYPE_CHECKING:
    from collections.abc import Iterator

    from evsim.training.data.base import FederatedData

_HOST = torch.device("cpu")
_SHARE = 0.5  # of the free memory of a GPU that a data set may take

_READ = 1 << 30  # bytes of rows that are read when they are asked for, up to which they are read at once for a GPU

_NEAR = 64 << 20  # bytes of rows, as they are stored, that are read together for a chunk of tasks
_BLOCK = 4 << 20  # bytes of samples, as a model gets them, that are made at a time for the steps of a task

Batch = tuple[torch.Tensor, torch.Tensor]  # x and y on the device


@final
@dataclass(frozen=True, eq=False)
class Inputs:
    """Inputs that are stored in another form than a model gets them: ``inputs[rows]`` is what it gets.

    Attributes:
        raw: (N, ...) images in uint8, token ids in any integer type, or rows that are read when they are asked for.
        dtype: what a model gets: a floating-point type, or int64 for token ids.
        transforms: what is made of them on the way to a model; ``inputs[rows]`` went through those that do not draw.
    """

    raw: torch.Tensor | Gathered
    dtype: torch.dtype
    transforms: tuple[Transform, ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        """Of all inputs, (N, ...)."""
        return tuple(self.raw.shape)

    @property
    def device(self) -> torch.device:
        """Where they are stored."""
        return _HOST if isinstance(self.raw, Gathered) else self.raw.device

    @property
    def nbytes(self) -> int:
        """As they are stored."""
        return self.raw.nbytes

    def __len__(self) -> int:
        return len(self.raw)

    @part("data")
    def __getitem__(self, key: slice | torch.Tensor) -> torch.Tensor:
        if isinstance(self.raw, Gathered):
            found = torch.from_numpy(self.raw[key.numpy() if isinstance(key, torch.Tensor) else key])
        else:
            found = self.raw[key]
        made = ready(found, self.dtype)
        rows = tuple(key.shape) if isinstance(key, torch.Tensor) else made.shape[:1]
        return applied(self.transforms, made, rows, None) if self.transforms else made

    def to(self, device: torch.device) -> Inputs:
        """The same on a device, where what is read when it is asked for is read whole."""
        if isinstance(self.raw, Gathered):
            return self if device == _HOST else replace(self, raw=torch.from_numpy(self.raw[:]).to(device))
        return replace(self, raw=self.raw.to(device))


def ready(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Stored inputs as a model gets them: the only place where images in uint8 become numbers in 0..1."""
    if x.dtype == dtype:
        return x
    made = x.to(dtype)
    return made.div_(255) if x.dtype == torch.uint8 and dtype.is_floating_point else made


@final
@dataclass(frozen=True, eq=False)
class TrainingData:
    """The clients' samples, and which of them each client has.

    Attributes:
        x, y: all samples; on the device, or in host memory if they are streamed. Whether x is a tensor or `Inputs`,
            ``x[rows]`` is what a model gets. Labels (N, ...) are what the objective gets, in the type they are stored.
        index, offsets: client k has the rows ``index[offsets[k]:offsets[k + 1]]``.
        device: where batches are needed.
        held: what clients are evaluated on, if it is not what they train on.
        streamed: whether batches are brought to the device one at a time.
    """

    x: torch.Tensor | Inputs
    y: torch.Tensor
    index: IntArray
    offsets: IntArray
    device: torch.device = _HOST
    streamed: bool = False
    held: HeldOut | None = None

    @classmethod
    def of(cls, data: FederatedData, dtype: torch.dtype, device: torch.device) -> TrainingData:
        """A federated data set for a device; floating-point inputs take the given precision."""
        x = inputs(data.x, dtype, tokens=data.n_tokens is not None, transforms=data.transforms)
        y = labels(data.y, dtype)
        streamed = not fits(device, x, y)
        where = _HOST if streamed else device
        return cls(x.to(where), y.to(where), data.index, data.offsets, device, streamed, data.held)

    def of_client(self, client: int) -> IntArray:
        """Row numbers of a client's samples in x and y."""
        return self.index[self.offsets[client] : self.offsets[client + 1]]

    @property
    def judged(self) -> tuple[IntArray, IntArray]:
        """Index and offsets of what clients are evaluated on: what is held out, else what they train on."""
        return (self.index, self.offsets) if self.held is None else (self.held.index, self.held.offsets)

    def size(self, client: int) -> int:
        """Number of samples of a client."""
        return int(self.offsets[client + 1] - self.offsets[client])

    def rows(self, rows: IntArray) -> torch.Tensor:
        """Row numbers as `take` wants them: beside the samples."""
        return on_device(rows, self.x.device)

    @part("data")
    def near(self, rows: IntArray) -> tuple[TrainingData, IntArray]:
        """The samples of these rows, any shape, read once, and the row of each among them; to be used by `take` only.

        What is in memory, or too much at once, stays where it is.
        """
        x = self.x
        if not isinstance(x, Inputs) or not isinstance(x.raw, Gathered) or x.raw.pages is None:
            return self, rows
        own, places = np.unique(rows, return_inverse=True)
        if x.raw.nbytes // max(len(x), 1) * len(own) > _NEAR:
            return self, rows
        raw, nobody = torch.from_numpy(x.raw[own]), np.zeros(0, np.int64)
        near = replace(self, x=replace(x, raw=raw), y=self.y[torch.from_numpy(own)], index=nobody, offsets=nobody)
        return near, places.reshape(rows.shape)

    def blocks(self, rows: IntArray, keys: Keys) -> Iterator[Batch]:
        """The samples of some steps at a time: (steps, batch, ...) of rows (steps, batch) and keys (steps,).

        A few large operations instead of many small ones, within a bound on memory.
        """
        one = prod(self.x.shape[1:]) * self.x.dtype.itemsize * max(1, rows.shape[-1])
        count = max(1, _BLOCK // max(1, one))
        for start in range(0, len(rows), count):
            yield self.take(self.rows(rows[start : start + count]), keys[start : start + count])

    @part("data")
    def take(self, rows: torch.Tensor, keys: Keys | None = None) -> Batch:
        """The samples of these rows, any shape, on the device.

        `keys` has one key for each mini-batch (..., batch) of a step of training: transforms that draw are applied,
        too.
        """
        x = self._gathered(self.x, rows)
        if isinstance(self.x, Inputs) and self.x.transforms:
            x = applied(self.x.transforms, x, tuple(rows.shape), keys)
        return x, self._gathered(self.y, rows)

    def _gathered(self, values: torch.Tensor | Inputs, rows: torch.Tensor) -> torch.Tensor:
        raw = values.raw if isinstance(values, Inputs) else values
        shape = (*rows.shape, *values.shape[1:])
        return ready(self._picked(raw, rows.reshape(-1)).reshape(shape), values.dtype)

    def _picked(self, raw: torch.Tensor | Gathered, rows: torch.Tensor) -> torch.Tensor:
        """Rows of what is stored, on the device, in the form in which they are stored."""
        if isinstance(raw, Gathered):
            return on_device(raw[rows.numpy()], self.device)
        if not self.streamed:
            return raw.index_select(0, rows)
        on_gpu = self.device.type == "cuda"  # from pinned memory a copy does not make the host wait
        picked = torch.empty((rows.numel(), *raw.shape[1:]), dtype=raw.dtype, pin_memory=on_gpu)
        torch.index_select(raw, 0, rows, out=picked)
        return picked.to(self.device, non_blocking=True)


@final
class Ahead:
    """Brings the samples of the next step over while the device works on this one.

    Only for streamed data; else it holds nothing and `get` takes rows where they are.
    """

    def __init__(self, data: TrainingData) -> None:
        self._data = data
        self._stream = _stream(data.device) if data.streamed and data.device.type == "cuda" else None
        self._held: tuple[int, Batch] | None = None

    def load(self, step: int, rows: torch.Tensor, keys: Keys) -> None:
        """Start to bring a step's samples; returns at once on a GPU."""
        if self._data.streamed:
            with self._beside():
                self._held = step, self._data.take(rows, keys)

    def get(self, step: int, rows: torch.Tensor, keys: Keys) -> Batch:
        """The samples of a step, those that `load` brought if it was for this step."""
        if self._held is None or self._held[0] != step:
            return self._data.take(rows, keys)
        batch, self._held = self._held[1], None
        if self._stream is not None:
            now = torch.cuda.current_stream(self._data.device)
            now.wait_stream(self._stream)
            for tensor in batch:
                tensor.record_stream(now)  # else its memory might be used again too early
        return batch

    def _beside(self) -> AbstractContextManager[object]:
        return nullcontext() if self._stream is None else torch.cuda.stream(self._stream)


def _stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


def inputs(
    x: Values, dtype: torch.dtype, *, tokens: bool, transforms: tuple[Transform, ...] = ()
) -> torch.Tensor | Inputs:
    """Inputs in host memory: floats as a tensor of the given precision; images in uint8 and token ids as they are."""
    if isinstance(x, Gathered):
        whole = tokens or (x.dtype.kind in "iu" and x.dtype.itemsize > 1)
        return Inputs(x, torch.int64 if whole else dtype, transforms)
    tensor = torch.as_tensor(x)
    wanted = dtype if tensor.dtype == torch.uint8 and not tokens else torch.int64  # whole numbers stay whole
    if tensor.is_floating_point():
        tensor, wanted = tensor.to(dtype), dtype
    return tensor if tensor.dtype == wanted and not transforms else Inputs(tensor, wanted, transforms)


def labels(y: NDArray[Any], dtype: torch.dtype) -> torch.Tensor:
    """Labels in host memory: numbers to be predicted in the given precision, all others as they are stored."""
    tensor = torch.as_tensor(y)
    return tensor.to(dtype) if tensor.is_floating_point() else tensor


def fits(device: torch.device, *tensors: torch.Tensor | Inputs) -> bool:
    """Whether tensors may lie on a device beside what training needs: in host memory always."""
    if device.type != "cuda":
        return True
    if any(isinstance(each, Inputs) and isinstance(each.raw, Gathered) and each.nbytes > _READ for each in tensors):
        return False  # to bring them over, host memory would have to hold them
    free, _ = torch.cuda.mem_get_info(device)
    return sum(tensor.nbytes for tensor in tensors) <= _SHARE * free
