"""One of two classes, by a single logit: binary cross-entropy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from typing_extensions import override

from evsim.training.data.labels import LabelKind
from evsim.training.objectives.base import Form, Metric, Objective
from evsim.training.objectives.metrics.counting import Accuracy
from evsim.training.objectives.metrics.ranking import Auc


@final
@dataclass(frozen=True, kw_only=True)
class Binary(Objective):
    """Binary cross-entropy of labels 0 and 1; outputs are one logit per sample, (batch, 1) or (batch,).

    Attributes:
        metrics: what evaluations tell beside the loss: auc, accuracy, f1, precision, recall.
    """

    labels: ClassVar[LabelKind] = "classes"
    form: ClassVar[Form] = "binary"
    axes: ClassVar[str] = "batch, 1"
    metrics: tuple[Metric, ...] = (Auc(), Accuracy())

    @override
    def output_shape(self, label_shape: tuple[int, ...], n_classes: int) -> tuple[int, ...]:
        return (1,)

    @override
    def loss(self, outputs: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        entropy = torch.nn.functional.binary_cross_entropy_with_logits
        return entropy(outputs.reshape(y.shape), y.to(outputs.dtype), reduction="none")

    @override
    def guess(self, outputs: torch.Tensor) -> torch.Tensor:
        return (outputs.reshape(len(outputs)) > 0).long()
