"""Dropout whose draws are a function of names, so that every executor drops the same activations.

`keyed` swaps a model's dropout modules for `KeyedDropout`. Its mask is an integer hash of the key of the step (seed,
client, n-th task, step), the layer and the position of the activation. Hashing is plain tensor arithmetic: it runs on
any device and under ``torch.func.vmap``, where a generator could not give each client its own draws. Positions count
along the batch dimension first, so rows that only pad a mini-batch change nothing for the rows before them.
"""

from __future__ import annotations

from typing import final

import torch
from torch import nn
from typing_extensions import override

_MASK = 0xFFFFFFFF
# lowbias32 (Chris Wellons, hash prospector), its second factor less 2^32: products then fit into 63 bits
_M1 = 0x7FEB352D
_M2 = 0x846CA68B - (1 << 32)
_LAYER = 0x2545F4914F6CDD1D
_CALL = 0x9E3779B9

_KINDS: dict[type[nn.Module], int] = {nn.Dropout: 0, nn.Dropout1d: 1, nn.Dropout2d: 2, nn.Dropout3d: 3}


@final
class KeyedDropout(nn.Module):
    """Zeroes activations with probability `p` and scales the rest by 1 / (1 - p); identity in evaluation mode.

    Args:
        p: probability that an activation is dropped.
        spatial: trailing dimensions that are dropped together, as ``nn.Dropout1d`` to ``nn.Dropout3d`` do.
    """

    def __init__(self, p: float, spatial: int) -> None:
        super().__init__()
        self.p = p
        self.spatial = spatial
        self.key: torch.Tensor | None = None

    @override
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training or self.p == 0.0 or self.key is None:
            return x
        shape = x.shape[: x.dim() - self.spatial] + (1,) * self.spatial
        keep = _hash32(shape, self.key) >= round(self.p * 2.0**32)
        self.key = self.key + _CALL  # a module used twice in one forward pass draws twice
        scale = 0.0 if self.p == 1.0 else 1.0 / (1.0 - self.p)
        return x * (keep.to(x.dtype) * scale)


def keyed(model: nn.Module) -> list[KeyedDropout]:
    """Swap the dropout modules of a model in place; returns them in the order of their names."""
    found: list[KeyedDropout] = []
    swapped: dict[int, KeyedDropout] = {}
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):  # noqa: SLF001  named_children leaves out a second name
            if isinstance(child, nn.modules.dropout._DropoutNd) and type(child) in _KINDS:  # noqa: SLF001
                if id(child) not in swapped:
                    swapped[id(child)] = KeyedDropout(child.p, _KINDS[type(child)]).train(child.training)
                    found.append(swapped[id(child)])
                setattr(parent, name, swapped[id(child)])
    return found


def set_keys(layers: list[KeyedDropout], key: torch.Tensor | None) -> None:
    """Give every layer its key for one forward pass; `key` is a 0-dim int64 tensor."""
    for number, layer in enumerate(layers):
        layer.key = None if key is None else key ^ _signed(_LAYER * (number + 1))


def _hash32(shape: tuple[int, ...], key: torch.Tensor) -> torch.Tensor:
    """A 32-bit hash per position, as int64."""
    count = 1
    for size in shape:
        count *= size
    position = torch.arange(count, device=key.device).reshape(shape)
    return _mix(_mix(position ^ (key & _MASK)) ^ ((key >> 32) & _MASK))


def _mix(z: torch.Tensor) -> torch.Tensor:
    z = ((z ^ (z >> 16)) * _M1) & _MASK
    z = ((z ^ (z >> 15)) * _M2) & _MASK
    return z ^ (z >> 16)


def _signed(value: int) -> int:
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >> 63 else value
