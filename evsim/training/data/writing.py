"""Writes a store: labels and clients get numbers, samples are sorted by client, bytes are hashed on their way."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import IO, Any, final

import numpy as np
from numpy.typing import NDArray

from evsim.base.errors import DataError
from evsim.base.vocabulary import IntArray
from evsim.training.data.columns import numbered, read_inputs, whole
from evsim.training.data.labels import LabelKind, check_labels, read_labels
from evsim.training.data.store import FORMAT, INPUTS, LABELS, MANIFEST, NAMES, OFFSETS, VERSION
from evsim.training.data.table import Table

_BLOCK = 32 << 20  # bytes of inputs that are read and written at a time
_FEW = 3  # names that a message shows


@final
@dataclass(frozen=True, kw_only=True)
class Limits:
    """Which natural clients are kept (FedScale's `filter_less` and `filter_more`).

    Attributes:
        min_samples: clients with fewer are left out; None: none is left out, and one without any is an error.
        max_samples: the first so many samples of a client are kept; None: all.
    """

    min_samples: int | None = None
    max_samples: int | None = None


def write_store(folder: Path, table: Table, *, about: Mapping[str, object], limits: Limits | None = None) -> None:
    """Write a store; the folder appears when everything is written.

    Args:
        folder: one that is not there yet, or is empty.
        table: the samples.
        about: what the manifest says about where they come from.
        limits: which clients are kept.

    Raises:
        DataError: if the samples cannot be used, or the folder cannot be written.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"{folder}: is there already; expected a folder that is not there yet, or is empty")
    y, n_classes, kind, label_names = _labels(table, folder.name)
    rows, offsets, client_names = _arranged(table, limits or Limits())
    n_test = len(rows) - (int(offsets[-1]) if offsets is not None else _n_train(table))
    names = {"clients": client_names, "labels": label_names, "tokens": table.vocabulary}
    with _unfinished(folder) as partial:
        files: dict[str, object] = {}
        kept, n_tokens = _write_inputs(partial / INPUTS, table, rows, files)
        kept_y = y.astype(np.min_scalar_type(max(n_classes - 1, 0))) if kind == "classes" else y
        _write_array(partial / LABELS, kept_y[rows], files)
        if offsets is not None:
            _write_array(partial / OFFSETS, offsets, files)
        _write_json(partial / NAMES, {key: list(each) for key, each in names.items() if each is not None}, files)
        manifest = {
            "format": FORMAT,
            "version": VERSION,
            "name": folder.name,
            **about,
            "inputs": "tokens" if n_tokens is not None else "images" if kept.dtype == np.uint8 else "numbers",
            "shape": list(kept.shape[1:]),
            "dtype": str(kept.dtype),
            "samples": len(rows),
            "test_samples": n_test,
            "clients": None if offsets is None else len(offsets) - 1,
            "labels": n_classes,
            "label_kind": kind,
            "tokens": n_tokens,
            "files": files,
        }
        _write_json(partial / MANIFEST, manifest, {})


def _labels(table: Table, where: str) -> tuple[NDArray[Any], int, LabelKind, tuple[str, ...] | None]:
    """Labels as they are kept, how many there are, what they are, and their names."""
    if table.y.dtype.kind in "US":
        if table.labels not in {"auto", "classes"}:
            raise DataError(f"{where}: labels are texts; expected {table.labels}")
        y, names = numbered(table.y)
        return y, len(names), "classes", tuple(map(str, names))
    y, n_classes, kind = read_labels(table.y, table.labels, where)
    check_labels(y, n_classes, kind, where)
    if table.label_names is None:
        return y, n_classes, kind, None
    if n_classes > len(table.label_names):
        raise DataError(f"label {n_classes - 1}, but names of {len(table.label_names)} labels; expected 0 to one less")
    return y, len(table.label_names), kind, table.label_names


def _n_train(table: Table) -> int:
    return len(table.y) if table.is_test is None else int((~table.is_test).sum())


def _arranged(table: Table, limits: Limits) -> tuple[IntArray, IntArray | None, tuple[str, ...] | None]:
    """Rows in the order of the store, offsets of the clients, and their names."""
    is_test = np.zeros(len(table.y), bool) if table.is_test is None else table.is_test
    train, test = np.flatnonzero(~is_test), np.flatnonzero(is_test)
    if not len(train):
        raise DataError("all samples are in the test set; expected some to learn from")
    if table.client is None:
        return np.concatenate([train, test]), None, None
    ids = table.client[train]
    owner, names = numbered(whole(ids, "the client column") if ids.dtype.kind == "f" else ids)
    order = np.argsort(owner, kind="stable")
    sizes = np.bincount(owner, minlength=len(names))
    rank = np.arange(len(train)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    keep_client = sizes >= (limits.min_samples or 0)
    keep = keep_client[owner[order]] & (rank < (limits.max_samples or len(train)))
    if not keep.any():
        raise DataError(f"no client has {limits.min_samples} samples; the largest has {sizes.max(initial=0)}")
    kept_sizes = np.minimum(sizes, limits.max_samples or len(train))[keep_client]
    offsets = np.concatenate([[0], np.cumsum(kept_sizes)]).astype(np.int64)
    return np.concatenate([train[order[keep]], test]), offsets, tuple(map(str, names[keep_client]))


def _write_inputs(
    path: Path, table: Table, rows: IntArray, files: dict[str, object]
) -> tuple[NDArray[Any], int | None]:
    """Write the inputs block by block; gives the first row as it is kept, and the size of the vocabulary."""
    first, tokens = read_inputs(np.asarray(table.x[rows[:1]]), table.inputs, path.stem)
    n_tokens = None if tokens is None else _n_tokens(table, rows)
    kept = first if n_tokens is None else first.astype(np.min_scalar_type(max(n_tokens - 1, 0)))
    size = max(1, _BLOCK // max(1, prod(first.shape[1:]) * max(first.dtype.itemsize, 4)))
    with _hashed(path, files) as file:
        _write_header(file, kept.dtype, (len(rows), *kept.shape[1:]))
        for start in range(0, len(rows), size):
            block, _ = read_inputs(np.asarray(table.x[rows[start : start + size]]), table.inputs, path.stem)
            _check_block(block, kept, rows[start : start + size])
            file.write(np.ascontiguousarray(block, kept.dtype).data)
    return kept, n_tokens


def _n_tokens(table: Table, rows: IntArray) -> int:
    if table.vocabulary is not None:
        return len(table.vocabulary)
    most = 0
    for start in range(0, len(rows), 1 << 16):
        ids = np.asarray(table.x[rows[start : start + (1 << 16)]])
        most = max(most, int(ids.max()) + 1 if ids.size else 0)
    return most


def _check_block(block: NDArray[Any], kept: NDArray[Any], rows: IntArray) -> None:
    if block.shape[1:] != kept.shape[1:]:
        raise DataError(f"sample {rows[0]}: inputs of shape {block.shape[1:]}; expected {kept.shape[1:]}, as the first")
    if (block.dtype.kind == "f") != (kept.dtype.kind == "f"):
        raise DataError(f"sample {rows[0]}: inputs in {block.dtype}; expected {kept.dtype}, as the first")
    if block.dtype.kind == "f" and not np.isfinite(block).all():
        wrong = np.flatnonzero(~np.isfinite(block.reshape(len(block), -1)).all(axis=1))
        raise DataError(f"sample {rows[wrong[0]]}: inputs hold numbers that are not finite")


# -- files -----------------------------------------------------------------------------------------------------------


@contextmanager
def _unfinished(folder: Path) -> Iterator[Path]:
    """A folder beside the one wanted, which takes its name at the end."""
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        partial.mkdir(parents=True)
        yield partial
        if folder.exists():
            folder.rmdir()
        partial.rename(folder)
    except OSError as error:
        raise DataError(f"{folder}: cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@final
class _Hashing:
    """A file that is hashed while it is written."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.digest = hashlib.sha256()
        self.size = 0

    def write(self, content: Any) -> int:
        """Write bytes."""
        self.digest.update(content)
        self.size += memoryview(content).nbytes
        return self._file.write(content)


@contextmanager
def _hashed(path: Path, files: dict[str, object]) -> Iterator[_Hashing]:
    with path.open("wb") as file:
        hashing = _Hashing(file)
        yield hashing
    files[path.name] = {"bytes": hashing.size, "sha256": hashing.digest.hexdigest()}


def _write_header(file: _Hashing, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)


def _write_array(path: Path, values: NDArray[Any], files: dict[str, object]) -> None:
    with _hashed(path, files) as file:
        _write_header(file, values.dtype, values.shape)
        file.write(np.ascontiguousarray(values).data)


def _write_json(path: Path, content: object, files: dict[str, object]) -> None:
    with _hashed(path, files) as file:
        file.write(json.dumps(content, indent=1, ensure_ascii=False).encode())
