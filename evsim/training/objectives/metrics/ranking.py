"""The area under the ROC curve, exact: of the ranks of all scores, for many groups at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, final

import numpy as np
import torch
from numpy.typing import NDArray
from typing_extensions import override

from evsim.base.vocabulary import FloatArray, IntArray
from evsim.training.objectives.groups import Groups, Rows, ratio
from evsim.training.objectives.metrics.base import Form, Judged, Metric


@final
@dataclass(frozen=True, kw_only=True)
class Auc(Metric):
    """How often a one has a larger output than a zero, ties by half (Mann and Whitney 1947).

    Of several flags the mean over those that have ones and zeros; NaN without any.
    """

    forms: ClassVar[frozenset[Form]] = frozenset({"binary", "flags"})

    @property
    @override
    def name(self) -> str:
        return "auc"

    @override
    def keep(self, judged: Judged) -> dict[str, torch.Tensor]:
        return {"score": judged.outputs.reshape(judged.y.shape), "y": judged.y}

    @override
    def of(self, rows: Rows, groups: Groups) -> FloatArray:
        score, y = groups.pick(rows["score"]), groups.pick(rows["y"]) > 0
        if y.ndim == 1:
            return area(score, y, groups.owner, len(groups))
        each = np.stack([area(score[:, k], y[:, k], groups.owner, len(groups)) for k in range(y.shape[1])], 1)
        known = ~np.isnan(each)
        return ratio(np.where(known, each, 0.0).sum(1), known.sum(1))


def area(score: NDArray[Any], y: NDArray[np.bool_], owner: IntArray, count: int) -> FloatArray:
    """The area of each group, (count,); NaN for a group without a one, without a zero, or with a score that is NaN.

    Args:
        score: (places,).
        y: which of them are ones.
        owner: the group of each place, ascending.
        count: number of groups.
    """
    ones = np.bincount(owner[y], minlength=count).astype(np.float64)
    zeros = np.bincount(owner, minlength=count) - ones
    order = np.lexsort((score, owner))
    owner, score, y = owner[order], score[order], y[order]
    new = np.ones(len(order), bool)
    new[1:] = (owner[1:] != owner[:-1]) | (score[1:] != score[:-1])
    tied = np.cumsum(new) - 1
    starts = np.append(np.flatnonzero(new), len(order))
    rank = ((starts[:-1] + starts[1:] + 1) / 2)[tied]  # from 1, over everything; ties have their mean
    before = np.searchsorted(owner, np.arange(count))  # places of earlier groups
    own = np.bincount(owner[y], rank[y] - before[owner[y]], minlength=count)
    found = ratio(own - ones * (ones + 1) / 2, ones * zeros)
    found[np.unique(owner[np.isnan(score)])] = np.nan
    return found
