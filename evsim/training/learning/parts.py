"""Who gets which message: one per version, or one per version and group of clients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, final

import numpy as np
import torch

from evsim.algorithms.base import Broadcast, GroupedBroadcast
from evsim.algorithms.clients import Part
from evsim.base.errors import PolicyError, Problem, TrainingError, report
from evsim.base.user_code import user_code
from evsim.base.vocabulary import IntArray
from evsim.training.executors.functional import Functional
from evsim.training.models.leaves import averaged, trained

if TYPE_CHECKING:
    from evsim.algorithms.clients import ClientInfo
    from evsim.algorithms.tree import Payload
    from evsim.training.executors.base import Job


def parts_of_model(broadcast: GroupedBroadcast, model: torch.nn.Module) -> list[Part]:
    """The part of the model that each group holds.

    Raises:
        PolicyError: if the broadcast raises, or names positions that a leaf does not have.
    """
    shapes = {name: tuple(leaf.shape) for name, leaf in (*trained(model).items(), *averaged(model).items())}
    with user_code(PolicyError, slot="broadcast", cls=broadcast):
        return [
            Part({name: broadcast.part(name, shape, group) for name, shape in shapes.items()}, shapes)
            for group in range(broadcast.n_groups)
        ]


def groups_of(broadcast: Broadcast, clients: ClientInfo) -> IntArray:
    """The group of each client; all 0 where the message does not differ.

    Raises:
        PolicyError: if a client has none, or a group has no client that has data.
    """
    if not isinstance(broadcast, GroupedBroadcast):
        return np.zeros(len(clients), np.int64)
    with user_code(PolicyError, slot="broadcast", cls=broadcast, step="groups"):
        found, count = broadcast.groups(clients), broadcast.n_groups
    where = f"broadcast {type(broadcast).__name__}.groups"
    if not isinstance(found, np.ndarray) or found.dtype.kind not in "iu" or found.shape != (len(clients),):
        given = f"{type(found).__name__} {getattr(found, 'shape', '')} {getattr(found, 'dtype', '')}".strip()
        raise PolicyError(report([Problem(where, given, f"an array of {len(clients)} integers")]))
    outside = (found < 0) | (found >= count)
    if outside.any():
        client = int(np.flatnonzero(outside)[0])
        given, expected = f"group {int(found[client])} for client {client}", f"groups from 0 to {count - 1}"
        raise PolicyError(report([Problem(where, given, expected)]))
    empty = np.flatnonzero(np.bincount(found[clients.samples > 0], minlength=count) == 0)
    if len(empty):
        given = f"group {int(empty[0])} of {count} has no client with data"
        hint = "leave it out, or give it some: nobody would ever train its part"
        raise PolicyError(report([Problem(where, given, "clients in every group", hint)]))
    return found.astype(np.int64)


@final
class Messages:
    """The messages of the current version, each made once; the same object for all who get the same.

    Args:
        broadcast: what is sent.
        job: the model and the precision of training.
        groups: of each client.
    """

    def __init__(self, broadcast: Broadcast, job: Job, groups: IntArray) -> None:
        self._groups = groups
        #: By group; empty where everybody gets the whole model.
        self.parts: list[Part] = parts_of_model(broadcast, job.model) if isinstance(broadcast, GroupedBroadcast) else []
        self._made: tuple[int, Payload, dict[int, Payload]] | None = None
        for group, part in enumerate(self.parts):
            _try(broadcast, job, group, part)

    def group_of(self, client: int) -> int:
        """The client's group."""
        return int(self._groups[client]) if self.parts else 0

    def by_group(self, tasks: Sequence[int], clients: Sequence[int]) -> dict[int, list[int]]:
        """Places of tasks by the group of their clients, groups ascending."""
        found: dict[int, list[int]] = {group: [] for group in range(len(self.parts))}
        for place, client in enumerate(clients):
            found[self.group_of(client)].append(place)
        return {group: places for group, places in found.items() if places}

    def of(self, client: int, version: int, whole: Callable[[], Payload]) -> Payload:
        """What a client gets from a version."""
        if self._made is None or self._made[0] != version:
            self._made = version, whole(), {}
        if not self.parts:
            return self._made[1]
        group, made = self.group_of(client), self._made[2]
        if group not in made:
            made[group] = self.parts[group].of(self._made[1])
        return made[group]

    def whole(self, version: int, whole: Callable[[], Payload]) -> Payload:
        """What one would get that holds everything."""
        if self._made is None or self._made[0] != version:
            self._made = version, whole(), {}
        return self._made[1]

    def restore(self, version: int, made: dict[int, Payload]) -> None:
        """Become what another run had sent of its current version, by group."""
        if not self.parts:
            self._made = (version, made[0], {}) if made else None
        else:
            self._made = None  # cut again when it is asked for; what waits keeps its own


def _try(broadcast: Broadcast, job: Job, group: int, part: Part) -> None:
    """One training pass over two samples through the sub-model.

    Raises:
        TrainingError: if it does not fit.
    """
    if len(job.data.index) == 0:
        return
    whole = {
        "model": {name: leaf.detach() for name, leaf in trained(job.model).items()},
        "buffers": averaged(job.model),
    }
    cut = part.of(whole)
    x, _ = job.data.take(job.data.rows(job.data.index[[0, -1]]))
    with user_code(
        TrainingError, slot="broadcast", cls=broadcast, group=group, **{"while": "its part of the model is tried"}
    ):
        output, _ = Functional(job).apply(torch.tensor(0, device=job.device))(cut["model"], cut["buffers"], x)
    full, _ = Functional(job).apply(torch.tensor(0, device=job.device))(whole["model"], whole["buffers"], x)
    if output.shape != full.shape:
        where = f"broadcast {type(broadcast).__name__}, group {group}"
        given = f"a part of the model that gives outputs of shape {tuple(output.shape)}"
        raise TrainingError(report([Problem(where, given, f"{tuple(full.shape)}, as the whole model gives")]))
