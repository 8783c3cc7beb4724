"""What clients remember between their tasks: a chain of generations per client, stored lazily, spilled to disk.

Only clients that had an accepted task have an entry. A state is never overwritten: accepting a task appends a
generation, and `snapshot` pins the current ones, so that a checkpoint stays readable while the run goes on. Between
`begin` and the next `begin` the generations of before are kept too, so that a server step that fails can be undone.
"""

from __future__ import annotations

import tempfile
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, final

from safetensors.torch import load_file, save_file

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import torch

    from evsim.algorithms.base import State

States = dict[str, "State"]  # by place: "rule", "upload0", ...
Version = tuple[int, int]  # client, generation
StatesOf = tuple[int, int, States]  # client, generation, its states

_BUDGET = 1 << 30


@final
class ClientStates:
    """Client states within a budget of memory; the least recently used ones lie on disk.

    Args:
        budget: bytes of tensors kept in memory.
        folder: where the others go; None makes a temporary folder when it is first needed.
    """

    def __init__(self, budget: int = _BUDGET, folder: Path | None = None) -> None:
        self._budget, self._folder = budget, folder
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self._current: dict[int, int] = {}  # client -> generation
        self._memory: OrderedDict[Version, States] = OrderedDict()  # least recently used first
        self._on_disk: set[Version] = set()
        self._pinned: frozenset[Version] = frozenset()
        self._before: dict[int, int] | None = None  # client -> generation, of those that advanced since `begin`
        self.bytes_in_memory = 0

    @property
    def folder(self) -> Path | None:
        """Where states lie that do not fit in memory; None if none was needed yet."""
        return self._folder

    def __len__(self) -> int:
        return len(self._current)

    def generation(self, client: int) -> int:
        """How many accepted tasks left a state; 0 for a client that has none."""
        return self._current.get(client, 0)

    def get(self, client: int, generation: int | None = None) -> States:
        """The states of a client, {} if it has none; an older generation only while it is pinned."""
        wanted = (client, self.generation(client) if generation is None else generation)
        if wanted[1] == 0:
            return {}
        if wanted in self._memory:
            self._memory.move_to_end(wanted)
            return self._memory[wanted]
        return unflatten(load_file(self._path(wanted)))

    def put(self, client: int, states: States) -> int:
        """Append a generation; returns its number."""
        old = client, self.generation(client)
        new = client, old[1] + 1
        self._current[client] = new[1]
        if self._before is not None:
            self._before.setdefault(*old)
        self._memory[new] = states
        self.bytes_in_memory += _n_bytes(states)
        self._release(old)
        self._spill()
        return new[1]

    def begin(self) -> None:
        """What was put so far stands; what is put from now on can be undone."""
        before, self._before = self._before or {}, {}
        for version in before.items():
            self._release(version)

    def undo(self) -> None:
        """Forget what was put since `begin`."""
        before, self._before = self._before or {}, {}
        for client, generation in before.items():
            new, self._current[client] = self._current[client], generation
            self._release((client, new))
            if generation == 0:
                del self._current[client]

    def snapshot(self) -> dict[int, int]:
        """Pin the current generations and release those pinned before; returns them by client."""
        before, self._pinned = self._pinned, frozenset(self._current.items())
        for version in before - self._pinned:
            self._release(version)
        return dict(self._current)

    def live(self) -> tuple[dict[int, int], dict[int, int]]:
        """Generations by client: the current ones, and those of before of the clients that advanced since `begin`."""
        return dict(self._current), dict(self._before or {})

    def restore(self, current: Mapping[int, int], before: Mapping[int, int], states: Iterable[StatesOf]) -> None:
        """Become what `live` told of another store, with the states of all generations above 0 in it."""
        self._current, self._before = dict(current), dict(before)
        for client, generation, each in states:
            self._memory[client, generation] = each
            self.bytes_in_memory += _n_bytes(each)
            self._spill()

    def close(self) -> None:
        """Remove the temporary folder."""
        if self._temporary is not None:
            self._temporary.cleanup()

    def _release(self, version: Version) -> None:
        """Forget a generation that is neither current nor pinned, nor may come back."""
        client, generation = version
        if version in self._pinned or generation in (self._current.get(client), (self._before or {}).get(client)):
            return
        if version in self._memory:
            self.bytes_in_memory -= _n_bytes(self._memory.pop(version))
        if version in self._on_disk:
            self._on_disk.remove(version)
            self._path(version).unlink()

    def _spill(self) -> None:
        while self.bytes_in_memory > self._budget and self._memory:
            version, states = self._memory.popitem(last=False)
            self.bytes_in_memory -= _n_bytes(states)
            if version not in self._on_disk:
                save_file(flatten(states), self._path(version))
                self._on_disk.add(version)

    def _path(self, version: Version) -> Path:
        if self._folder is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="evsim-clients-")
            self._folder = Path(self._temporary.name)
        self._folder.mkdir(parents=True, exist_ok=True)
        return self._folder / f"client-{version[0]}-{version[1]}.safetensors"


def flatten(states: States) -> dict[str, torch.Tensor]:
    """Tensors by ``place|payload|name``, as a safetensors file takes them."""
    return {
        f"{place}|{payload}|{name}": leaf.contiguous().clone()  # safetensors refuses tensors that share memory
        for place, state in states.items()
        for payload, leaves in state.items()
        for name, leaf in leaves.items()
    }


def unflatten(tensors: Mapping[str, torch.Tensor]) -> States:
    """What was flattened."""
    states: States = {}
    for key, leaf in tensors.items():
        place, payload, name = key.split("|", 2)
        states.setdefault(place, {}).setdefault(payload, {})[name] = leaf
    return states


def _n_bytes(states: States) -> int:
    return sum(leaf.nbytes for state in states.values() for leaves in state.values() for leaf in leaves.values())
