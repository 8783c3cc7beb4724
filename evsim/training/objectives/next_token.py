"""A class per time step, such as the next token of a text: cross-entropy over the steps that have a label."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from typing_extensions import override

from evsim.training.data.labels import LabelKind
from evsim.training.objectives.base import Form, Metric, Objective
from evsim.training.objectives.metrics.counting import Accuracy
from evsim.training.objectives.metrics.text import Perplexity


@final
@dataclass(frozen=True, kw_only=True)
class NextToken(Objective):
    """Cross-entropy at every time step that has a label; outputs are logits (batch, time, tokens).

    Labels below 0 are padding. A sample's loss is the mean over its steps, so that a long sample pulls no harder than a
    short one; without any step it is 0. Metrics count every step alike.

    Attributes:
        metrics: what evaluations tell beside the loss: perplexity, accuracy, top_k.
    """

    labels: ClassVar[LabelKind] = "steps"
    form: ClassVar[Form] = "steps"
    axes: ClassVar[str] = "batch, time, tokens"
    metrics: tuple[Metric, ...] = (Perplexity(), Accuracy())

    @override
    def output_shape(self, label_shape: tuple[int, ...], n_classes: int) -> tuple[int, ...]:
        return (*label_shape, n_classes)

    @override
    def loss(self, outputs: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        told = y >= 0
        own = outputs.log_softmax(-1).gather(-1, y.long().clamp(min=0).unsqueeze(-1)).squeeze(-1)
        return -torch.where(told, own, 0.0).sum(-1) / told.sum(-1).clamp(min=1)

    @override
    def guess(self, outputs: torch.Tensor) -> torch.Tensor:
        return outputs.argmax(-1)
