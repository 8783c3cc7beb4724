"""Upload: numbers rounded to 8 bits, one scale per leaf."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import torch
from typing_extensions import override

from evsim.algorithms import tree
from evsim.algorithms.base import ReportMeta, State, Upload, Wires

if TYPE_CHECKING:
    from evsim.algorithms.base import Wire
    from evsim.algorithms.tree import Payload

_DENSE = ("model", "control")
_LEVELS = 127
_SCALE_BYTES = 4


@final
@dataclass(frozen=True, kw_only=True)
class Int8(Upload):
    """Symmetric: scale = max|v| / 127, round half to even; 1 B per number and 4 B per leaf, 1/4x.

    Zeros stay zeros, so it can follow `top_k`: then 1 B per value beside its index.
    """

    @override
    def wires(self, update: Wires) -> Wires:
        return {name: _eight_bits(leaves) if name in _DENSE else leaves for name, leaves in update.items()}

    @override
    def init_client(self, update: Payload) -> State:
        return {}

    @override
    def encode(self, update: Payload, state: State, meta: ReportMeta, key: int) -> tuple[Payload, State]:
        rounded = {name: tree.apply(quantize, leaves) for name, leaves in update.items() if name in _DENSE}
        return {**update, **rounded}, state


def quantize(leaf: torch.Tensor) -> torch.Tensor:
    """The leaf as it comes out of 8 bits.

    >>> quantize(torch.tensor([1.0, 0.3, -127.0]))
    tensor([   1.,    0., -127.])
    """
    largest = leaf.abs().max() if leaf.numel() else leaf.sum()
    step = torch.where(largest > 0, largest / _LEVELS, torch.ones_like(largest))
    return (leaf / step).round() * step


def _eight_bits(leaves: dict[str, Wire]) -> dict[str, Wire]:
    return {name: wire.but(value_bits=8, extra_bytes=wire.extra_bytes + _SCALE_BYTES) for name, wire in leaves.items()}
