"""What the labels of samples are: one class, a class per time step, flags, or numbers."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from evsim.base.errors import DataError

#: "classes": (N,) one of n per sample; "steps": (N, T) one of n per time step, -1 where there is none; "flags": (N, n)
#: 0 or 1 each; "numbers": (N,) or (N, n) floats to be predicted.
LabelKind = Literal["classes", "steps", "flags", "numbers"]

IN_WORDS: dict[LabelKind, str] = {
    "classes": "a class per sample, whole numbers of shape (samples,)",
    "steps": "a class per time step, whole numbers of shape (samples, time), -1 for none",
    "flags": "zeros and ones of shape (samples, labels)",
    "numbers": "floats of shape (samples,) or (samples, numbers)",
}


def check_labels(y: NDArray[Any], n_classes: int, kind: LabelKind, where: str) -> None:
    """Refuse labels that are not what they are said to be.

    Raises:
        DataError: naming the first wrong one.
    """
    axes = {"classes": (1,), "steps": (2,), "flags": (2,), "numbers": (1, 2)}[kind]
    if y.ndim not in axes or (y.dtype.kind == "f") != (kind == "numbers"):
        raise DataError(f"{where}: labels are {y.dtype} of shape {y.shape}; expected {IN_WORDS[kind]}")
    if kind == "numbers":
        wrong = ~np.isfinite(y)
    elif kind == "flags":
        wrong = y > 1
    else:
        wrong = (y < (-1 if kind == "steps" else 0)) | (y >= n_classes)
    if wrong.any():
        at = np.argwhere(wrong)[0]
        expected = {"numbers": "finite", "flags": "0 or 1"}.get(kind, f"in 0..{n_classes - 1}")
        step = f", time step {at[1]}," if kind == "steps" else ""
        raise DataError(f"{where}: label {y[tuple(at)]} of sample {at[0]}{step} is not {expected}")


def strata(y: NDArray[Any], n_classes: int, kind: LabelKind) -> tuple[NDArray[np.int64], int]:
    """Labels to deal and to stratify by, and how many there are: the classes, or one for all where there are none."""
    return (y, n_classes) if kind == "classes" else (np.zeros(len(y), np.int64), 1)


def flipped(y: NDArray[Any], n_classes: int, kind: LabelKind) -> NDArray[Any]:
    """The opposite labels: n - 1 - y of a class, 1 - y of a flag.

    Raises:
        DataError: of numbers, which have none.
    """
    if kind == "numbers":
        raise DataError("data.label_flip: labels are numbers, which have no opposite; expected classes or flags")
    if kind == "flags":
        return np.asarray(1 - y)
    return np.asarray(np.where(y < 0, y, n_classes - 1 - y))
