"""Normalize: inputs less their mean, over their standard deviation."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import ClassVar, final

import torch
from typing_extensions import override

from evsim.base.errors import require
from evsim.training.data.transforms.base import Draws, Transform


@final
@dataclass(frozen=True, kw_only=True)
class Normalize(Transform):
    """(x - mean) / deviation, in training and in evaluation; `evsim data describe` says both for a data set.

    Attributes:
        mean: one number, or one for each channel: each entry of the first axis of a sample. Bytes count as 0 to 1.
        deviation: likewise, > 0.
    """

    draws: ClassVar[bool] = False

    mean: tuple[float, ...]
    deviation: tuple[float, ...]

    def __post_init__(self) -> None:
        require(len(self.mean) > 0, "mean needs at least one number", mean=self.mean)
        require(all(map(isfinite, self.mean)), "mean must be finite", mean=self.mean)
        ok = all(isfinite(each) and each > 0 for each in self.deviation) and len(self.deviation) > 0
        require(ok, "deviation must hold finite numbers > 0", deviation=self.deviation)
        same = len(self.mean) == len(self.deviation) or 1 in (len(self.mean), len(self.deviation))
        require(same, "mean and deviation must have as many numbers, or one", mean=self.mean, deviation=self.deviation)

    @override
    def refusal(self, shape: tuple[int, ...], *, tokens: bool) -> str:
        if tokens:
            return "are token ids; expected numbers"
        count = max(len(self.mean), len(self.deviation))
        channels = shape[1] if len(shape) > 1 else 1
        return "" if count in (1, channels) else f"have {channels} channels; mean or deviation has {count} numbers"

    @override
    def apply(self, x: torch.Tensor, draws: Draws) -> torch.Tensor:
        return (x - self._along(self.mean, x)) / self._along(self.deviation, x)

    def _along(self, numbers: tuple[float, ...], x: torch.Tensor) -> torch.Tensor:
        """The numbers, to be broadcast along the channels."""
        return x.new_tensor(numbers).reshape(-1, *(1,) * (x.dim() - 2)) if x.dim() > 1 else x.new_tensor(numbers)
