"""Leaves that stay on the clients: a personal head, statistics of BatchNorm.

A client's task begins with its own values of them in the place of the server's, and ends with them in its state; it
sends nothing of them. They follow the client's accepted tasks, as every state does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, final

import torch

from evsim.algorithms import tree
from evsim.base.errors import ModelError, Problem, report, suggest
from evsim.training.models.leaves import averaged, trained

if TYPE_CHECKING:
    from evsim.algorithms.base import State
    from evsim.algorithms.tree import Payload
    from evsim.training.executors.base import Result, TrainTask

PLACE = "own"  # of kept leaves among a client's states


@final
@dataclass(frozen=True)
class Kept:
    """Which leaves stay, by entry of the message.

    Attributes:
        names: of parameters ("model") and of buffers ("buffers").
    """

    names: dict[str, frozenset[str]]

    @classmethod
    def of(cls, patterns: Sequence[str], model: torch.nn.Module) -> Kept:
        """The leaves of a model that patterns such as ``head.*`` name.

        Raises:
            ModelError: if a pattern names none, or nothing is left to send.
        """
        leaves = {"model": list(trained(model)), "buffers": list(averaged(model))}
        every = [name for names in leaves.values() for name in names]
        for pattern in patterns:
            if not any(fnmatchcase(name, pattern) for name in every):
                hint = suggest(pattern, every)
                raise ModelError(report([Problem("keep", f"{pattern!r} names no leaf", "patterns of names", hint)]))
        names = {entry: frozenset(name for name in own if is_kept(name, patterns)) for entry, own in leaves.items()}
        if len(names["model"]) == len(leaves["model"]):
            raise ModelError(
                report([Problem("keep", "every parameter", "some that are sent", "nothing would be learnt together")])
            )
        return cls(names)

    def __bool__(self) -> bool:
        return any(self.names.values())

    def n_bytes(self, received: Payload) -> int:
        """Size of what a client keeps."""
        return sum(received[entry][name].nbytes for entry, names in self.names.items() for name in names)

    def into(self, received: Payload, own: State) -> Payload:
        """A message with the client's own leaves in the place of the server's."""
        return {**received, **{entry: {**received[entry], **leaves} for entry, leaves in own.items()}}

    def task(self, task: TrainTask, own: State | None) -> TrainTask:
        """A task that begins with what the client kept, if it kept anything."""
        return task if own is None else replace(task, received=self.into(task.received, own))

    def taken(self, result: Result) -> tuple[Payload, State]:
        """The update without what is kept, and the client's own leaves after the task."""
        update, received = result.update, result.task.received
        own: State = {}
        sent = dict(update)
        for entry, names in self.names.items():
            if names:
                own[entry] = {name: _plus(received[entry][name], update[entry][name]) for name in sorted(names)}
                nothing = {name: torch.zeros_like(update[entry][name]) for name in names}
                sent[entry] = {**update[entry], **nothing}
        return sent, {entry: tree.apply(lambda leaf: leaf.clone(), leaves) for entry, leaves in own.items()}


def is_kept(name: str, patterns: Sequence[str]) -> bool:
    """Whether a leaf is named by one of the patterns."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _plus(leaf: torch.Tensor, gained: torch.Tensor) -> torch.Tensor:
    return leaf + gained.to(leaf.dtype)
