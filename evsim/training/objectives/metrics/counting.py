"""Metrics that count what is right: accuracy, top-k, F1 and its kin."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np
import torch
from typing_extensions import override

from evsim.base.errors import require
from evsim.base.vocabulary import BoolArray, FloatArray, IntArray
from evsim.training.objectives.groups import Groups, Rows, ratio
from evsim.training.objectives.metrics.base import Form, Judged, Metric

_MOST_CELLS = 1 << 24  # groups times classes that are counted at once


@final
@dataclass(frozen=True, kw_only=True)
class Accuracy(Metric):
    """Share of decisions that are right: of samples, of time steps that have a label, or of flags."""

    forms: ClassVar[frozenset[Form]] = frozenset({"classes", "binary", "steps", "flags"})

    @property
    @override
    def name(self) -> str:
        return "accuracy"

    @override
    def keep(self, judged: Judged) -> dict[str, torch.Tensor]:
        right = judged.guess == judged.y
        if right.dim() == 1:
            return {"right": right}
        told = judged.y >= 0
        return {"right": (right & told).flatten(1).sum(1), "told": told.flatten(1).sum(1)}

    @override
    def of(self, rows: Rows, groups: Groups) -> FloatArray:
        if "told" not in rows:
            return groups.means(rows["right"])
        return ratio(groups.sums(rows["right"]), groups.sums(rows["told"]))


@final
@dataclass(frozen=True, kw_only=True)
class TopK(Metric):
    """Share of samples, or of time steps, whose label is among the k largest outputs; a tie counts against it.

    Attributes:
        k: how many.
    """

    forms: ClassVar[frozenset[Form]] = frozenset({"classes", "steps"})
    k: int = 5

    def __post_init__(self) -> None:
        require(self.k >= 1, "k must be >= 1", k=self.k)

    @property
    @override
    def name(self) -> str:
        return f"top{self.k}_accuracy"

    @override
    def keep(self, judged: Judged) -> dict[str, torch.Tensor]:
        told = judged.y >= 0
        own = judged.outputs.gather(-1, judged.y.long().clamp(min=0).unsqueeze(-1))
        before = (judged.outputs >= own).sum(-1) - 1  # itself; NaN is before nothing, and nothing before NaN
        right = (before < self.k) & told & ~own.squeeze(-1).isnan()
        rows = {"right": right, "told": told}
        return {name: each if each.dim() == 1 else each.flatten(1).sum(1) for name, each in rows.items()}

    @override
    def of(self, rows: Rows, groups: Groups) -> FloatArray:
        return ratio(groups.sums(rows["right"]), groups.sums(rows["told"]))


@dataclass(frozen=True, kw_only=True)
class _ByClass(Metric):
    """What is counted class by class, and then averaged over the classes."""

    forms: ClassVar[frozenset[Form]] = frozenset({"classes", "flags"})

    @override
    def keep(self, judged: Judged) -> dict[str, torch.Tensor]:
        return {"guess": judged.guess, "y": judged.y}


@final
@dataclass(frozen=True, kw_only=True)
class MacroF1(_ByClass):
    """Mean over classes of F1 = 2 tp / (2 tp + fp + fn); over those that are a label or a guess somewhere."""

    @property
    @override
    def name(self) -> str:
        return "macro_f1"

    @override
    def of(self, rows: Rows, groups: Groups) -> FloatArray:
        parts = [
            _mean_of_known(ratio(2 * tp, 2 * tp + fp + fn), tp + fp + fn > 0) for tp, fp, fn in _confusion(rows, groups)
        ]
        return np.concatenate(parts)


@final
@dataclass(frozen=True, kw_only=True)
class BalancedAccuracy(_ByClass):
    """Mean over classes of the share of their samples that are found; over classes that have samples."""

    forms: ClassVar[frozenset[Form]] = frozenset({"classes"})

    @property
    @override
    def name(self) -> str:
        return "balanced_accuracy"

    @override
    def of(self, rows: Rows, groups: Groups) -> FloatArray:
        return np.concatenate(
            [_mean_of_known(ratio(tp, tp + fn), tp + fn > 0) for tp, _, fn in _confusion(rows, groups)]
        )


@dataclass(frozen=True, kw_only=True)
class _OfOnes(Metric):
    """What is counted over all decisions between 0 and 1 together."""

    forms: ClassVar[frozenset[Form]] = frozenset({"binary", "flags"})

    @override
    def keep(self, judged: Judged) -> dict[str, torch.Tensor]:
        guess, y = judged.guess.bool(), judged.y.bool()
        counts = {"tp": guess & y, "fp": guess & ~y, "fn": ~guess & y}
        return {name: each if each.dim() == 1 else each.flatten(1).sum(1) for name, each in counts.items()}


@final
@dataclass(frozen=True, kw_only=True)
class F1(_OfOnes):
    """2 tp / (2 tp + fp + fn), over all flags together (micro); NaN without a one in labels and guesses."""

    @property
    @override
    def name(self) -> str:
        return "f1"

    @override
    def of(self, rows: Rows, groups: Groups) -> FloatArray:
        tp, fp, fn = (groups.sums(rows[name]) for name in ("tp", "fp", "fn"))
        return ratio(2 * tp, 2 * tp + fp + fn)


@final
@dataclass(frozen=True, kw_only=True)
class Precision(_OfOnes):
    """tp / (tp + fp): how many of the ones guessed are right; NaN without any."""

    @property
    @override
    def name(self) -> str:
        return "precision"

    @override
    def of(self, rows: Rows, groups: Groups) -> FloatArray:
        tp, fp = groups.sums(rows["tp"]), groups.sums(rows["fp"])
        return ratio(tp, tp + fp)


@final
@dataclass(frozen=True, kw_only=True)
class Recall(_OfOnes):
    """tp / (tp + fn): how many of the ones are found; NaN without any."""

    @property
    @override
    def name(self) -> str:
        return "recall"

    @override
    def of(self, rows: Rows, groups: Groups) -> FloatArray:
        tp, fn = groups.sums(rows["tp"]), groups.sums(rows["fn"])
        return ratio(tp, tp + fn)


def _confusion(rows: Rows, groups: Groups) -> list[tuple[FloatArray, FloatArray, FloatArray]]:
    """True positives, false positives and false negatives, (groups, classes) each; some groups at a time."""
    guess, y = groups.pick(rows["guess"]), groups.pick(rows["y"])
    if y.ndim > 1:
        guess, y = guess.astype(bool), y.astype(bool)
        return [tuple(groups.sums_at(each) for each in (guess & y, guess & ~y, ~guess & y))]  # type: ignore[list-item]
    classes = int(max(guess.max(initial=0), y.max(initial=0))) + 1
    size = max(1, _MOST_CELLS // classes)
    return [
        _counted(guess, y, groups, (start, min(start + size, len(groups))), classes)
        for start in range(0, len(groups), size)
    ]


def _counted(
    guess: IntArray, y: IntArray, groups: Groups, part: tuple[int, int], classes: int
) -> tuple[FloatArray, FloatArray, FloatArray]:
    start, stop = part
    places = slice(groups.offsets[start], groups.offsets[stop])
    cell = (groups.owner[places] - start) * classes
    right = guess[places] == y[places]

    def count(labels: IntArray) -> FloatArray:
        flat = np.bincount(cell[: len(labels)] + labels, minlength=(stop - start) * classes)
        return flat.reshape(stop - start, classes).astype(np.float64)

    labelled, guessed = count(y[places]), count(guess[places])
    flat = np.bincount((cell + y[places])[right], minlength=(stop - start) * classes)
    tp = flat.reshape(stop - start, classes).astype(np.float64)
    return tp, guessed - tp, labelled - tp


def _mean_of_known(values: FloatArray, known: BoolArray) -> FloatArray:
    """Mean over classes, (groups,), of those that are known; NaN without any."""
    return ratio(np.where(known, values, 0.0).sum(1), known.sum(1))
