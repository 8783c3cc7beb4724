"""Residual networks: He et al., Deep Residual Learning for Image Recognition, CVPR 2016."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, final

import torch
from torch import nn
from typing_extensions import override

from evsim.base.errors import require
from evsim.training.models.base import Model, seeded
from evsim.training.models.layers import Norm, check_image, norm

_WIDE = {10: (1, 1, 1, 1), 18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}  # table 1 of the paper; 10 is 18 with half its blocks
_NARROW = (8, 14, 20, 32, 44, 56)  # 6n + 2: section 4.2


@final
@dataclass(frozen=True, kw_only=True)
class ResNet(Model):
    """Residual blocks of two 3x3 convolutions.

    Depths 10, 18 and 34 have four stages of 64, 128, 256 and 512 channels (the paper's table 1), with 1x1 convolutions
    where a shortcut changes its shape; depths 8, 14, 20, 32, 44 and 56 have three of 16, 32 and 64 (section 4.2), with
    shortcuts that have no parameters. Depth 18 has 11,689,512 parameters for 3x224x224 and 1,000 classes, 11,173,962
    with the small stem and 10 classes; depth 20 has 269,722. Input (batch, channels, height, width), output (batch,
    classes).

    Attributes:
        depth: layers with weights.
        width: channels of the first stage; 64, or 16 for the narrow ones, if not given.
        norm: what follows each convolution. "batch" is the paper's; "group" is usual where clients differ (Hsieh et al.
            2020), since samples do not see each other.
        groups: of GroupNorm; 2 as in Reddi et al. 2021.
        stem: "small": one 3x3 convolution, for images of up to about 64x64; "large": 7x7 with stride 2 and pooling.
    """

    depth: Literal[8, 10, 14, 18, 20, 32, 34, 44, 56] = 18
    width: int | None = None
    norm: Norm = "group"
    groups: int = 2
    stem: Literal["small", "large"] = "small"

    def __post_init__(self) -> None:
        depths = (*_WIDE, *_NARROW)
        require(self.depth in depths, f"depth must be one of {sorted(depths)}", depth=self.depth)
        require(self.width is None or self.width >= 1, "width must be >= 1", width=self.width)
        require(self.groups >= 1, "groups must be >= 1", groups=self.groups)

    @override
    def build(self, *, shape: tuple[int, ...], n_classes: int, n_tokens: int | None, seed: int) -> nn.Module:
        check_image("resnet", shape, 4 if self.stem == "small" else 32)
        return seeded(seed, lambda: _ResNet(self, shape[0], n_classes))

    @property
    def blocks(self) -> tuple[int, ...]:
        """Blocks of each stage."""
        return _WIDE[self.depth] if self.depth in _WIDE else (self.depth // 6,) * 3


class _ResNet(nn.Module):
    def __init__(self, options: ResNet, channels: int, n_classes: int) -> None:
        super().__init__()
        projects = options.depth in _WIDE
        width = options.width or (64 if projects else 16)
        self.stem = _stem(options, channels, width)
        stages, inputs = list[nn.Module](), width
        for number, count in enumerate(options.blocks):
            outputs = width << number
            strides = [1 if number == 0 else 2] + [1] * (count - 1)
            blocks = [
                _Block(options, inputs if place == 0 else outputs, outputs, stride, projects=projects)
                for place, stride in enumerate(strides)
            ]
            stages.append(nn.Sequential(*blocks))
            inputs = outputs
        self.features = nn.Sequential(*stages)
        self.head = nn.Linear(inputs, n_classes)

    @override
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.features(self.stem(x)).mean((2, 3)))
        return logits


def _stem(options: ResNet, channels: int, width: int) -> nn.Module:
    normed = norm(options.norm, width, options.groups)
    if options.stem == "small":
        return nn.Sequential(nn.Conv2d(channels, width, 3, 1, 1, bias=False), normed, nn.ReLU())
    first = nn.Conv2d(channels, width, 7, 2, 3, bias=False)
    return nn.Sequential(first, normed, nn.ReLU(), nn.MaxPool2d(3, 2, 1))


class _Block(nn.Module):
    def __init__(self, options: ResNet, inputs: int, outputs: int, stride: int, *, projects: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm1 = norm(options.norm, outputs, options.groups)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = norm(options.norm, outputs, options.groups)
        self.shortcut: nn.Module = nn.Identity()
        if inputs == outputs and stride == 1:
            return
        if projects:
            project = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.shortcut = nn.Sequential(project, norm(options.norm, outputs, options.groups))
        else:
            self.shortcut = _Padded(outputs - inputs, stride)

    @override
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = self.norm2(self.conv2(torch.relu(self.norm1(self.conv1(x)))))
        return torch.relu(inner + self.shortcut(x))


class _Padded(nn.Module):
    """The shortcut without parameters: every second pixel, zeros for the new channels."""

    def __init__(self, more: int, stride: int) -> None:
        super().__init__()
        self.more, self.stride = more, stride

    @override
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        less = x[:, :, :: self.stride, :: self.stride]
        return nn.functional.pad(less, (0, 0, 0, 0, 0, self.more))
