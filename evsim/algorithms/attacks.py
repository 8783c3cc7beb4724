"""An attack on the upload; `evsim.training.data.label_flip` is the attack on the data."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING, final

from typing_extensions import override

from evsim.algorithms import tree
from evsim.algorithms.base import ReportMeta, State, Upload, Wires
from evsim.algorithms.malicious import malicious_clients
from evsim.base.errors import require

if TYPE_CHECKING:
    from evsim.algorithms.tree import Payload


@final
@dataclass(frozen=True, kw_only=True)
class SignFlip(Upload):
    """Malicious clients send minus `scale` times their update of the model (and of a control); 1x.

    Attributes:
        share: of the clients with data that are malicious, in [0, 1].
        scale: > 1 also blows the update up.
    """

    share: float
    scale: float = 1.0

    def __post_init__(self) -> None:
        require(0 <= self.share <= 1, "0 <= share <= 1 must hold", share=self.share)
        require(isfinite(self.scale) and self.scale > 0, "scale must be > 0", scale=self.scale)

    @override
    def wires(self, update: Wires) -> Wires:
        return update

    @override
    def init_client(self, update: Payload) -> State:
        return {}

    @override
    def encode(self, update: Payload, state: State, meta: ReportMeta, key: int) -> tuple[Payload, State]:
        place = meta.client if meta.place is None else meta.place
        if place not in malicious_clients(meta.seed, meta.n_clients, self.share):
            return update, state
        attacked = {"model", "control"}
        return {n: tree.scale(leaves, -self.scale) if n in attacked else leaves for n, leaves in update.items()}, state
