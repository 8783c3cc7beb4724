"""Your own data: a folder of ``.npz`` files with arrays x, y and, for a natural partition, client."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
from typing_extensions import override

from evsim.errors import DataError
from evsim.training.data.base import DataSet, Samples


@final
@dataclass(frozen=True, kw_only=True)
class Arrays(DataSet):
    """All ``.npz`` files of a folder, in order of their names.

    Each holds x (n, ...): floats, or integers for token ids; y (n,) labels from 0; optionally client (n,): an integer
    or a text per sample that says whose it is. Nothing is unpickled.

    Attributes:
        path: the folder, absolute or relative to the scenario file.
    """

    path: str

    @override
    def load(self, *, n_clients: int | None, seed: int, folder: Path) -> Samples:
        root = (folder / self.path).resolve()
        if not root.is_dir():
            raise DataError(f"data.dataset.path: {self.path!r} is no folder; expected a folder of .npz files")
        files = sorted(root.glob("*.npz"))
        if not files:
            raise DataError(f"data.dataset.path: {self.path!r} holds no .npz file")
        parts = [_read(file) for file in files]
        if len({"client" in part for part in parts}) > 1:
            raise DataError(f"{self.path}: some files have an array 'client' and others have none")
        try:
            x, y = (np.concatenate([part[name] for part in parts]) for name in ("x", "y"))
        except ValueError as error:
            raise DataError(f"{self.path}: the arrays of its files do not fit together: {error}") from error
        groups = None
        if "client" in parts[0]:
            groups = np.unique(np.concatenate([part["client"] for part in parts]), return_inverse=True)[1].astype(
                np.int64
            )
        tokens = np.issubdtype(x.dtype, np.integer)
        return Samples(
            x.astype(np.int64 if tokens else np.float32),
            y.astype(np.int64),
            int(y.max()) + 1 if len(y) else 0,
            groups,
            root.name,
            int(x.max()) + 1 if tokens and x.size else None,
        )


def _read(file: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(file, allow_pickle=False) as content:
            arrays = {name: content[name] for name in ("x", "y", "client") if name in content}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise DataError(f"{file.name}: cannot be read as .npz without pickles: {error}") from error
    for name in ("x", "y"):
        if name not in arrays:
            raise DataError(f"{file.name}: has no array {name!r}; expected x, y and optionally client")
    if not np.issubdtype(arrays["y"].dtype, np.integer):
        raise DataError(f"{file.name}: y holds {arrays['y'].dtype}; expected integer labels from 0")
    if len({len(array) for array in arrays.values()}) > 1:
        sizes = ", ".join(f"{name}: {len(array)}" for name, array in arrays.items())
        raise DataError(f"{file.name}: arrays differ in length ({sizes})")
    return arrays
