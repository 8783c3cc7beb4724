"""One or more numbers per sample: squared errors, or Huber's loss."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import ClassVar, Literal, final

import torch
from typing_extensions import override

from evsim.base.errors import require
from evsim.training.data.labels import LabelKind
from evsim.training.objectives.base import Form, Metric, Objective
from evsim.training.objectives.metrics.errors import R2, Mae, Rmse


@final
@dataclass(frozen=True, kw_only=True)
class Regression(Objective):
    """Predicts numbers; outputs are (batch, numbers), or (batch,) for one. A sample's loss is the mean over them.

    Attributes:
        error: "squared": e^2; "huber": e^2 / 2 up to `delta`, beyond it delta (|e| - delta / 2) (Huber 1964).
        delta: where Huber's loss becomes linear; of no effect on squared errors.
        metrics: what evaluations tell beside the loss: rmse, mae, r2, mse.
    """

    labels: ClassVar[LabelKind] = "numbers"
    form: ClassVar[Form] = "numbers"
    axes: ClassVar[str] = "batch, numbers"
    error: Literal["squared", "huber"] = "squared"
    delta: float = 1.0
    metrics: tuple[Metric, ...] = (Rmse(), Mae(), R2())

    def __post_init__(self) -> None:
        require(isfinite(self.delta) and self.delta > 0, "delta must be > 0", delta=self.delta)

    @override
    def output_shape(self, label_shape: tuple[int, ...], n_classes: int) -> tuple[int, ...]:
        return label_shape or (1,)

    @override
    def loss(self, outputs: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        given, wanted = outputs.reshape(y.shape), y.to(outputs.dtype)
        if self.error == "huber":
            each = torch.nn.functional.huber_loss(given, wanted, reduction="none", delta=self.delta)
        else:
            each = (given - wanted).square()
        return each.flatten(1).mean(1) if each.dim() > 1 else each

    @override
    def guess(self, outputs: torch.Tensor) -> torch.Tensor:
        return outputs
