"""Metrics of numbers that are predicted: how far off, and how much of their variance is explained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np
import torch
from typing_extensions import override

from evsim.base.vocabulary import FloatArray
from evsim.training.objectives.groups import Groups, Rows, ratio
from evsim.training.objectives.metrics.base import Form, Judged, Metric


@dataclass(frozen=True, kw_only=True)
class _OfNumbers(Metric):
    forms: ClassVar[frozenset[Form]] = frozenset({"numbers"})


@final
@dataclass(frozen=True, kw_only=True)
class Mse(_OfNumbers):
    """Mean of squared errors, over samples and their numbers."""

    @property
    @override
    def name(self) -> str:
        return "mse"

    @override
    def keep(self, judged: Judged) -> dict[str, torch.Tensor]:
        return {"square": _each((judged.guess.reshape(judged.y.shape) - judged.y).square())}

    @override
    def of(self, rows: Rows, groups: Groups) -> FloatArray:
        return groups.means(rows["square"])


@final
@dataclass(frozen=True, kw_only=True)
class Rmse(_OfNumbers):
    """Root of the mean of squared errors, over samples and their numbers."""

    @property
    @override
    def name(self) -> str:
        return "rmse"

    @override
    def keep(self, judged: Judged) -> dict[str, torch.Tensor]:
        return {"square": _each((judged.guess.reshape(judged.y.shape) - judged.y).square())}

    @override
    def of(self, rows: Rows, groups: Groups) -> FloatArray:
        return np.asarray(np.sqrt(groups.means(rows["square"])))


@final
@dataclass(frozen=True, kw_only=True)
class Mae(_OfNumbers):
    """Mean of absolute errors, over samples and their numbers."""

    @property
    @override
    def name(self) -> str:
        return "mae"

    @override
    def keep(self, judged: Judged) -> dict[str, torch.Tensor]:
        return {"off": _each((judged.guess.reshape(judged.y.shape) - judged.y).abs())}

    @override
    def of(self, rows: Rows, groups: Groups) -> FloatArray:
        return groups.means(rows["off"])


@final
@dataclass(frozen=True, kw_only=True)
class R2(_OfNumbers):
    """1 - squared errors / squared distances from the mean; of several numbers the mean over them.

    NaN where all labels of a group are the same.
    """

    @property
    @override
    def name(self) -> str:
        return "r2"

    @override
    def keep(self, judged: Judged) -> dict[str, torch.Tensor]:
        y = _columns(judged.y.double())
        return {"square": (judged.guess.reshape(y.shape) - y).square(), "y": y}

    @override
    def of(self, rows: Rows, groups: Groups) -> FloatArray:
        y = groups.pick(rows["y"])
        mean = groups.means(rows["y"])
        spread = groups.sums_at((y - mean[groups.owner]) ** 2)
        return np.asarray((1 - ratio(groups.sums(rows["square"]), spread)).mean(1))


def _each(values: torch.Tensor) -> torch.Tensor:
    """The mean over a sample's numbers, (batch,)."""
    return _columns(values.double()).mean(1)


def _columns(values: torch.Tensor) -> torch.Tensor:
    """(batch, numbers), also where there is one number."""
    return values.unsqueeze(1) if values.dim() == 1 else values.flatten(1)
