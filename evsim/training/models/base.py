"""The slot of models: how to build a `torch.nn.Module` for the shape of the data, and whether it fits.

``forward(x)`` gives what the objective wants, such as logits of shape (batch, classes). Initial weights are a function
of the seed only: they are drawn in float32 without touching the global generator, so a float64 run starts from the same
numbers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import nn

from evsim.base import rng
from evsim.base.errors import ModelError
from evsim.base.user_code import user_code
from evsim.training.data.samples import inputs
from evsim.training.draws import named_draws
from evsim.training.models.leaves import check_leaves, uninitialised
from evsim.training.models.modes import evaluating, private_copy
from evsim.training.objectives.base import Objective
from evsim.training.objectives.classification import Classification

if TYPE_CHECKING:
    from evsim.training.data.base import FederatedData


_USUAL = Classification()


class Model(ABC):
    """How to build a model."""

    @abstractmethod
    def build(self, *, shape: tuple[int, ...], n_classes: int, n_tokens: int | None, seed: int) -> nn.Module:
        """A freshly initialised module for inputs of this shape (without the batch dimension).

        Raises:
            ModelError: if the model cannot take such inputs.
        """


def seeded(seed: int, make: Callable[[], nn.Module]) -> nn.Module:
    """Build on the CPU in float32, whatever torch's defaults are, and put all global generators back."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with named_draws(rng.key(seed, "model"), torch.device("cpu")), torch.device("cpu"):
            return make()
    finally:
        torch.set_default_dtype(default)


def materialized(model: nn.Module, shape: tuple[int, ...], n_tokens: int | None) -> nn.Module:
    """The model after one pass over zeros if it has lazy layers; call it where the model's draws are seeded."""
    if uninitialised(model):
        dtype = torch.float32 if n_tokens is None else torch.int64
        with torch.no_grad(), evaluating(model):
            model(torch.zeros((2, *shape), dtype=dtype))
    return model


def check_model(model: nn.Module, data: FederatedData, objective: Objective = _USUAL) -> None:
    """Run two samples through the model and look whether the objective can make a loss of what comes out.

    Raises:
        ModelError: if a leaf cannot be trained, the inputs do not fit the model, or its output does not fit the labels.
    """
    check_leaves(model)
    rows = min(2, len(data.y_test))
    x = inputs(data.x_test, torch.float32, tokens=data.n_tokens is not None)[:rows]
    kind = "token ids" if data.n_tokens is not None else "numbers"
    trial = private_copy(model).to("cpu", torch.float32).eval()  # the model itself stays as it is
    task = {"while": f"it is given {kind} of shape {tuple(x.shape)}"}
    with torch.no_grad(), named_draws(0, x.device), user_code(ModelError, slot="model", cls=model, **task):
        outputs = trial(x)
    expected = (rows, *objective.output_shape(data.y_test.shape[1:], data.n_classes))
    given = tuple(outputs.shape) if isinstance(outputs, torch.Tensor) else type(outputs).__name__
    alone = expected[1:] == (1,) and given == (rows,)  # one number per sample needs no axis of its own
    if given != expected and not alone:
        steps = "; the model must give an output per time step" if len(expected) > len(given) else ""
        raise ModelError(
            f"the model's output does not fit the labels of {data.name!r}: for {rows} samples it gave {given}; "
            f"expected {expected} ({objective.axes}){steps}"
        )
