"""Nested values with tensors in them as JSON and a list of tensors: what a checkpoint writes; nothing is pickled.

>>> import torch
>>> weight = torch.ones(2)
>>> skeleton, tensors = pack({"model": {"w": weight}, "sent": [[3, weight]], "none": None})
>>> len(tensors)
1
>>> again = unpack(skeleton, tensors)
>>> again["sent"][0][0], again["model"]["w"] is again["sent"][0][1]
(3, True)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch


def pack(value: Any) -> tuple[Any, list[torch.Tensor]]:
    """Dicts with text keys, lists, tensors, numbers, texts and None; a tensor that occurs twice is kept once.

    Raises:
        TypeError: if there is anything else in it.
    """
    tensors: list[torch.Tensor] = []
    return _packed(value, tensors, {}), tensors


def unpack(skeleton: Any, tensors: Sequence[torch.Tensor]) -> Any:
    """What `pack` was given; sequences become lists."""
    if not isinstance(skeleton, dict):
        return skeleton
    ((kind, inside),) = skeleton.items()
    if kind == "tensor":
        return tensors[inside]
    if kind == "list":
        return [unpack(each, tensors) for each in inside]
    return {key: unpack(each, tensors) for key, each in inside.items()}


def _packed(value: Any, tensors: list[torch.Tensor], known: dict[int, int]) -> Any:
    if isinstance(value, torch.Tensor):
        if id(value) not in known:
            known[id(value)] = len(tensors)
            tensors.append(value)
        return {"tensor": known[id(value)]}
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            raise TypeError(f"keys of states are texts, not {list(value)[:3]}")
        return {"dict": {key: _packed(each, tensors, known) for key, each in value.items()}}
    if isinstance(value, (list, tuple)):
        return {"list": [_packed(each, tensors, known) for each in value]}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"a {type(value).__name__} cannot be in a checkpoint")
