"""Weightings: how much each report counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np
from typing_extensions import override

from evsim.algorithms.base import Reports, Weighting

if TYPE_CHECKING:
    from evsim.base.vocabulary import FloatArray


@final
@dataclass(frozen=True, kw_only=True)
class SampleWeights(Weighting):
    """p_k = n_k / sum n: FedAvg as printed (McMahan et al. 2017). SCAFFOLD's controls weigh the same (algorithm 1)."""

    @override
    def weights(self, reports: Reports) -> dict[str, FloatArray]:
        return {"": reports.samples.astype(np.float64), "control": np.ones(len(reports))}


@final
@dataclass(frozen=True, kw_only=True)
class EqualWeights(Weighting):
    """p_k = 1 / |S|."""

    @override
    def weights(self, reports: Reports) -> dict[str, FloatArray]:
        return {"": np.ones(len(reports))}
