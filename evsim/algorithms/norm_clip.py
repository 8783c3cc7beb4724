"""The weighted mean of updates none of which is longer than a bound.

Sun et al., Can You Really Backdoor Federated Learning?, 2019, section 5 (norm thresholding).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING, final

from typing_extensions import override

from evsim.algorithms.base import Merge, ReportMeta, State, StepInfo
from evsim.algorithms.clip import clipped
from evsim.algorithms.sums import WeightedSums
from evsim.base.errors import require

if TYPE_CHECKING:
    from evsim.algorithms.tree import Payload


@final
@dataclass(frozen=True, kw_only=True)
class NormClip(Merge[WeightedSums]):
    """u_k <- u_k min(1, max_norm / ||u_k||), then the weighted mean; buffers are averaged as they are.

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
    def init(self, server: State, info: StepInfo) -> WeightedSums:
        return WeightedSums()

    @override
    def add(self, acc: WeightedSums, update: Payload, weight: dict[str, float], meta: ReportMeta) -> WeightedSums:
        acc.add({**update, "model": clipped(update["model"], self.max_norm)}, weight)
        return acc

    @override
    def finish(self, acc: WeightedSums, server: State, info: StepInfo) -> Payload:
        return acc.means()
