"""What is usual in training on images: a shifted cut of the padded image, and its mirror image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch.nn.functional import pad
from typing_extensions import override

from evsim.base.errors import require
from evsim.training.data.transforms.base import Draws, Transform

_IMAGES = 4  # axes: samples, channels, height, width


@final
@dataclass(frozen=True, kw_only=True)
class PadAndCrop(Transform):
    """A cut of the image's own size out of the image with zeros around it, at a place drawn for each sample.

    With 4 pixels and a mirror image it is the usual augmentation of CIFAR (He et al., CVPR 2016, section 4.2).

    Attributes:
        pixels: that are added on each side.
    """

    pixels: int = 4

    def __post_init__(self) -> None:
        require(self.pixels >= 1, "pixels must be >= 1", pixels=self.pixels)

    @override
    def refusal(self, shape: tuple[int, ...], *, tokens: bool) -> str:
        return _no_images(shape, tokens=tokens)

    @override
    def apply(self, x: torch.Tensor, draws: Draws) -> torch.Tensor:
        height, width = x.shape[2:]
        places = 2 * self.pixels + 1
        padded = pad(x, [self.pixels] * 4)
        cuts = padded.unfold(2, height, 1).unfold(3, width, 1)  # (n, channels, places, places, height, width), a view
        which = torch.arange(len(x), device=x.device)
        return cuts[which, :, draws.below(0, places), draws.below(1, places)]


@final
@dataclass(frozen=True, kw_only=True)
class Flip(Transform):
    """The mirror image, left for right, of each sample with a given chance.

    Attributes:
        chance: in [0, 1].
    """

    chance: float = 0.5

    def __post_init__(self) -> None:
        require(0 <= self.chance <= 1, "chance must lie in [0, 1]", chance=self.chance)

    @override
    def refusal(self, shape: tuple[int, ...], *, tokens: bool) -> str:
        return _no_images(shape, tokens=tokens)

    @override
    def apply(self, x: torch.Tensor, draws: Draws) -> torch.Tensor:
        flipped = (draws.uniform(0) < self.chance).reshape(-1, 1, 1, 1)
        return torch.where(flipped, x.flip(3), x)


def _no_images(shape: tuple[int, ...], *, tokens: bool) -> str:
    """Why inputs are no images, as the end of a sentence; "" if they are."""
    if tokens:
        return "are token ids; expected images (channels, height, width)"
    return "" if len(shape) == _IMAGES else f"have the shape {shape[1:]}; expected images (channels, height, width)"
