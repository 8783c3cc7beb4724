"""The slot of transforms: what is made of a batch of inputs on its way from where it is stored into a model.

A batch is gathered as it is stored, becomes numbers, and goes through the transforms of `[[data.transform]]`, in order,
all samples of all clients of a step at once. What draws is applied in training only; what does not, such as scaling,
whenever inputs are used. Draws are a function of the seed, the client, its task, the step and the place in the
mini-batch, so that every executor makes the same inputs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np
import torch
from numpy.typing import NDArray

from evsim.base import rng
from evsim.base.errors import DataError, TrainingError
from evsim.base.user_code import user_code
from evsim.training.data.placing import on_device

Keys = NDArray[np.int64]


@final
@dataclass(frozen=True, eq=False)
class Draws:
    """The random numbers of one transform for the n samples of a batch.

    >>> draws = Draws(np.array([7, 7, 8]), np.array([0, 1, 0]), 0, torch.device("cpu"))
    >>> draws.uniform(0).shape, bool((draws.uniform(0) == draws.uniform(0)).all())
    (torch.Size([3]), True)

    Attributes:
        keys: (n,) of the step of each sample's task.
        places: (n,) of each sample in its mini-batch.
        number: of the transform in the list.
        device: where the inputs are.
    """

    keys: Keys
    places: NDArray[np.int64]
    number: int
    device: torch.device

    def uniform(self, which: int) -> torch.Tensor:
        """The draw with this number of each sample, in (0, 1), float64, (n,): the same whenever it is asked for."""
        drawn = rng.uniform(rng.key(0, "transform", self.number, which), self.keys, self.places)
        return on_device(drawn, self.device)

    def below(self, which: int, bound: int | torch.Tensor) -> torch.Tensor:
        """A whole number from 0 to `bound` - 1 for each sample, int64, (n,); a bound may be each sample's own."""
        return (self.uniform(which) * bound).long().clamp(max=bound - 1)  # the largest draw rounds to 1


class Transform(ABC):
    """What is made of inputs before a model gets them.

    Attributes:
        draws: whether it is random; it is then applied in training only.
    """

    draws: ClassVar[bool] = True

    @abstractmethod
    def refusal(self, shape: tuple[int, ...], *, tokens: bool) -> str:
        """Why inputs of this shape (n, ...) cannot be transformed, as the end of a sentence; "" if they can."""

    @abstractmethod
    def apply(self, x: torch.Tensor, draws: Draws) -> torch.Tensor:
        """Inputs (n, ...), floating-point, images as 0 to 1 (channels, height, width), as a model shall get them.

        A new tensor of the same shape, type and device; `x` must not be changed. A row may depend on its own input and
        its own draws alone: which rows lie beside it is up to the executor.
        """


def applied(transforms: Sequence[Transform], x: torch.Tensor, rows: tuple[int, ...], keys: Keys | None) -> torch.Tensor:
    """Inputs after all transforms.

    Args:
        transforms: in order.
        x: inputs, floating-point.
        rows: the first axes of x, the last of them along a mini-batch; the others are those of one sample.
        keys: of the step of each mini-batch; None: nothing is drawn, only what does not draw is applied.
    """
    flat = x.reshape(-1, *x.shape[len(rows) :])
    own = np.zeros(len(flat), np.int64) if keys is None else np.repeat(keys, rows[-1])
    places = np.arange(len(flat)) % max(rows[-1], 1)
    for number, transform in enumerate(transforms):
        with user_code(TrainingError, slot="transform", cls=transform):
            if keys is None and transform.draws:
                continue
            made = transform.apply(flat, Draws(own, places, number, x.device))
            _check(transform, made, flat)
        flat = made
    return flat.reshape(x.shape)


def check_transforms(transforms: Sequence[Transform], shape: tuple[int, ...], name: str, *, tokens: bool) -> None:
    """Refuse transforms that inputs of this shape (n, ...) cannot go through.

    Raises:
        DataError: with the first reason.
    """
    for number, transform in enumerate(transforms):
        if refusal := transform.refusal(shape, tokens=tokens):
            raise DataError(f"data.transform.{number}: the inputs of {name} {refusal}")


def _check(transform: Transform, made: object, x: torch.Tensor) -> None:
    if not isinstance(made, torch.Tensor) or (made.shape, made.dtype) != (x.shape, x.dtype):
        given = f"{made.dtype} {tuple(made.shape)}" if isinstance(made, torch.Tensor) else type(made).__name__
        expected = f"{x.dtype} {tuple(x.shape)}, as it got them"
        raise TrainingError(f"transform {type(transform).__name__} gave {given}; expected {expected}")
