"""What columns of samples may hold, read or told: inputs, labels, and whose a sample is."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from evsim.base.errors import DataError
from evsim.base.vocabulary import IntArray

Reading = Literal["auto", "numbers", "tokens"]

_MOST_LABELS = 10_000  # more, and more than samples, is a sign that y holds something else than labels
_IMAGE_AXES = (3, 4)  # (n, height, width), and a fourth axis of channels
_COLOURS = (1, 3, 4)  # channels an image may have
_EXACT = 2.0**53  # float64 is exact up to here


def whole(values: NDArray[Any], what: str) -> IntArray:
    """Whole numbers in any type as int64.

    >>> whole(np.array([3.0, 0.0]), "y").tolist()
    [3, 0]

    Raises:
        DataError: if one of them is no whole number; names the first one.
    """
    if values.dtype.kind in "iub":
        return values.astype(np.int64)
    wrong = np.flatnonzero(~(np.isfinite(values) & (values == np.floor(values)) & (np.abs(values) <= _EXACT)))
    if len(wrong):
        raise DataError(f"{what} holds {values[wrong[0]]} at sample {wrong[0]}; expected whole numbers")
    return values.astype(np.int64)


def count_labels(y: IntArray, where: str) -> int:
    """Number of labels: the largest and one.

    Raises:
        DataError: if a label is negative, or so large that it is none.
    """
    if len(y) and y.min() < 0:
        at = int(y.argmin())
        raise DataError(f"{where}: label {y[at]} of sample {at}; expected labels 0, 1, 2 ...")
    n_classes = int(y.max(initial=-1)) + 1
    if n_classes > max(_MOST_LABELS, len(y)):
        raise DataError(f"{where}: label {n_classes - 1} among {len(y)} samples; expected labels 0, 1, 2 ...")
    return n_classes


def read_inputs(x: NDArray[Any], reading: Reading, where: str) -> tuple[NDArray[Any], int | None]:
    """Inputs in the form in which they are kept, and the size of the vocabulary if they are token ids.

    Floats and truth values become float32. Bytes with two or three axes per sample are images: they stay bytes, and get
    the axes (channels, height, width). Other integers are token ids, in int64.

    Raises:
        DataError: if they can be neither, or might be both.
    """
    if x.dtype.kind not in "fiub" or not x.ndim:
        raise DataError(f"{where}: x holds {x.dtype} of shape {x.shape}; expected numbers, (samples, ...)")
    if x.dtype.kind in "fb":
        if reading == "tokens":
            return _tokens(whole(x, f"{where}: x"), where)
        with np.errstate(over="ignore"):  # too large for float32 becomes infinite, which Samples refuses
            return x.astype(np.float32, copy=False), None
    is_image = x.dtype == np.uint8 and x.ndim in _IMAGE_AXES
    if reading == "numbers" or (reading == "auto" and is_image):
        if x.dtype != np.uint8:
            raise DataError(f"{where}: x holds {x.dtype}; expected uint8 (0 to 255, used as 0 to 1) or floats")
        return (channels_first(x) if is_image else x), None
    if reading == "auto" and x.ndim in _IMAGE_AXES:
        raise DataError(
            f"{where}: x holds {x.dtype} of shape {x.shape}; expected images in uint8 or floats; "
            "if these are token ids, say inputs = 'tokens'"
        )
    return _tokens(x.astype(np.int64), where)


def channels_first(images: NDArray[Any]) -> NDArray[Any]:
    """Images as (n, channels, height, width), whether channels come first, last or not at all."""
    if images.ndim == _IMAGE_AXES[0]:
        return images[:, None]
    last = images.shape[3] in _COLOURS and images.shape[1] not in _COLOURS
    return images.transpose(0, 3, 1, 2) if last else images


def numbered(ids: NDArray[Any]) -> tuple[IntArray, NDArray[Any]]:
    """The number of each id in their order, and the ids."""
    names, codes = np.unique(ids, return_inverse=True)
    return codes.reshape(-1).astype(np.int64), names


def _tokens(ids: IntArray, where: str) -> tuple[IntArray, int]:
    if ids.min(initial=0) < 0:
        raise DataError(
            f"{where}: x holds the token id {ids.min()}; expected token ids from 0 (numbers must be floats)"
        )
    return ids, int(ids.max(initial=-1)) + 1
