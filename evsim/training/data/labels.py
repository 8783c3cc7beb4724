"""What the labels of samples are: one class, a class per time step, flags, or numbers."""

from __future__ import annotations

from math import prod
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from evsim.base.errors import DataError
from evsim.training.data.columns import count_labels, whole

#: "classes": (N,) one of n per sample; "steps": (N, T) one of n per time step, -1 where there is none; "flags": (N, n)
#: 0 or 1 each; "numbers": (N,) or (N, n) floats to be predicted.
LabelKind = Literal["classes", "steps", "flags", "numbers"]

Labels = Literal["auto", "classes", "steps", "flags", "numbers"]

IN_WORDS: dict[LabelKind, str] = {
    "classes": "a class per sample, whole numbers of shape (samples,)",
    "steps": "a class per time step, whole numbers of shape (samples, time), -1 for none",
    "flags": "zeros and ones of shape (samples, labels)",
    "numbers": "floats of shape (samples,) or (samples, numbers)",
}


def read_labels(y: NDArray[Any], said: Labels, where: str, column: str = "y") -> tuple[NDArray[Any], int, LabelKind]:
    """Labels in the form in which they are kept; how many classes, tokens, flags or numbers; and what they are.

    "auto": one whole number per sample is a class; of several per sample zeros and ones are flags, other whole numbers
    classes of time steps, and floats numbers.

    >>> read_labels(np.array([[2, 0], [1, -1]]), "auto", "y")[1:], read_labels(np.array([0.5]), "numbers", "y")[1:]
    ((3, 'steps'), (1, 'numbers'))

    Raises:
        DataError: if they cannot be read so.
    """
    kind = _kind(y, column) if said == "auto" else said
    if kind == "numbers":
        with np.errstate(over="ignore"):  # too large for float32 becomes infinite, which is refused
            return y.astype(np.float32), prod(y.shape[1:]), kind
    if y.ndim != (1 if kind == "classes" else 2):
        raise DataError(f"{column} holds {y.dtype} of shape {y.shape}; expected {IN_WORDS[kind]}")
    ids = whole(y.reshape(-1), column).reshape(y.shape)
    if kind == "classes":
        return ids, count_labels(ids, where), kind
    low, high = (0, 1) if kind == "flags" else (-1, np.inf)
    wrong = (ids < low) | (ids > high)
    if wrong.any():
        expected = "zeros and ones" if kind == "flags" else "classes from 0, or -1 where a time step has none"
        raise DataError(f"{column} holds {ids[wrong][0]}; expected {expected}")
    if kind == "flags":
        return ids.astype(np.uint8), prod(y.shape[1:]), kind
    n_classes = int(ids.max(initial=-1)) + 1
    return ids.astype(np.min_scalar_type(-max(n_classes, 1))), n_classes, kind


def _kind(y: NDArray[Any], column: str) -> LabelKind:
    """What labels seem to be; refused where that would be a guess."""
    if y.ndim == 1:
        if y.dtype.kind == "f" and (y != np.floor(y)).any():
            at = int(np.flatnonzero(y != np.floor(y))[0])
            expected = 'whole numbers from 0, the labels; if these are numbers to be predicted, say labels = "numbers"'
            raise DataError(f"{column} holds {y[at]} at sample {at}; expected {expected}")
        return "classes"
    if y.dtype.kind == "f":
        return "numbers"
    if y.shape[1] == 1:
        hint = "y[:, 0] if these are classes, else say which labels they are"
        raise DataError(f"{column} holds {y.dtype} of shape {y.shape}; expected one axis, or a wide second one; {hint}")
    return "flags" if y.dtype.kind == "b" or bool(np.isin(y, (0, 1)).all()) else "steps"


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
