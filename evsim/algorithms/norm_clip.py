"""The weighted mean of updates, to which no client adds more than a bound.

Sun et al., Can You Really Backdoor Federated Learning?, 2019, section 5 (norm thresholding). There a client reports
once in a round. Where it may report several times, a bound on each report would let a client through that merely
reports often, so the bound is on all that a client adds.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import isfinite
from typing import TYPE_CHECKING, final

from typing_extensions import override

from evsim.algorithms.base import Merge, ReportMeta, State, StepInfo
from evsim.algorithms.client_sums import ClientSum
from evsim.algorithms.clip import clipped
from evsim.algorithms.sums import WeightedSums
from evsim.base.errors import require

if TYPE_CHECKING:
    from evsim.algorithms.tree import Payload


@final
@dataclass(eq=False)
class ClippedSum:
    """The sums of the clients before, and what the client that reports now adds up to; changed in place."""

    max_norm: float
    sums: WeightedSums = field(default_factory=WeightedSums)
    own: ClientSum | None = None

    def close(self) -> None:
        """Add the part of the client that reported."""
        own, self.own = self.own, None
        if own is not None:
            self.sums.add({"model": clipped(own.update, self.max_norm)}, {"": own.heaviest})
            self.sums.weights["model"] += own.weight - own.heaviest


@final
@dataclass(frozen=True, kw_only=True)
class NormClip(Merge[ClippedSum]):
    """u_k <- u_k min(1, max_norm / ||u_k||), then the weighted mean; buffers are averaged as they are.

    A client with several reports adds sum_j w_j u_j, shortened to max_norm times its largest w_j: as much as one full
    report. The mean still divides by the weights of all reports.

    Attributes:
        max_norm: the longest update that counts fully.
    """

    style = "model"

    max_norm: float

    def __post_init__(self) -> None:
        require(isfinite(self.max_norm) and self.max_norm > 0, "max_norm must be > 0", max_norm=self.max_norm)

    @property
    @override
    def minimum_updates(self) -> int:
        return 1

    @override
    def init(self, server: State, info: StepInfo) -> ClippedSum:
        return ClippedSum(self.max_norm)

    @override
    def add(self, acc: ClippedSum, update: Payload, weight: dict[str, float], meta: ReportMeta) -> ClippedSum:
        acc.sums.add({name: leaves for name, leaves in update.items() if name != "model"}, weight)
        own, weighs = update["model"], weight.get("model", weight[""])
        if acc.own is not None and acc.own.is_of(meta):
            acc.own = acc.own.plus(own, weighs)
            return acc
        acc.close()
        acc.own = ClientSum.first(meta, own, weighs)
        return acc

    @override
    def finish(self, acc: ClippedSum, server: State, info: StepInfo) -> Payload:
        acc.close()
        return acc.sums.means()
