"""idx files: MNIST, Fashion-MNIST, EMNIST, plain or gzip (LeCun's format: a magic number, big-endian sizes, bytes)."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evsim.base.errors import DataError
from evsim.training.data.importers._files import existing_folder, read_bytes
from evsim.training.data.table import Table, stacked

_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def read(source: str, *, prefix: str = "", transposed: bool = False) -> Table:
    """Images and labels, train and test.

    Args:
        source: a folder with ``train-images-idx3-ubyte``, ``train-labels-idx1-ubyte``, those of ``t10k`` or ``test``.
        prefix: what names begin with before train and test, such as "emnist-byclass-".
        transposed: swap rows and columns: EMNIST's images lie on their side.
    """
    root = existing_folder(Path(source), "a folder of idx files")
    train, test = _part(root, f"{prefix}train"), _part(root, f"{prefix}t10k", f"{prefix}test")
    tables = []
    for (x, y), is_test in ((train, False), (test, True)):
        images = x.swapaxes(1, 2) if transposed else x
        tables.append(Table(x=images, y=y, is_test=np.full(len(y), is_test)))
    return stacked(tables)


def read_idx(path: Path) -> NDArray[Any]:
    """The array of an idx file.

    Raises:
        DataError: if it is none, or has fewer or more values than it says.
    """
    content = read_bytes(path)
    zeros, kind, axes = struct.unpack(">HBB", content[:4]) if len(content) >= 4 else (1, 0, 0)  # noqa: PLR2004
    if zeros or kind not in _TYPES or not axes or len(content) < 4 + 4 * axes:
        raise DataError(f"{path}: is no idx file (it begins with {content[:4].hex() or 'nothing'})")
    shape = struct.unpack(f">{axes}I", content[4 : 4 + 4 * axes])
    dtype = np.dtype(_TYPES[kind])
    wanted, found = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize, len(content) - 4 - 4 * axes
    if wanted != found:
        raise DataError(f"{path}: {found} bytes of values; expected {wanted} for shape {shape}: is it cut short?")
    values = np.frombuffer(content, dtype, offset=4 + 4 * axes).reshape(shape)
    return values.astype(dtype.newbyteorder("="))


def _part(root: Path, *names: str) -> tuple[NDArray[Any], NDArray[Any]]:
    images, labels = (_find(root, names, what) for what in ("images-idx3-ubyte", "labels-idx1-ubyte"))
    x, y = read_idx(images), read_idx(labels)
    if len(x) != len(y):
        raise DataError(f"{images} has {len(x)} images and {labels.name} {len(y)} labels; expected as many")
    return x, y


def _find(root: Path, names: tuple[str, ...], what: str) -> Path:
    wanted = [
        f"{name}-{form}{end}" for name in names for form in (what, what.replace("-idx", ".idx")) for end in ("", ".gz")
    ]
    found = next((root / name for name in wanted if (root / name).is_file()), None)
    if found is None:
        there = ", ".join(sorted(each.name for each in root.iterdir())[:6]) if root.is_dir() else "no folder"
        raise DataError(f"{root}: no file {wanted[0]} (plain or .gz); there is: {there or 'nothing'}")
    return found
