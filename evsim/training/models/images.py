"""Small models of images whose sizes are those of the literature."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from torch import nn
from typing_extensions import override

from evsim.training.models.base import Model, seeded
from evsim.training.models.layers import check_image
from evsim.training.models.small import Cnn

_SIDE = 32  # of LeNet's input


@final
@dataclass(frozen=True, kw_only=True)
class LeNet(Model):
    """LeNet-5 as it is written today: conv 5x5 6, pool, conv 5x5 16, pool, 120-84-classes, ReLU and max pooling.

    LeCun et al., Gradient-Based Learning Applied to Document Recognition, 1998, which has tanh, trained subsampling and
    a sparse second convolution instead. An image smaller than 32x32 is padded with zeros to that, as the paper does
    with 28x28. 61,706 parameters for 1x28x28 and 10 classes, 62,006 for 3x32x32. Input (batch, channels, height,
    width), output (batch, classes).
    """

    @override
    def build(self, *, shape: tuple[int, ...], n_classes: int, n_tokens: int | None, seed: int) -> nn.Module:
        check_image("lenet", shape, 1)
        channels, height, width = shape
        across, down = max(_SIDE - width, 0), max(_SIDE - height, 0)
        padding = across // 2, across - across // 2, down // 2, down - down // 2
        flat = 16 * _left(max(height, _SIDE)) * _left(max(width, _SIDE))

        def make() -> nn.Module:
            return nn.Sequential(
                nn.ZeroPad2d(padding),
                *(nn.Conv2d(channels, 6, 5), nn.ReLU(), nn.MaxPool2d(2)),
                *(nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2)),
                nn.Flatten(),
                *(nn.Linear(flat, 120), nn.ReLU()),
                *(nn.Linear(120, 84), nn.ReLU()),
                nn.Linear(84, n_classes),
            )

        return seeded(seed, make)


def _left(side: int) -> int:
    """What two convolutions of 5x5 and two poolings leave of a side."""
    return ((side - 4) // 2 - 4) // 2


@final
@dataclass(frozen=True, kw_only=True)
class FemnistCnn(Model):
    """LEAF's model of FEMNIST: conv 5x5 32, pool, conv 5x5 64, pool, 2048 hidden units, classes.

    Caldas et al., LEAF: A Benchmark for Federated Settings, 2018, and its code (models/femnist/cnn.py). 6,603,710
    parameters for 1x28x28 and 62 classes; `cnn` has 512 hidden units instead. Input (batch, channels, height,
    width), output (batch, classes).
    """

    @override
    def build(self, *, shape: tuple[int, ...], n_classes: int, n_tokens: int | None, seed: int) -> nn.Module:
        check_image("femnist_cnn", shape, 4)
        return Cnn(hidden=2048).build(shape=shape, n_classes=n_classes, n_tokens=n_tokens, seed=seed)
