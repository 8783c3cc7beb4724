"""Several flags per sample, each 0 or 1: binary cross-entropy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from typing_extensions import override

from evsim.training.data.labels import LabelKind
from evsim.training.objectives.base import Form, Metric, Objective
from evsim.training.objectives.metrics.counting import F1
from evsim.training.objectives.metrics.ranking import Auc


@final
@dataclass(frozen=True, kw_only=True)
class MultiLabel(Objective):
    """Mean over flags of binary cross-entropy; outputs are logits (batch, labels), a flag is guessed above 0.

    Attributes:
        metrics: what evaluations tell beside the loss: f1, auc, macro_f1, precision, recall, accuracy.
    """

    labels: ClassVar[LabelKind] = "flags"
    form: ClassVar[Form] = "flags"
    axes: ClassVar[str] = "batch, labels"
    metrics: tuple[Metric, ...] = (F1(), Auc())

    @override
    def output_shape(self, label_shape: tuple[int, ...], n_classes: int) -> tuple[int, ...]:
        return label_shape

    @override
    def loss(self, outputs: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        entropy = torch.nn.functional.binary_cross_entropy_with_logits
        return entropy(outputs, y.to(outputs.dtype), reduction="none").mean(-1)

    @override
    def guess(self, outputs: torch.Tensor) -> torch.Tensor:
        return outputs > 0
