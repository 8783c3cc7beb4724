"""What a server may know of its clients, and which part of the model each of them holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, final

import numpy as np
import torch

from evsim.algorithms.wires import Wire, Wires
from evsim.base.errors import PolicyError, Problem, report
from evsim.base.vocabulary import FloatArray, IntArray

if TYPE_CHECKING:
    from evsim.algorithms.tree import Payload, Tree


@final
@dataclass(frozen=True, eq=False)
class ClientInfo:
    """Clients as columns, one entry each: declared facts, as a device class has them, and what the server did.

    Attributes:
        client: ids.
        samples: own training samples.
        device: the speed trace's device, or class of devices, that each has; -1: unknown.
        compute_ms: per sample, forward pass, without jitter; NaN: unknown.
        download_kbps, upload_kbps: of the link, without jitter; NaN: unknown.
        group: whose message each gets; 0 where all get the same.
        nth: tasks each was given before.
        more: further columns of the speed trace by name, where `population.speed.columns` asks for them.
    """

    client: IntArray
    samples: IntArray
    device: IntArray
    compute_ms: FloatArray
    download_kbps: FloatArray
    upload_kbps: FloatArray
    group: IntArray
    nth: IntArray
    more: Mapping[str, FloatArray] = field(default_factory=dict)

    @classmethod
    def unknown(cls, samples: IntArray) -> ClientInfo:
        """Clients of which only the data sizes are known."""
        n, nan = len(samples), np.full(len(samples), np.nan)
        zeros = np.zeros(n, np.int64)
        return cls(np.arange(n), np.asarray(samples, np.int64), zeros - 1, nan, nan, nan, zeros, zeros)

    def __len__(self) -> int:
        return len(self.client)

    def at(self, clients: IntArray, nth: IntArray | None = None) -> ClientInfo:
        """Some clients, and how many tasks each was given before."""
        rows: dict[str, Any] = {
            item.name: getattr(self, item.name)[clients] for item in fields(self) if item.name != "more"
        }
        rows["more"] = {name: column[clients] for name, column in self.more.items()}
        return ClientInfo(**rows if nth is None else {**rows, "nth": nth})


#: What is kept of a leaf: positions along each dimension (None: all of them); None for the whole leaf.
Kept = Sequence[IntArray | None] | None


@final
class Part:
    """The part of the model that a group holds: which numbers of each leaf. Leaves not named are held whole.

    Args:
        kept: by leaf, positions along each dimension; `shapes` has the leaf's whole shape.
    """

    def __init__(self, kept: Mapping[str, Kept], shapes: Mapping[str, tuple[int, ...]]) -> None:
        self._index: dict[str, torch.Tensor] = {}  # by leaf: flat positions, in the shape of the part
        for name, dimensions in kept.items():
            if dimensions is not None:
                self._index[name] = _positions(name, dimensions, shapes[name])
        sizes = {name: int(np.prod(shape)) for name, shape in shapes.items()}
        held = {name: self._index[name].numel() if name in self._index else size for name, size in sizes.items()}
        #: Share of the numbers in `shapes` that are held.
        self.share = sum(held.values()) / max(sum(sizes.values()), 1)

    def of(self, payload: Payload) -> Payload:
        """The part of a whole payload; leaves of any entry that are named alike are cut alike."""
        return {
            entry: {name: self._cut(name, leaf) for name, leaf in leaves.items()} for entry, leaves in payload.items()
        }

    def wires(self, whole: Wires) -> Wires:
        """How the part travels, given how the whole would."""
        return {entry: {name: self._wire(name, w) for name, w in leaves.items()} for entry, leaves in whole.items()}

    def spread(self, total: Tree, weight: Tree, part: Tree, by: float) -> None:
        """Add a part to whole sums, in place, and its weight where it is held."""
        for name, leaf in part.items():
            if name in self._index:
                places = self._index[name].to(leaf.device)
                total[name].view(-1)[places.reshape(-1)] += leaf.reshape(-1)
                weight[name].view(-1)[places.reshape(-1)] += by
            else:
                total[name] += leaf
                weight[name] += by

    def _cut(self, name: str, leaf: torch.Tensor) -> torch.Tensor:
        return leaf.reshape(-1)[self._index[name].to(leaf.device)] if name in self._index else leaf

    def _wire(self, name: str, wire: Wire) -> Wire:
        held = self._index[name].numel() if name in self._index else wire.size
        return wire.but(size=held, sent=held)


def _positions(name: str, dimensions: Sequence[IntArray | None], shape: tuple[int, ...]) -> torch.Tensor:
    if len(dimensions) != len(shape):
        raise PolicyError(_fault(name, shape, f"positions for {len(dimensions)} dimensions"))
    along = zip(dimensions, shape, strict=True)
    every = [np.arange(size) if kept is None else np.asarray(kept, np.int64) for kept, size in along]
    for kept, size in zip(every, shape, strict=True):
        if (
            kept.ndim != 1
            or len(np.unique(kept)) != len(kept)
            or (len(kept) and not 0 <= kept.min() <= kept.max() < size)
        ):
            raise PolicyError(_fault(name, shape, f"positions {kept.tolist()[:5]} along a dimension of {size}"))
    if not shape:
        return torch.zeros((), dtype=torch.int64)
    return torch.from_numpy(np.ravel_multi_index(np.ix_(*every), shape).astype(np.int64))


def _fault(name: str, shape: tuple[int, ...], given: str) -> str:
    expected = f"different positions in each dimension of a leaf of shape {shape}"
    return report([Problem(f"broadcast.part of {name!r}", given, expected, "None keeps a whole dimension")])
