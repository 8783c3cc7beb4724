"""Copies and modes of a module: what its author put into evaluation mode stays there, and comes back there."""

from __future__ import annotations

import copy
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import nn

from evsim.base.errors import ModelError
from evsim.base.user_code import user_code

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode; afterwards every module is in its own mode again."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def as_trained(model: nn.Module) -> nn.Module:
    """The model in the modes it trains in.

    A module trains in the mode in which it was built. One with a ``train`` method of its own is asked too, since that
    is where authors keep parts of a model (frozen BatchNorm, say) in evaluation mode.
    """
    still = [module for module in model.modules() if not module.training]
    for module in model.modules():
        if module.training and type(module).train is not nn.Module.train:
            module.train()
    for module in still:
        module.training = False
    return model


def private_copy(model: nn.Module) -> nn.Module:
    """A copy that shares no tensor with the model.

    Raises:
        ModelError: if it cannot be copied.
    """
    memo: dict[int, object] = {}  # tensors that torch refuses to copy: those of the older weight_norm, say
    for module in model.modules():
        for held in vars(module).values():
            if isinstance(held, torch.Tensor) and not held.is_leaf:
                memo[id(held)] = held.detach().clone()
    with user_code(ModelError, slot="model", cls=model, **{"while": "it is copied"}):
        return copy.deepcopy(model, memo)
