"""A model version on samples: what its objective keeps of each, to make metrics of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from torch.func import functional_call

from evsim.algorithms.tree import Tree
from evsim.base.errors import TrainingError
from evsim.base.user_code import user_code
from evsim.training.data.samples import Inputs
from evsim.training.draws import named_draws
from evsim.training.models.leaves import local
from evsim.training.models.modes import evaluating

_WHILE = {"while": "it is evaluated"}


@final
@dataclass(frozen=True, eq=False)
class Some:
    """Some rows of stored inputs, a batch of which is read when it is asked for; `rows` lie beside them."""

    values: torch.Tensor | Inputs
    rows: torch.Tensor

    @property
    def device(self) -> torch.device:
        """Where they are stored."""
        return self.values.device

    def __getitem__(self, part: slice) -> torch.Tensor:
        return self.values[self.rows[part]]


Stored = torch.Tensor | Inputs | Some


Keep = Callable[[torch.Tensor, torch.Tensor], Tree]  # outputs and labels of a batch; rows (batch, ...) by name


@torch.no_grad()
def evaluate(
    model: torch.nn.Module,
    state: tuple[Tree, Tree],
    samples: tuple[Stored, torch.Tensor],
    keep: Keep,
    *,
    batch_size: int,
    key: int,
) -> Tree:
    """What is kept of each sample, by name, (samples, ...): `Objective.keep`, or `keep_loss` for the losses alone.

    The samples, inputs and labels, may lie in host memory. What a model draws in evaluation mode it draws by the key.

    Raises:
        TrainingError: if the model, or what judges it, raises anything.
    """
    x, y = samples
    params, buffers = state[0], {**local(model), **state[1]}
    device = next((leaf.device for leaf in model.parameters()), x.device)
    kept: Tree = {}
    with evaluating(model), named_draws(key, device):
        for start in range(0, len(y), batch_size):
            own = {**params, **{name: leaf.clone() for name, leaf in buffers.items()}}  # a model may write into buffers
            part = slice(start, start + batch_size)
            with user_code(TrainingError, slot="model", cls=model, **_WHILE):
                outputs = functional_call(model, own, (x[part].to(device),))
            for name, rows in keep(outputs, y[part].to(device)).items():
                if name not in kept:  # not lists: what is kept between batches would scatter the heap
                    kept[name] = torch.empty((len(y), *rows.shape[1:]), dtype=rows.dtype, device=device)
                kept[name][part] = rows
    return kept
