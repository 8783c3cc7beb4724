"""The slot of objectives: what a sample's loss is, and which numbers say how good a model is.

Client rules train on the loss (`criterion`) and may add terms of their own. A model is judged in two steps: `keep`
looks at one batch after the other and keeps a row per sample, `measure` makes numbers of the rows of any groups of
samples. So a metric is exact over batches of any size, and over the test set and thousands of clients alike.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import partial
from typing import ClassVar

import torch

from evsim.algorithms.base import Criterion
from evsim.base.policy import Policy
from evsim.base.vocabulary import FloatArray
from evsim.training.data.labels import LabelKind
from evsim.training.objectives.groups import Groups, Rows
from evsim.training.objectives.metrics.base import Form, Judged, Metric, metric_names

__all__ = ["Form", "Groups", "Judged", "LabelKind", "Metric", "Objective", "Rows", "criterion", "metric_names"]


class Objective(Policy, ABC):
    """What is learnt: a loss per sample, the metrics, and what labels and outputs they need.

    Attributes:
        labels: what the labels of the data must be.
        form: what is decided about a sample; a metric says which forms it serves.
        axes: of a model's outputs, in words.
    """

    labels: ClassVar[LabelKind]
    form: ClassVar[Form]
    axes: ClassVar[str] = "batch, outputs"

    @property
    @abstractmethod
    def metrics(self) -> tuple[Metric, ...]:
        """What evaluations tell beside the mean loss, the headline first."""

    @abstractmethod
    def output_shape(self, label_shape: tuple[int, ...], n_classes: int) -> tuple[int, ...]:
        """Shape of a model's output for one sample; its last number is the width that a model is built with.

        Args:
            label_shape: of the labels of one sample: () for a class or a number.
            n_classes: classes, tokens, flags or numbers, as the data say.
        """

    @abstractmethod
    def loss(self, outputs: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """The loss of each sample, (batch,), in the outputs' precision; must work under `torch.func.vmap`.

        Its mean over a mini-batch is what clients step along, its root mean square what Oort calls utility.

        Args:
            outputs: of the model, (batch, ...).
            y: labels as they are stored, (batch, ...).
        """

    @abstractmethod
    def guess(self, outputs: torch.Tensor) -> torch.Tensor:
        """What the model says, in the form of the labels: a class, 0 or 1, or a number."""

    # -- the same for all -------------------------------------------------------------------------------------------

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all that evaluations tell, the loss included."""
        return "loss", *metric_names(self.metrics)

    @property
    def headline(self) -> str:
        """The metric that is shown where there is room for one."""
        return metric_names(self.metrics)[0] if self.metrics else "loss"

    def keep(self, outputs: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
        """What of a batch is kept for `measure`: rows (batch, ...) by name."""
        precise = outputs.double()
        losses = self.loss(precise, y)
        judged = Judged(precise, y, self.guess(precise), losses)
        found = {"loss": losses}
        for metric in self.metrics:
            found |= {f"{metric.name}/{name}": rows for name, rows in metric.keep(judged).items()}
        return found

    def keep_loss(self, outputs: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
        """The same where nothing but the loss is asked for."""
        return {"loss": self.loss(outputs.double(), y)}

    def measure(self, kept: Mapping[str, torch.Tensor], groups: Groups) -> dict[str, FloatArray]:
        """Mean loss and metrics of each group of samples, (groups,); NaN where there is nothing to judge."""
        rows: Rows = {name: values.cpu().numpy() for name, values in kept.items()}
        found = {"loss": groups.means(rows["loss"])}
        for metric in self.metrics:
            own = f"{metric.name}/"
            mine = {name.removeprefix(own): values for name, values in rows.items() if name.startswith(own)}
            found[metric.name] = metric.of(mine, groups)
        return found


def criterion(objective: Objective) -> Criterion:
    """The loss as client rules get it: outputs of a half-precision forward pass are widened first."""
    return partial(_widened, objective)


def _widened(objective: Objective, outputs: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    half = outputs.dtype in (torch.bfloat16, torch.float16)
    return objective.loss(outputs.float() if half else outputs, y)
