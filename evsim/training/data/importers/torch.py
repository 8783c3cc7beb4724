"""Any map-style `torch.utils.data.Dataset`: it has a length, and item i is an input, a label and perhaps a client."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evsim.base import registry
from evsim.base.errors import DataError, ScenarioError
from evsim.training.data.columns import Reading
from evsim.training.data.labels import Labels
from evsim.training.data.table import Decoded, Table


def read(source: str, *, inputs: Reading = "auto", labels: Labels = "auto") -> Table:
    """Samples of a data set, or of a train and a test one.

    Args:
        source: "module:function" or "file.py:function", which without arguments gives a data set, or a pair of them.
        inputs: what integers in x are: "numbers" or "tokens"; "auto": bytes with two or three axes are images.
        labels: what labels are: "classes", "steps", "flags" or "numbers"; "auto": as in the data set `arrays`.
    """
    if ":" not in source:
        raise DataError(f"{source!r}: expected 'module:function' or 'file.py:function' that gives a data set")
    try:
        make = registry.load("dataset", source, Path())
    except ScenarioError as error:
        raise DataError(str(error)) from error
    try:
        made = make() if callable(make) and not hasattr(make, "__getitem__") else make
        parts = list(made) if isinstance(made, tuple) else [made]
        marks = [_marks(part) for part in parts]
    except DataError:
        raise
    except Exception as error:  # whatever a user's code raises
        raise DataError(f"{source}: {type(error).__name__}: {error}") from error
    items = np.array([(part, at) for part, each in enumerate(marks) for at in range(len(each))]).reshape(-1, 2)
    found = [mark for each in marks for mark in each]
    has_client = all(len(mark) > 1 for mark in found)
    return Table(
        x=Decoded(items, lambda item: as_array(parts[item[0]][int(item[1])][0])),
        y=_labels([mark[0] for mark in found]),
        client=np.array([_number(mark[1]) for mark in found]) if has_client else None,
        is_test=items[:, 0] == 1 if len(parts) > 1 else None,
        inputs=inputs,
        labels=labels,
    )


def as_array(x: Any) -> NDArray[Any]:
    """A tensor, an array, an image of Pillow or numbers as an array; images get channels first."""
    array = np.asarray(x.numpy() if hasattr(x, "numpy") else x)
    if hasattr(x, "getbands"):
        array = array[None] if array.ndim == 2 else array.transpose(2, 0, 1)  # noqa: PLR2004
    return array


def _marks(part: Any) -> list[tuple[Any, ...]]:
    """Label, and client where there is one, of every item."""
    if not hasattr(part, "__len__") or not hasattr(part, "__getitem__"):
        raise DataError(f"{type(part).__name__} has no length or no items; expected a map-style data set")
    marks = []
    for at in range(len(part)):
        item = part[at]
        if not isinstance(item, tuple | list) or len(item) not in (2, 3):
            raise DataError(f"item {at} is a {type(item).__name__}; expected (input, label) or (input, label, client)")
        marks.append(tuple(item[1:]))
    return marks


def _labels(found: list[Any]) -> NDArray[Any]:
    """A number or a text per item, or as many numbers for each."""
    arrays = [np.asarray(_number(each)) for each in found]
    other = next((at for at, each in enumerate(arrays) if each.shape != arrays[0].shape), None)
    if other is not None:
        raise DataError(
            f"item {other} has a label of shape {arrays[other].shape}; expected {arrays[0].shape}, as item 0 has"
        )
    return np.array(arrays)


def _number(value: Any) -> Any:
    if getattr(value, "shape", ()):
        return value.numpy() if hasattr(value, "numpy") else value
    return value.item() if hasattr(value, "item") else value
