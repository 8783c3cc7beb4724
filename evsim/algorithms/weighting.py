"""Weightings: how much each report counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np
from typing_extensions import override

from evsim.algorithms.base import Reports, Weighting
from evsim.base.errors import TrainingError

if TYPE_CHECKING:
    from evsim.base.vocabulary import FloatArray


_MOST = 1e150  # whose products with updates are still far from overflow


def checked(weighting: Weighting, reports: Reports) -> dict[str, FloatArray]:
    """The weights of the reports, if they can be weights.

    Raises:
        TrainingError: if one is negative, not finite or enormous, or if there are not as many as reports.
    """
    found = {name: np.asarray(column, np.float64) for name, column in weighting.weights(reports).items()}
    for name, column in {"": np.empty(0), **found}.items():
        good = column.shape == (len(reports),) and ((column >= 0) & (column <= _MOST / max(len(reports), 1))).all()
        if not good:
            given = f"{column.tolist()} for {len(reports)} reports" if name in found else "no entry"
            raise TrainingError(
                f"weighting {type(weighting).__name__}: the weights of payload {name!r} are {given}; expected one "
                f"number per report, >= 0 and with a sum of at most {_MOST:g}"
            )
    return found


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
