"""Your own data: a folder of ``.npz`` files with arrays x, y and, for a natural partition, client."""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from evsim.base.errors import DataError, suggest
from evsim.base.vocabulary import BoolArray, IntArray
from evsim.training.data.base import DataSet, Samples
from evsim.training.data.columns import Reading, numbered, read_inputs, whole
from evsim.training.data.labels import Labels, read_labels
from evsim.training.data.npz import read_npz

#: How a damaged archive fails: encrypted, packed in unknown ways, with a header that is no Python.
_BROKEN = (OSError, EOFError, ValueError, SyntaxError, RuntimeError, MemoryError, zipfile.BadZipFile, zlib.error)
_Part = dict[str, NDArray[Any]]
_NAMES = {"x": "x", "y": "y", "client": "client", "clients": "client"}  # as they are called, as we call them
_MOST_AXES = {"y": 2, "client": 1}
_WANTED = {
    "x": ("fiu", "numbers"),
    "y": ("fiub", "whole numbers from 0, the labels,"),
    "client": ("fiuU", "whole numbers or texts"),
}


@final
@dataclass(frozen=True, kw_only=True)
class Arrays(DataSet):
    """All ``.npz`` files of a folder, in order of their names.

    Each holds x (n, ...): floats, images in uint8, or integers for token ids; y (n,) classes from 0, or (n, m) as
    `labels` says; optionally client (n,): an integer or a text per sample that says whose it is. Nothing is unpickled.

    Attributes:
        path: the folder; a relative one is looked up beside the scenario file.
        test: name of the file of that folder which is the test set; None: a share of all samples is split off.
        inputs: what integers in x are: "numbers" (uint8, used as 0 to 1) or "tokens"; "auto": images of two or three
            axes in uint8 are numbers, other integers token ids.
        labels: what y holds: "classes", one per sample; "steps", one per time step, -1 for none; "flags", zeros and
            ones; "numbers", to be predicted; "auto": of one axis classes, of two axes flags if all are 0 or 1, steps if
            they are other whole numbers, numbers if floats.
    """

    path: str
    test: str | None = None
    inputs: Reading = "auto"
    labels: Labels = "auto"

    @override
    def load(self, *, n_clients: int | None, seed: int, folder: Path) -> Samples:
        files = self._files(folder)
        parts = [_read(file) for file in files]
        try:
            x = parts[0]["x"] if len(parts) == 1 else np.concatenate([part["x"] for part in parts])
        except ValueError as error:
            raise DataError(f"{self.path}: the arrays of its files do not fit together: {error}") from error
        x, tokens = read_inputs(x, self.inputs, self.path)
        y, n_classes, labels = read_labels(self._joined(parts), self.labels, self.path, f"{self.path}: y")
        is_test = None
        if self.test is not None:
            is_test = np.repeat([file.name == self.test for file in files], [len(part["y"]) for part in parts])
        groups = _groups(self.path, parts, is_test)
        return Samples(x, y, n_classes, groups, Path(self.path).name, tokens, is_test, labels)

    def _joined(self, parts: list[_Part]) -> NDArray[Any]:
        try:
            return np.concatenate([part["y"] for part in parts])
        except ValueError as error:
            raise DataError(f"{self.path}: the labels of its files do not fit together: {error}") from error

    def _files(self, folder: Path) -> list[Path]:
        root = folder / self.path
        if not root.is_dir():
            raise DataError(f"data.dataset.path: {self.path!r} is no folder ({root}); expected a folder of .npz files")
        files = sorted(root.glob("*.npz"))
        if not files:
            raise DataError(f"data.dataset.path: {self.path!r} holds no .npz file; expected arrays x, y and client")
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
    if len({each.dtype.kind for each in ids}) > 1:
        raise DataError(f"{where}: array 'client' holds integers in some files and texts in others")
    groups = np.full(sum(len(part["y"]) for part in parts), -1, np.int64)
    groups[slice(None) if is_test is None else ~is_test] = numbered(np.concatenate(ids))[0]
    return groups


def _train_parts(parts: list[_Part], is_test: BoolArray) -> list[bool]:
    starts = np.cumsum([0, *(len(part["y"]) for part in parts)])[:-1]
    return [not (len(part["y"]) and is_test[start]) for part, start in zip(parts, starts, strict=True)]


def _read(file: Path) -> _Part:
    if not zipfile.is_zipfile(file):
        raise DataError(f"{file.name}: is no .npz archive; expected arrays x, y and optionally client")
    try:
        named, found = read_npz(file, set(_NAMES))
        arrays = {_NAMES[name]: array for name, array in named.items()}
    except _BROKEN as error:
        raise DataError(f"{file.name}: cannot be read as .npz without pickles: {error}") from error
    if {"client", "clients"} <= set(found):
        raise DataError(f"{file.name}: has both arrays 'client' and 'clients'; expected one of them")
    return _checked(file.name, arrays, found)


def _checked(name: str, arrays: _Part, found: list[str]) -> _Part:
    for key, (kinds, expected) in _WANTED.items():
        if key not in arrays:
            if key != "client":
                raise DataError(
                    f"{name}: has no array {key!r}; expected x, y and optionally client; {suggest(key, found)}"
                )
            continue
        array = arrays[key]
        if array.dtype.kind not in kinds or array.ndim == 0 or array.ndim > _MOST_AXES.get(key, array.ndim):
            raise DataError(f"{name}: {key} holds {array.dtype} of shape {array.shape}; expected {expected} per sample")
        if key == "client" and array.dtype.kind != "U":
            arrays[key] = whole(array, f"{name}: {key}")
    if len({len(array) for array in arrays.values()}) > 1:
        sizes = ", ".join(f"{key}: {len(arrays[key])}" for key in _WANTED if key in arrays)
        raise DataError(f"{name}: arrays differ in length ({sizes})")
    return arrays
