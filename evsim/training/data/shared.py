"""Data sets that several processes load, one after the other or at once: read once, then mapped by all.

Inside `sharing(folder)` a data set that is large enough is written there by the first who asks for it, while the others
wait. What is mapped is read from the page cache of the system, which holds it once for all processes, and can let go of
it. The numbers are the same.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from evsim.base.lock import waiting_for
from evsim.training.data.gathered import Gathered, Values

if TYPE_CHECKING:
    from evsim.training.data.base import DataSet, Samples

_WORTH_BYTES = 8 << 20  # of inputs: less is loaded faster than it is shared
_BLOCK = 1 << 24

_folder: ContextVar[Path | None] = ContextVar("shared data", default=None)


@contextmanager
def sharing(folder: Path | None) -> Iterator[None]:
    """Share what is loaded inside with all who share this folder; None: share nothing."""
    token = _folder.set(folder)
    try:
        yield
    finally:
        _folder.reset(token)


def load(dataset: DataSet, *, n_clients: int | None, seed: int, folder: Path) -> Samples:
    """What `dataset.load` gives; its inputs mapped if they are shared."""
    shared, name = _folder.get(), repr(dataset)
    if shared is None or " object at 0x" in name:  # a plug-in that does not say what it is
        return dataset.load(n_clients=n_clients, seed=seed, folder=folder)
    asked = repr((type(dataset).__module__, name, n_clients, seed, str(folder.resolve())))
    key = shared / hashlib.blake2b(asked.encode(), digest_size=16).hexdigest()
    with waiting_for(key.with_suffix(".lock")):
        if key.with_suffix(".npz").exists():
            return _read(key)
        found = dataset.load(n_clients=n_clients, seed=seed, folder=folder)
        if not _is_worth_it(found.x):
            return found
        try:
            _write(found, key)
        except OSError:  # a full disk is no reason to train nothing
            return found
    del found
    return _read(key)


def _is_worth_it(x: Values) -> bool:
    """Whether inputs are large, in memory, and of a type that means the same if it is mapped."""
    if isinstance(x, Gathered) or x.nbytes < _WORTH_BYTES or not x.flags.writeable:
        return False  # what cannot be written is mapped already
    return x.dtype == np.uint8 or x.dtype.kind == "f" or (x.dtype.kind in "iu" and x.dtype.itemsize > 1)


def _write(samples: Samples, key: Path) -> None:
    x = np.ascontiguousarray(samples.x)
    inputs = key.with_name(f"x-{_digest(x)}.npy")  # of every seed the same, for most data sets
    if not inputs.exists():
        _whole(inputs, lambda file: np.save(file, x, allow_pickle=False))
    kept = ("name", "n_classes", "n_tokens", "labels")
    told = {"inputs": inputs.name, **{name: getattr(samples, name) for name in kept}}
    columns = {
        name: getattr(samples, name) for name in ("y", "groups", "is_test") if getattr(samples, name) is not None
    }
    told_as_array = np.array(json.dumps(told))
    _whole(key.with_suffix(".npz"), lambda file: np.savez(file, allow_pickle=False, told=told_as_array, **columns))


def _read(key: Path) -> Samples:
    from evsim.training.data.base import Samples

    with np.load(key.with_suffix(".npz"), allow_pickle=False) as file:
        columns: dict[str, NDArray[Any]] = {name: file[name] for name in file.files if name != "told"}
        told = json.loads(str(file["told"]))
    mapped: np.memmap[Any, Any] = np.load(key.with_name(told["inputs"]), mmap_mode="r", allow_pickle=False)
    x, y, groups, is_test = (
        Gathered(mapped.view(np.ndarray)),
        columns["y"],
        columns.get("groups"),
        columns.get("is_test"),
    )
    return Samples(x, y, told["n_classes"], groups, told["name"], told["n_tokens"], is_test, told["labels"])


def _whole(path: Path, write: Any) -> None:
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as file:
        write(file)
    temporary.replace(path)


def _digest(x: NDArray[Any]) -> str:
    found = hashlib.blake2b(f"{x.dtype} {x.shape}".encode(), digest_size=16)
    flat = x.reshape(-1).view(np.uint8)
    for start in range(0, len(flat), _BLOCK):
        found.update(flat[start : start + _BLOCK].data)
    return found.hexdigest()
