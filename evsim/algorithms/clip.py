"""Upload: a client bounds the length of its update."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING, final

from typing_extensions import override

from evsim.algorithms import tree
from evsim.algorithms.base import ReportMeta, State, Upload, Wires
from evsim.base.errors import require

if TYPE_CHECKING:
    from evsim.algorithms.tree import Payload, Tree


def clipped(update: Tree, max_norm: float) -> Tree:
    """U min(1, max_norm / ||u||), the norm over all leaves.

    >>> import torch
    >>> clipped({"w": torch.tensor([3.0, 4.0])}, 1.0)
    {'w': tensor([0.6000, 0.8000])}
    """
    length = float(tree.norm(update))
    return update if length <= max_norm else tree.scale(update, max_norm / length)


@final
@dataclass(frozen=True, kw_only=True)
class Clip(Upload):
    """Scales the model's update down to `max_norm` if it is longer; 1x.

    A promise about each report: several reports of a client in one step may be longer together. `norm_clip` and `dp`
    bound what a client adds to a step.

    Attributes:
        max_norm: Euclidean norm over the whole update.
    """

    max_norm: float

    def __post_init__(self) -> None:
        require(isfinite(self.max_norm) and self.max_norm > 0, "max_norm must be > 0", max_norm=self.max_norm)

    @override
    def wires(self, update: Wires) -> Wires:
        return update

    @override
    def init_client(self, update: Payload) -> State:
        return {}

    @override
    def encode(self, update: Payload, state: State, meta: ReportMeta, key: int) -> tuple[Payload, State]:
        return {**update, "model": clipped(update["model"], self.max_norm)}, state
