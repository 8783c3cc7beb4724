"""One of several classes per sample: cross-entropy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from typing_extensions import override

from evsim.training.data.labels import LabelKind
from evsim.training.objectives.base import Form, Metric, Objective
from evsim.training.objectives.metrics.counting import Accuracy


@final
@dataclass(frozen=True, kw_only=True)
class Classification(Objective):
    """Cross-entropy of one class per sample; outputs are logits (batch, classes).

    Attributes:
        metrics: what evaluations tell beside the loss: accuracy, top_k, macro_f1, balanced_accuracy, perplexity.
    """

    labels: ClassVar[LabelKind] = "classes"
    form: ClassVar[Form] = "classes"
    axes: ClassVar[str] = "batch, classes"
    metrics: tuple[Metric, ...] = (Accuracy(),)

    @override
    def output_shape(self, label_shape: tuple[int, ...], n_classes: int) -> tuple[int, ...]:
        return (n_classes,)

    @override
    def loss(self, outputs: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(outputs, y, reduction="none")

    @override
    def guess(self, outputs: torch.Tensor) -> torch.Tensor:
        return outputs.argmax(-1)
