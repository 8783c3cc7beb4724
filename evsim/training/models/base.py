"""The slot of models: how to build a `torch.nn.Module` for the shape of the data, and whether it fits.

``forward(x)`` gives what the objective wants, such as logits of shape (batch, classes). Initial weights are a function
of the seed only: they are drawn in float32 without touching the global generator, so a float64 run starts from the same
numbers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import torch
from torch import nn
from typing_extensions import override

from evsim.base import rng
from evsim.base.errors import ModelError, Problem
from evsim.base.policy import Policy
from evsim.base.user_code import user_code
from evsim.training.data.samples import inputs
from evsim.training.draws import named_draws
from evsim.training.models.freezing import freeze, freeze_all_but_adapters
from evsim.training.models.leaves import check_leaves, uninitialised
from evsim.training.models.lora import Lora, adapt
from evsim.training.models.modes import evaluating, private_copy
from evsim.training.models.weights import load_weights
from evsim.training.objectives.base import Objective
from evsim.training.objectives.classification import Classification

if TYPE_CHECKING:
    from collections.abc import Iterator

    from evsim.training.data.base import FederatedData


_USUAL = Classification()


@dataclass(frozen=True, kw_only=True)
class Model(Policy, ABC):
    """How to build a model, where its weights come from, and what of it trains.

    Patterns go over dotted names of leaves, as in the module's state dict: "features.*", "*.bias". Only what trains is
    sent, merged and paid for; the whole model is saved.

    Attributes:
        weights: a .safetensors file, or the folder of a run, that holds every leaf of the model and no other; without
            it all are drawn from the seed.
        fresh: patterns of leaves that are drawn from the seed all the same, such as a head for other classes.
        freeze: patterns of leaves that do not train. A norm whose statistics are frozen goes by them.
        lora: low-rank adapters; everything else is then frozen.
    """

    weights: str | None = None
    fresh: tuple[str, ...] = ()
    freeze: tuple[str, ...] = ()
    lora: Lora | None = None

    @override
    def problems(self, scenario: Any) -> Iterator[Problem]:
        if self.fresh and self.weights is None:
            yield Problem("model.fresh", "leaves that are not taken from a file", "model.weights, the file")
        if self.freeze and self.lora is not None:
            hint = "model.lora.train names what else shall train"
            yield Problem("model.freeze", "beside model.lora, which freezes all but its adapters", "one of them", hint)

    @final
    def prepare(self, data: FederatedData, seed: int, folder: Path, *, width: int | None = None) -> nn.Module:
        """The module that a run trains: built, loaded, with adapters and frozen leaves.

        Args:
            data: what it is trained on.
            seed: of the run.
            folder: in which a relative path of weights begins: the scenario's.
            width: of its output; as many as the data has classes if not given.

        Raises:
            ModelError: if it cannot be built, or what is said of its leaves does not fit them.
        """
        shape = data.x.shape[1:]
        n_classes = data.n_classes if width is None else width
        module = self.build(shape=shape, n_classes=n_classes, n_tokens=data.n_tokens, seed=seed)
        if self.lora is not None:
            adapt(module, self.lora, seed)
        if self.weights is not None:
            load_weights(module, self.weights, self.fresh, folder)
        if self.lora is not None:
            freeze_all_but_adapters(module, self.lora.train)
        elif self.freeze:
            freeze(module, self.freeze)
        return module

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
