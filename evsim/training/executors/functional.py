"""The model as a pure function of parameters, buffers, inputs and the key of a step.

``torch.func.functional_call`` does this too, with checks that cost more than a small model's forward pass. Here the
leaves are put into the module's own slots, on a private copy of the model.
"""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, final

import torch
from torch import nn

from evsim.algorithms import tree
from evsim.training.draws import drawn_from, named_draws
from evsim.training.executors.dropout import keyed, set_keys
from evsim.training.models.leaves import local
from evsim.training.models.modes import as_trained, evaluating, private_copy

if TYPE_CHECKING:
    from evsim.algorithms.base import Apply
    from evsim.algorithms.tree import Tree
    from evsim.training.executors.base import Job

_Slots = dict[str, list[tuple[dict[str, torch.Tensor | None], str]]]


@final
class Functional:
    """Runs the job's model; dropout and other random layers draw by the key of the step.

    Attributes:
        local: buffers that never travel, as every task begins with them.
        uses_key: whether dropout modules draw by the key.
        draws_globally: whether the model draws from the global generators of torch, NumPy or Python.
        couples_samples: whether samples of a mini-batch are known to see each other.
    """

    def __init__(self, job: Job) -> None:
        self.model = with_dense_gradients(as_trained(private_copy(job.model)))
        self._dropout = keyed(self.model)
        self._params = _slots(self.model, "_parameters")
        self._buffers = _slots(self.model, "_buffers")
        self._device, self._autocast = job.device, job.autocast
        self.local = tree.apply(torch.clone, local(self.model))
        self.uses_key = bool(self._dropout)
        self.draws_globally, self._draws_elsewhere = _draws_globally(self.model, job)
        self.couples_samples = has_batch_norm(self.model)
        self.has_convolutions = any(leaf.dim() == 4 for leaf in self.model.parameters())  # noqa: PLR2004

    def apply(self, key: torch.Tensor | None) -> Apply:
        """The model in the modes it trains in, for one step."""
        return partial(self._call, key)

    def evaluating(self, key: int) -> Apply:
        """The model in evaluation mode, for passes that do not train; what it still draws is named by the key."""
        return partial(self._evaluate, key)

    def key(self, key: int) -> torch.Tensor | None:
        """The key of a step as `apply` wants it; None if nothing is drawn."""
        return torch.tensor(key, device=self._device) if self.uses_key or self.draws_globally else None

    def _evaluate(self, key: int, params: Tree, buffers: Tree, x: torch.Tensor) -> tuple[torch.Tensor, Tree]:
        with evaluating(self.model), named_draws(key, self._device):
            return self._call(None, params, buffers, x)

    def _call(
        self, key: torch.Tensor | None, params: Tree, buffers: Tree, x: torch.Tensor
    ) -> tuple[torch.Tensor, Tree]:
        given = {**self.local, **buffers} if self.local else buffers
        own = {name: leaf.clone() for name, leaf in given.items()}  # BatchNorm writes into its buffers
        _put(self._params, params)
        _put(self._buffers, own)
        set_keys(self._dropout, key)
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._autocast):
            logits = self._seeded(key, x) if self.draws_globally and key is not None else self.model(x)
        return logits, {name: _get(self._buffers, name, leaf) for name, leaf in own.items()}

    def _seeded(self, key: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """For layers that draw from a global generator."""
        with named_draws(int(key), self._device, self._draws_elsewhere):
            logits: torch.Tensor = self.model(x)
            return logits


def has_batch_norm(model: nn.Module) -> bool:
    """Whether a model has layers in which samples of a mini-batch see each other."""
    return any(isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training for m in model.modules())  # noqa: SLF001


def with_dense_gradients(model: nn.Module) -> nn.Module:
    """The model, changed so that gradients of its embeddings are not sparse: the same numbers."""
    for module in model.modules():
        if isinstance(module, nn.Embedding | nn.EmbeddingBag):
            module.sparse = False
    return model


def _slots(model: nn.Module, kind: str) -> _Slots:
    """Where each parameter or buffer lies; a shared one lies in several modules."""
    first: dict[int, str] = {}
    found: _Slots = {}
    for path, module in model.named_modules(remove_duplicate=False):
        held: dict[str, torch.Tensor | None] = getattr(module, kind)
        for name, leaf in held.items():
            if leaf is not None:
                full = first.setdefault(id(leaf), f"{path}.{name}" if path else name)
                found.setdefault(full, []).append((held, name))
    return found


def _put(slots: _Slots, leaves: Tree) -> None:
    for name, leaf in leaves.items():
        for held, own in slots[name]:
            held[own] = leaf


def _get(slots: _Slots, name: str, default: torch.Tensor) -> torch.Tensor:
    held, own = slots[name][0]
    leaf = held[own]
    return default if leaf is None else leaf


def _draws_globally(model: nn.Module, job: Job) -> tuple[bool, bool]:
    """Whether a forward pass draws from torch's global generator, or from others, tried on two samples."""
    if len(job.data.x) == 0:
        return False, False
    trial = private_copy(model)
    x = job.data.x[:2].to(job.device).repeat_interleave(2, 0)  # never one sample alone, which BatchNorm refuses

    @torch.no_grad()
    def run() -> None:
        with suppress(Exception):  # training will say it, with client and task
            trial(x)

    torchs, others = drawn_from(run, job.device)
    return torchs or others, others
