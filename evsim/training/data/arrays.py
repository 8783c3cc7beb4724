"""Your own data: a folder of ``.npz`` files with arrays x, y and, for a natural partition, client."""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import dataclass
from os.path import normpath
from pathlib import Path
from typing import Any, final

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from evsim.base.errors import DataError, require
from evsim.base.vocabulary import BoolArray, IntArray
from evsim.training.data.base import DataSet, Samples

_Part = dict[str, NDArray[Any]]
_MOST_LABELS = 10_000  # more, and more than samples, is a sign that y holds something else than labels


@final
@dataclass(frozen=True, kw_only=True)
class Arrays(DataSet):
    """All ``.npz`` files of a folder, in order of their names.

    Each holds x (n, ...): floats, or integers for token ids; y (n,) labels from 0; optionally client (n,): an integer
    or a text per sample that says whose it is. Nothing is unpickled.

    Attributes:
        path: the folder, relative to the scenario file and not above it; a symbolic link may lead elsewhere.
        test: name of the file of that folder which is the test set; None: a share of all samples is split off.
    """

    path: str
    test: str | None = None

    def __post_init__(self) -> None:
        inside = not Path(self.path).is_absolute() and ".." not in Path(normpath(self.path)).parts
        require(inside, "path must lead to a folder beside the scenario file or below", path=self.path)

    @override
    def load(self, *, n_clients: int | None, seed: int, folder: Path) -> Samples:
        files = self._files(folder)
        parts = [_read(file) for file in files]
        try:
            with np.errstate(over="ignore"):  # too large for float32 becomes infinite, which Samples refuses
                x = _inputs(np.concatenate([part["x"] for part in parts]))
        except ValueError as error:
            raise DataError(f"{self.path}: the arrays of its files do not fit together: {error}") from error
        y = np.concatenate([part["y"] for part in parts]).astype(np.int64)
        n_classes = int(y.max(initial=-1)) + 1
        if n_classes > max(_MOST_LABELS, len(y)):
            raise DataError(f"{self.path}: label {n_classes - 1} among {len(y)} samples; expected labels 0, 1, 2 ...")
        is_test = None
        if self.test is not None:
            is_test = np.repeat([file.name == self.test for file in files], [len(part["y"]) for part in parts])
        tokens = int(x.max(initial=-1)) + 1 if np.issubdtype(x.dtype, np.integer) else None
        return Samples(x, y, n_classes, _groups(self.path, parts, is_test), Path(self.path).name, tokens, is_test)

    def _files(self, folder: Path) -> list[Path]:
        root = folder / self.path
        if not root.is_dir():
            raise DataError(f"data.dataset.path: {self.path!r} is no folder; expected a folder of .npz files")
        files = sorted(root.glob("*.npz"))
        if not files:
            raise DataError(f"data.dataset.path: {self.path!r} holds no .npz file")
        names = [file.name for file in files]
        if self.test is not None and self.test not in names:
            raise DataError(f"data.dataset.test: no file {self.test!r}; expected one of {', '.join(names)}")
        return files


def _groups(where: str, parts: list[_Part], is_test: BoolArray | None) -> IntArray | None:
    """Client numbers in the order of their ids; -1 for the rows of a test file, which needs no clients."""
    is_train = [True] * len(parts) if is_test is None else _train_parts(parts, is_test)
    named = ["client" in part for part, train in zip(parts, is_train, strict=True) if train]
    if not any(named):
        return None
    if not all(named):
        raise DataError(f"{where}: some files have an array 'client' and others have none")
    ids = [part["client"] for part, train in zip(parts, is_train, strict=True) if train]
    if len({each.dtype.kind in "iu" for each in ids}) > 1:
        raise DataError(f"{where}: array 'client' holds integers in some files and texts in others")
    codes = np.unique(np.concatenate(ids), return_inverse=True)[1].astype(np.int64)
    groups = np.full(sum(len(part["y"]) for part in parts), -1, np.int64)
    groups[slice(None) if is_test is None else ~is_test] = codes
    return groups


def _train_parts(parts: list[_Part], is_test: BoolArray) -> list[bool]:
    starts = np.cumsum([0, *(len(part["y"]) for part in parts)])[:-1]
    return [not (len(part["y"]) and is_test[start]) for part, start in zip(parts, starts, strict=True)]


def _inputs(x: NDArray[Any]) -> NDArray[Any]:
    """Floats in float32, token ids in int64."""
    if not np.issubdtype(x.dtype, np.integer):
        return x.astype(np.float32)
    ids = x.astype(np.int64)
    if ids.min(initial=0) < 0:
        raise DataError(f"x holds the token id {ids.min()}; expected token ids from 0 (numbers must be floats)")
    return ids


def _read(file: Path) -> _Part:
    if not zipfile.is_zipfile(file):
        raise DataError(f"{file.name}: is no .npz archive; expected arrays x, y and optionally client")
    try:
        with np.load(file, allow_pickle=False) as content:
            arrays = {name: content[name] for name in ("x", "y", "client") if name in content}
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{file.name}: cannot be read as .npz without pickles: {error}") from error
    _check(file.name, arrays)
    return arrays


def _check(name: str, arrays: _Part) -> None:
    wanted = {"x": ("fiu", "numbers"), "y": ("iu", "integer labels from 0"), "client": ("iuU", "integers or texts")}
    for key, (kinds, expected) in wanted.items():
        if key not in arrays:
            if key != "client":
                raise DataError(f"{name}: has no array {key!r}; expected x, y and optionally client")
            continue
        array = arrays[key]
        if array.dtype.kind not in kinds or array.ndim == 0 or (key != "x" and array.ndim > 1):
            raise DataError(f"{name}: {key} holds {array.dtype} of shape {array.shape}; expected {expected} per sample")
    if len({len(array) for array in arrays.values()}) > 1:
        sizes = ", ".join(f"{key}: {len(array)}" for key, array in arrays.items())
        raise DataError(f"{name}: arrays differ in length ({sizes})")
