"""A metric of somebody else's: a class such as torchmetrics has, or a function of outputs and labels."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, ClassVar, final, get_args

import numpy as np
import torch
from typing_extensions import override

from evsim.base import metrics as known
from evsim.base import registry
from evsim.base.errors import TrainingError, require
from evsim.base.user_code import user_code
from evsim.base.vocabulary import FloatArray
from evsim.training.objectives.groups import Groups, Rows
from evsim.training.objectives.metrics.base import Form, Judged, Metric


@final
@dataclass(frozen=True, kw_only=True)
class LibraryMetric(Metric):
    """``module:Class`` with `update(outputs, y)` and `compute()`, or ``module:function`` of outputs and labels.

    Both get all outputs and labels of a group at once: (samples, classes) and (samples,) for classes, (samples,) twice
    for binary, (samples, labels) for flags, (samples, numbers) for numbers; of time steps those that have a label, as
    samples. It is called once per group, so an evaluation of thousands of clients takes its time.

    Attributes:
        target: where it is.
        options: its arguments.
    """

    forms: ClassVar[frozenset[Form]] = frozenset(get_args(Form))
    target: str
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        require(":" in self.target, "target must be 'module:Class'", target=self.target)

    @property
    @override
    def name(self) -> str:
        plain = self.target.rpartition(":")[2]
        return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", plain).lower()

    @property
    @override
    def direction(self) -> known.Metric | None:
        better = getattr(self._found(), "higher_is_better", None)
        return known.metric_of(self.name) if better is None else known.Metric(larger_is_better=bool(better))

    @override
    def keep(self, judged: Judged) -> dict[str, torch.Tensor]:
        return {"outputs": judged.outputs, "y": judged.y}

    @override
    def of(self, rows: Rows, groups: Groups) -> FloatArray:
        outputs, y = (torch.from_numpy(groups.pick(rows[name])) for name in ("outputs", "y"))
        parts = [slice(start, stop) for start, stop in pairwise(groups.offsets.tolist())]
        return np.array([self._number(*_paired(outputs[part], y[part])) for part in parts], np.float64)

    def _number(self, outputs: torch.Tensor, y: torch.Tensor) -> float:
        if not len(y):
            return float("nan")
        found = self._found()
        with user_code(TrainingError, slot="metric", cls=self.target, **{"while": "a model is judged"}):
            if not isinstance(found, type):
                return float(found(outputs, y, **self.options))
            metric: Any = found(**self.options)
            metric.update(outputs, y)
            return float(metric.compute())

    def _found(self) -> Any:
        return registry.load("metric", self.target)


def _paired(outputs: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Outputs and labels as libraries want them."""
    if outputs.dim() == 3:  # noqa: PLR2004  (samples, time, classes)
        told = y >= 0
        return outputs[told], y[told].long()
    labels = y if y.is_floating_point() else y.long()
    return (outputs.reshape(y.shape) if outputs.shape[-1:] == (1,) else outputs), labels
