"""Evaluation of a model version on the central test set, or on each client's own samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np
import torch
from torch.func import functional_call

from evsim.base.errors import TrainingError
from evsim.base.user_code import user_code
from evsim.training.data.samples import Inputs
from evsim.training.draws import named_draws
from evsim.training.models.leaves import local
from evsim.training.models.modes import evaluating

if TYPE_CHECKING:
    from evsim.algorithms.tree import Tree
    from evsim.base.vocabulary import FloatArray, IntArray

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


@torch.no_grad()
def evaluate(
    model: torch.nn.Module, state: tuple[Tree, Tree], x: Stored, y: torch.Tensor, batch_size: int, key: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss of each sample (float64) and whether its largest logit is right; two tensors of shape (samples,).

    The samples may lie in host memory. What a model draws in evaluation mode it draws by the key.

    Raises:
        TrainingError: if the model raises anything.
    """
    params, buffers = state[0], {**local(model), **state[1]}
    device = next((leaf.device for leaf in model.parameters()), x.device)
    losses = torch.empty(len(y), dtype=torch.float64, device=device)  # not lists: what is kept between
    hits = torch.empty(len(y), dtype=torch.bool, device=device)  # batches would scatter the heap
    with evaluating(model), named_draws(key, device), user_code(TrainingError, slot="model", cls=model, **_WHILE):
        for start in range(0, len(y), batch_size):
            own = {**params, **{name: leaf.clone() for name, leaf in buffers.items()}}  # a model may write into buffers
            part = slice(start, start + batch_size)
            logits = functional_call(model, own, (x[part].to(device),))
            labels = y[part].to(device)
            losses[part] = torch.nn.functional.cross_entropy(logits.double(), labels, reduction="none")
            hits[part] = logits.argmax(-1) == labels
    return losses, hits


def summarize(losses: torch.Tensor, hits: torch.Tensor) -> dict[str, float]:
    """Mean loss and accuracy."""
    return {"loss": float(losses.mean()), "accuracy": float(hits.double().mean())}


def per_client(losses: torch.Tensor, hits: torch.Tensor, index: IntArray, offsets: IntArray) -> dict[str, FloatArray]:
    """Mean loss and accuracy of each client over its own samples; NaN for clients without any.

    Client i has the entries ``index[offsets[i]:offsets[i + 1]]`` of `losses` and `hits`.
    """
    sizes = np.diff(offsets)
    found = {}
    for name, values in (("loss", losses), ("accuracy", hits.double())):
        own = values.cpu().numpy()[index]
        sums = np.concatenate([[0.0], np.cumsum(own)])
        totals = sums[offsets[1:]] - sums[offsets[:-1]]
        found[name] = np.divide(totals, sizes, out=np.full(len(sizes), np.nan), where=sizes > 0)
    return found
