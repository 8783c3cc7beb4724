"""The model as a pure function of parameters, buffers, inputs and the key of a step.

``torch.func.functional_call`` does this too, with checks that cost more than a small model's forward pass. Here the
leaves are put into the module's own slots, on a private copy of the model.
"""

from __future__ import annotations

import copy
from functools import partial
from typing import TYPE_CHECKING, final

import torch
from torch import nn

from evsim.training.executors.dropout import keyed, set_keys

if TYPE_CHECKING:
    from evsim.algorithms.base import Apply
    from evsim.algorithms.tree import Tree
    from evsim.training.executors.base import Job

_Slots = dict[str, list[tuple[dict[str, torch.Tensor | None], str]]]


@final
class Functional:
    """Runs the job's model; dropout and other random layers draw by the key of the step."""

    def __init__(self, job: Job) -> None:
        self._model = copy.deepcopy(job.model).train()
        self._dropout = keyed(self._model)
        self._params = _slots(self._model, "_parameters")
        self._buffers = _slots(self._model, "_buffers")
        self._device, self._autocast = job.device.type, job.autocast
        self.uses_key = bool(self._dropout)
        self.draws_globally = _draws_globally(self._model, job)
        self.couples_samples = any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in self._model.modules())  # noqa: SLF001
        self.has_convolutions = any(leaf.dim() == 4 for leaf in self._model.parameters())  # noqa: PLR2004

    def apply(self, key: torch.Tensor | None) -> Apply:
        """The model in training mode, for one step."""
        return partial(self._call, key)

    def evaluating(self) -> Apply:
        """The model in evaluation mode, for passes that do not train."""
        return self._evaluate

    def _evaluate(self, params: Tree, buffers: Tree, x: torch.Tensor) -> tuple[torch.Tensor, Tree]:
        self._model.eval()
        try:
            return self._call(None, params, buffers, x)
        finally:
            self._model.train()

    def _call(
        self, key: torch.Tensor | None, params: Tree, buffers: Tree, x: torch.Tensor
    ) -> tuple[torch.Tensor, Tree]:
        own = {name: leaf.clone() for name, leaf in buffers.items()}  # BatchNorm writes into its buffers
        _put(self._params, params)
        _put(self._buffers, own)
        set_keys(self._dropout, key)
        with torch.autocast(self._device, torch.bfloat16, enabled=self._autocast):
            logits = self._seeded(key, x) if self.draws_globally and key is not None else self._model(x)
        return logits, {name: _get(self._buffers, name, leaf) for name, leaf in own.items()}

    def _seeded(self, key: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """For layers that draw from torch's global generator: it is seeded by the key and then put back."""
        devices = [x.device] if x.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(int(key) & (2**63 - 1))
            logits: torch.Tensor = self._model(x)
            return logits


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


@torch.no_grad()
def _draws_globally(model: nn.Module, job: Job) -> bool:
    """Whether a forward pass draws from torch's global generator, tried on two samples."""
    if len(job.data.x) == 0:
        return False
    trial = copy.deepcopy(model)
    x = job.data.x[:2].to(job.device).repeat_interleave(2, 0)  # never one sample alone, which BatchNorm refuses
    devices = [x.device] if x.device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        before = _generator_state(x.device)
        trial(x)
        return not torch.equal(before, _generator_state(x.device))


def _generator_state(device: torch.device) -> torch.Tensor:
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()
