"""Weightings: how much each report counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np
from typing_extensions import override

from evsim.algorithms.base import Weighting

if TYPE_CHECKING:
    from evsim.events import FloatArray, IntArray


@final
@dataclass(frozen=True, kw_only=True)
class BySamples(Weighting):
    """p_k = n_k / sum n: FedAvg as printed (McMahan et al. 2017)."""

    @override
    def weights(self, samples: IntArray, staleness: IntArray) -> dict[str, FloatArray]:
        return {"": samples.astype(np.float64)}


@final
@dataclass(frozen=True, kw_only=True)
class Uniform(Weighting):
    """p_k = 1 / |S|."""

    @override
    def weights(self, samples: IntArray, staleness: IntArray) -> dict[str, FloatArray]:
        return {"": np.ones(len(samples))}
