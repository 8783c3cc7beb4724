"""FedRep: a head for every client and a body for all, trained one after the other.

Collins, Hassani, Mokhtari, Shakkottai, Exploiting Shared Representations for Personalized Federated Learning, ICML
2021, algorithm 1: first the head on the body as received, then the body under the new head; only the body is sent.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, final

import torch
from typing_extensions import override

from evsim.algorithms import tree
from evsim.algorithms.base import Carry, State
from evsim.algorithms.local_sgd import LocalSgd
from evsim.base.errors import Problem, require

if TYPE_CHECKING:
    from collections.abc import Iterator

    from evsim.algorithms.tree import Payload, Tree


@final
@dataclass(frozen=True, kw_only=True)
class FedRep(LocalSgd):
    """Of `epochs` passes the first `head_epochs` move the head alone, the others the body alone.

    A part that rests is left as it is: no gradient, no weight decay, no momentum; `clip_norm` looks at the other part
    alone. The scenario's `keep` must name the head as well, so that it stays on its client. Every pass costs a whole
    training pass, though a pass for the head could spare the gradients of the body.

    Attributes:
        head: patterns of the names of the head's parameters, as in `keep`.
        head_epochs: passes for the head; `epochs` must be a whole number above it.
    """

    knows = ("samples",)

    head: tuple[str, ...]
    head_epochs: int

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        require(len(self.head) > 0, "head must name parameters")
        require(self.head_epochs >= 1, "head_epochs must be >= 1", head_epochs=self.head_epochs)
        whole = isinstance(self.epochs, int) and self.epochs > self.head_epochs
        require(whole, "epochs must be a whole number > head_epochs", epochs=self.epochs, head_epochs=self.head_epochs)

    @override
    def problems(self, scenario: Any) -> Iterator[Problem]:
        if not set(self.head) <= set(scenario.keep):
            given = f"{list(scenario.keep)}, without the head"
            yield Problem("keep", given, f"the patterns of client_rule.head, {list(self.head)}")

    @override
    def begin(self, received: Payload, state: State, version: torch.Tensor) -> Carry:
        left = self._head_steps(state["client"]["samples"])
        return {**super().begin(received, state, version), "phase": {"left": left + torch.zeros_like(version)}}

    @override
    def step(self, carry: Carry, grads: Tree, received: Payload, state: State) -> Carry:
        left = carry["phase"]["left"]
        grads = self._chosen(left, grads, tree.zeros(grads))
        moved = super().step(carry, grads, received, state)
        for entry in ("train", "velocity"):
            if entry in moved:
                moved = {**moved, entry: self._chosen(left, moved[entry], carry[entry])}
        return {**moved, "phase": {"left": left - 1}}

    @override
    def direction(self, grads: Tree, carry: Carry, received: Payload, state: State) -> Tree:
        return grads

    def _head_steps(self, samples: torch.Tensor) -> torch.Tensor:
        """Steps in the passes for the head."""
        size = self.batch_size
        per_pass = torch.clamp(samples // size, min=1) if self.drop_last else (samples + size - 1) // size
        return self.head_epochs * per_pass

    def _chosen(self, left: torch.Tensor, active: Tree, resting: Tree) -> Tree:
        """The leaves of `active` that move in this step, of the others those of `resting`."""
        for_head = left > 0
        found = {}
        for name, leaf in active.items():
            is_head = any(fnmatchcase(name, pattern) for pattern in self.head)
            moves = for_head if is_head else ~for_head
            found[name] = torch.where(
                moves.reshape(moves.shape + (1,) * (leaf.dim() - moves.dim())), leaf, resting[name]
            )
        return found
