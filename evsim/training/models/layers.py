"""What models share: normalization of convolutions, and what they say of inputs that do not fit."""

from __future__ import annotations

from math import gcd
from typing import Literal

from torch import nn

from evsim.base.errors import ModelError

Norm = Literal["none", "group", "batch"]
#: Whether a model of text says what follows every token, or only what follows the last one.
Predicts = Literal["last", "every"]
_IMAGE = 3  # channels, height, width


def norm(kind: Norm, channels: int, groups: int = 8) -> nn.Module:
    """What follows a convolution: GroupNorm of so many groups (or the most that divide both), BatchNorm, or nothing."""
    if kind == "group":
        return nn.GroupNorm(gcd(groups, channels), channels)
    return nn.BatchNorm2d(channels) if kind == "batch" else nn.Identity()


def check_image(kind: str, shape: tuple[int, ...], least: int) -> None:
    """Refuse inputs that are no images of this many pixels a side.

    Raises:
        ModelError: says the shape given.
    """
    if len(shape) != _IMAGE or min(shape[1:]) < least:
        expected = f"(channels, height >= {least}, width >= {least})"
        raise ModelError(f"{kind}: inputs have shape {shape}; expected {expected}")


def check_tokens(kind: str, shape: tuple[int, ...], n_tokens: int | None) -> int:
    """How many tokens there are.

    Raises:
        ModelError: if inputs are no sequences of token ids.
    """
    if n_tokens is None or len(shape) != 1:
        raise ModelError(f"{kind}: inputs have shape {shape}; expected a sequence of token ids (an integer array)")
    return n_tokens
