"""Perplexity: how many tokens a language model is torn between."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np
import torch
from typing_extensions import override

from evsim.base.vocabulary import FloatArray
from evsim.training.objectives.groups import Groups, Rows, ratio
from evsim.training.objectives.metrics.base import Form, Judged, Metric


@final
@dataclass(frozen=True, kw_only=True)
class Perplexity(Metric):
    """exp of the mean cross-entropy over all tokens that have a label: long samples count more than short ones."""

    forms: ClassVar[frozenset[Form]] = frozenset({"steps", "classes"})

    @property
    @override
    def name(self) -> str:
        return "perplexity"

    @override
    def keep(self, judged: Judged) -> dict[str, torch.Tensor]:
        told = judged.y >= 0
        own = judged.outputs.log_softmax(-1).gather(-1, judged.y.long().clamp(min=0).unsqueeze(-1)).squeeze(-1)
        missed = torch.where(told, -own, 0.0)
        rows = {"missed": missed, "told": told}
        return {name: each if each.dim() == 1 else each.flatten(1).sum(1) for name, each in rows.items()}

    @override
    def of(self, rows: Rows, groups: Groups) -> FloatArray:
        with np.errstate(over="ignore"):  # of a diverged model it is infinite
            return np.asarray(np.exp(ratio(groups.sums(rows["missed"]), groups.sums(rows["told"]))))
