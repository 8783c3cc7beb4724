"""MobileNetV2: Sandler et al., MobileNetV2: Inverted Residuals and Linear Bottlenecks, CVPR 2018."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import Literal, final

import torch
from torch import nn
from typing_extensions import override

from evsim.base.errors import require
from evsim.training.models.base import Model, seeded
from evsim.training.models.layers import Norm, check_image, norm

#: Expansion, channels, blocks, stride of the first block: table 2 of the paper.
_STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
_FIRST, _LAST = 32, 1280


@final
@dataclass(frozen=True, kw_only=True)
class MobileNetV2(Model):
    """Inverted residuals with depthwise convolutions; 3,504,872 parameters for 3 channels and 1,000 classes.

    2,236,682 for 10 classes, with either stem. Input (batch, channels, height, width), output (batch, classes).

    Attributes:
        width: multiplies channels, which are then rounded to multiples of 8; the last layer never has fewer than 1,280.
        norm: what follows each convolution. "batch" is the paper's.
        groups: of GroupNorm.
        stem: "small": the first two strides are 1, for images of up to about 64x64; "large": as in the paper.
        dropout: share of the last features dropped in training.
    """

    width: float = 1.0
    norm: Norm = "group"
    groups: int = 2
    stem: Literal["small", "large"] = "small"
    dropout: float = 0.0

    def __post_init__(self) -> None:
        good = isfinite(self.width) and 0 < self.width <= 8  # noqa: PLR2004  ten times the paper's largest would do
        require(good, "width must be > 0 and <= 8", width=self.width)
        require(self.groups >= 1, "groups must be >= 1", groups=self.groups)
        require(0 <= self.dropout < 1, "0 <= dropout < 1 must hold", dropout=self.dropout)

    @override
    def build(self, *, shape: tuple[int, ...], n_classes: int, n_tokens: int | None, seed: int) -> nn.Module:
        check_image("mobilenet_v2", shape, 8 if self.stem == "small" else 32)

        def make() -> nn.Module:
            inputs, last = _rounded(_FIRST * self.width), _rounded(_LAST * max(self.width, 1.0))
            small = self.stem == "small"
            layers: list[nn.Module] = [self.block(shape[0], inputs, 3, 1 if small else 2)]
            for place, (expansion, channels, count, stride) in enumerate(_STAGES):
                outputs, first = _rounded(channels * self.width), 1 if small and place == 1 else stride
                for number in range(count):
                    layers.append(_Inverted(self, inputs, outputs, first if number == 0 else 1, expansion))
                    inputs = outputs
            features = nn.Sequential(*layers, self.block(inputs, last, 1, 1))
            return nn.Sequential(features, _Mean(), nn.Dropout(self.dropout), nn.Linear(last, n_classes))

        return seeded(seed, make)

    def block(self, inputs: int, outputs: int, kernel: int, stride: int, of: int = 1) -> nn.Sequential:
        """A convolution of so many groups, its norm, and ReLU6."""
        convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=of, bias=False)
        return nn.Sequential(convolution, norm(self.norm, outputs, self.groups), nn.ReLU6())


class _Inverted(nn.Module):
    def __init__(self, options: MobileNetV2, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = inputs * expansion
        wide = [options.block(inputs, inner, 1, 1)] if expansion > 1 else []
        depthwise = options.block(inner, inner, 3, stride, of=inner)
        narrow = nn.Conv2d(inner, outputs, 1, bias=False)
        self.layers = nn.Sequential(*wide, depthwise, narrow, norm(options.norm, outputs, options.groups))
        self.adds = inputs == outputs and stride == 1

    @override
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner: torch.Tensor = self.layers(x)
        return x + inner if self.adds else inner


class _Mean(nn.Module):
    """Over height and width."""

    @override
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3))


def _rounded(channels: float) -> int:
    """The nearest multiple of 8, at least 8 and nine tenths of what was asked for, as the authors' code has it."""
    found = max(8, int(channels + 4) // 8 * 8)
    return found + 8 if found < 0.9 * channels else found
