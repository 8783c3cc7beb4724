"""The slot of metrics. A metric keeps a row per sample of each batch, and makes a number of the rows of a group."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, final

import torch

from evsim.base import metrics as known
from evsim.base.policy import Policy
from evsim.base.vocabulary import FloatArray
from evsim.training.objectives.groups import Groups, Rows

#: What is decided about a sample: one of several classes; 0 or 1; a class per time step; 0 or 1 for each of several
#: flags; one or more numbers.
Form = Literal["classes", "binary", "steps", "flags", "numbers"]


@final
@dataclass(frozen=True, eq=False)
class Judged:
    """A batch as metrics see it.

    Attributes:
        outputs: of the model in float64, (batch, ...).
        y: labels, (batch, ...); below 0 where there is none.
        guess: what the model says, in the form of y.
        losses: of the samples, (batch,).
    """

    outputs: torch.Tensor
    y: torch.Tensor
    guess: torch.Tensor
    losses: torch.Tensor


class Metric(Policy, ABC):
    """A number that says how good a model is on some samples.

    Attributes:
        forms: the decisions that it can judge.
    """

    slot: ClassVar[str] = "metric"
    forms: ClassVar[frozenset[Form]]

    @property
    @abstractmethod
    def name(self) -> str:
        """What the column `metric` of results says."""

    @property
    def direction(self) -> known.Metric | None:
        """Which way is better, and between which bounds it lies; None: not known."""
        return known.metric_of(self.name)

    @abstractmethod
    def keep(self, judged: Judged) -> dict[str, torch.Tensor]:
        """Rows (batch, ...) of what the number is made of."""

    @abstractmethod
    def of(self, rows: Rows, groups: Groups) -> FloatArray:
        """The number for each group of samples, (groups,); NaN where it is not defined.

        Args:
            rows: what `keep` gave for all samples, by name, (samples, ...).
            groups: which samples belong together.
        """


def metric_names(metrics: Sequence[Metric]) -> tuple[str, ...]:
    """The names of metrics, in order."""
    return tuple(metric.name for metric in metrics)
