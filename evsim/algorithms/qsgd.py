"""Upload: numbers rounded at random to a few levels, without bias.

Alistarh et al., QSGD: Communication-Efficient SGD via Gradient Quantization and Encoding, NeurIPS 2017, section 3.1:
with s levels, v_i becomes ||v|| sign(v_i) xi_i, where a = s |v_i| / ||v|| is rounded down to floor(a) / s, or up with
probability a - floor(a). The mean of many draws is v, so it needs no error feedback. With several local steps and
uniform weights this is FedPAQ (Reisizadeh et al., AISTATS 2020).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING, final

import numpy as np
import torch
from typing_extensions import override

from evsim.algorithms import tree
from evsim.algorithms.base import ReportMeta, State, Upload, Wires
from evsim.base.errors import require

if TYPE_CHECKING:
    from evsim.algorithms.base import Wire
    from evsim.algorithms.tree import Payload

_DENSE = ("model", "control")
_NORM_BYTES = 4
_MOST_LEVELS = 2**23  # beyond, a float32 has no digits left to round away


@final
@dataclass(frozen=True, kw_only=True)
class Qsgd(Upload):
    """QSGD(s): a sign and ceil(log2(s + 1)) bits per number, and 4 B per bucket for its norm.

    Sent without the paper's entropy code, so that sizes depend on shapes only. Zeros stay zeros: it can follow `top_k`.

    Attributes:
        levels: s; 2^b - 1 fills b bits.
        bucket: numbers that share a norm, in the order of the model's parameters; None: the whole update is one, as
            printed. Smaller buckets have less variance, at most min(d / s^2, sqrt(d) / s) ||v||^2 for d numbers.
    """

    levels: int
    bucket: int | None = None

    def __post_init__(self) -> None:
        require(1 <= self.levels <= _MOST_LEVELS, f"1 <= levels <= {_MOST_LEVELS} must hold", levels=self.levels)
        require(self.bucket is None or self.bucket >= 1, "bucket must be >= 1 or left out", bucket=self.bucket)

    @override
    def wires(self, update: Wires) -> Wires:
        return {name: self._quantized(leaves) if name in _DENSE else leaves for name, leaves in update.items()}

    @override
    def init_client(self, update: Payload) -> State:
        return {}

    @override
    def encode(self, update: Payload, state: State, meta: ReportMeta, key: int) -> tuple[Payload, State]:
        stream = np.random.Generator(np.random.Philox(key=key))
        rounded = {name: self._rounded(update[name], stream) for name in _DENSE if name in update}
        return {**update, **rounded}, state

    def _rounded(self, leaves: tree.Tree, stream: np.random.Generator) -> tree.Tree:
        vector = tree.flat(leaves)
        draws = torch.from_numpy(stream.random(len(vector))).to(vector)
        size = self.bucket or max(len(vector), 1)
        buckets = zip(torch.split(vector, size), torch.split(draws, size), strict=True)
        parts = [_stochastic(v, u, self.levels) for v, u in buckets]
        return tree.unflat(torch.cat(parts), leaves)

    def _quantized(self, leaves: dict[str, Wire]) -> dict[str, Wire]:
        bits = 1 + ceil(np.log2(self.levels + 1))
        total = sum(wire.sent for wire in leaves.values())
        norms = _NORM_BYTES * (1 if self.bucket is None else -(-total // self.bucket))
        found = {name: wire.but(value_bits=bits) for name, wire in leaves.items()}
        if found:  # the norms belong to no leaf; the first one carries them
            first, wire = next(iter(found.items()))
            found[first] = wire.but(extra_bytes=wire.extra_bytes + norms)
        return found


def _stochastic(v: torch.Tensor, draws: torch.Tensor, levels: int) -> torch.Tensor:
    """The numbers of one bucket after the round trip; zeros for a bucket of zeros."""
    length = torch.linalg.vector_norm(v.double()).to(v)
    scaled = levels * v.abs() / torch.where(length > 0, length, torch.ones_like(length))
    level = scaled.floor()
    level = level + (draws < scaled - level).to(level)
    back: torch.Tensor = length * v.sign() * level / levels
    return back
