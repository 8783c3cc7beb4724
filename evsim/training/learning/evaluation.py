"""Evaluation of a model version on the central test set, or on each client's own samples."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.func import functional_call

if TYPE_CHECKING:
    from evsim.algorithms.tree import Tree
    from evsim.base.vocabulary import FloatArray
    from evsim.training.data.samples import Inputs, TrainingData


@torch.no_grad()
def evaluate(
    model: torch.nn.Module, state: tuple[Tree, Tree], x: torch.Tensor | Inputs, y: torch.Tensor, batch_size: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss of each sample (float64) and whether its largest logit is right; two tensors of shape (samples,).

    The samples may lie in host memory.
    """
    device = next((leaf.device for leaf in model.parameters()), x.device)
    model.eval()
    try:
        losses = torch.empty(len(y), dtype=torch.float64, device=device)  # not lists: what is kept between
        hits = torch.empty(len(y), dtype=torch.bool, device=device)  # batches would scatter the heap
        for start in range(0, len(y), batch_size):
            part = slice(start, start + batch_size)
            logits = functional_call(model, state, (x[part].to(device),))
            labels = y[part].to(device)
            losses[part] = torch.nn.functional.cross_entropy(logits.double(), labels, reduction="none")
            hits[part] = logits.argmax(-1) == labels
        return losses, hits
    finally:
        model.train()


def summarize(losses: torch.Tensor, hits: torch.Tensor) -> dict[str, float]:
    """Mean loss and accuracy."""
    return {"loss": float(losses.mean()), "accuracy": float(hits.double().mean())}


def per_client(losses: torch.Tensor, hits: torch.Tensor, data: TrainingData) -> dict[str, FloatArray]:
    """Mean loss and accuracy of each client over its own samples; NaN for clients without any.

    `losses` and `hits` have one entry per row of ``data.x``.
    """
    sizes = np.diff(data.offsets)
    found = {}
    for name, values in (("loss", losses), ("accuracy", hits.double())):
        own = values.cpu().numpy()[data.index]
        sums = np.concatenate([[0.0], np.cumsum(own)])
        totals = sums[data.offsets[1:]] - sums[data.offsets[:-1]]
        found[name] = np.divide(totals, sizes, out=np.full(len(sizes), np.nan), where=sizes > 0)
    return found
