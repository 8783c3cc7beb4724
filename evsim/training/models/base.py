"""The slot of models: how to build a `torch.nn.Module` for the shape of the data, and whether it fits.

``forward(x)`` gives logits of shape (batch, classes). Initial weights are a function of the seed only: they are drawn
in float32 without touching the global generator, so a float64 run starts from the same numbers.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import nn

from evsim.base import rng
from evsim.base.errors import ModelError
from evsim.training.data.samples import inputs

if TYPE_CHECKING:
    from evsim.training.data.base import FederatedData


class Model(ABC):
    """How to build a model."""

    @abstractmethod
    def build(self, *, shape: tuple[int, ...], n_classes: int, n_tokens: int | None, seed: int) -> nn.Module:
        """A freshly initialised module for inputs of this shape (without the batch dimension).

        Raises:
            ModelError: if the model cannot take such inputs.
        """


def seeded(seed: int, make: Callable[[], nn.Module]) -> nn.Module:
    """Build on the CPU in float32, whatever torch's defaults are, and put its global generator back."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):
            torch.default_generator.manual_seed(rng.key(seed, "model") % 2**63)  # torch.manual_seed reseeds GPUs too
            return make()
    finally:
        torch.set_default_dtype(default)


def check_model(model: nn.Module, data: FederatedData) -> None:
    """Run two samples through the model and look at what comes out.

    Raises:
        ModelError: if the inputs do not fit the model, or its output does not fit the labels.
    """
    rows = min(2, len(data.y_test))
    x = inputs(data.x_test, torch.float32, tokens=data.n_tokens is not None)[:rows]
    trial = copy.deepcopy(model).to("cpu", torch.float32).eval()  # the model itself stays as it is
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            logits = trial(x)
    except Exception as error:  # whatever a user's code raises
        kind = "token ids" if data.n_tokens is not None else "numbers"
        raise ModelError(f"the model cannot take {kind} of shape {tuple(x.shape)}: {error}") from error
    expected = (rows, data.n_classes)
    if not isinstance(logits, torch.Tensor) or tuple(logits.shape) != expected:
        given = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise ModelError(
            f"the model's output does not fit the labels of {data.name!r}: for {rows} samples it gave {given}; "
            f"expected {expected} (batch, classes)"
        )
