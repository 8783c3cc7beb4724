"""What headers of NumPy files promise, compared with the file before memory is taken for it."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path
from typing import IO

import numpy as np

_FREE_BYTES = 256 * 10**6  # unpacked: so much is taken for any archive
_MOST_RATIO = 200  # unpacked to packed, beyond that


def check_npz(path: Path) -> None:
    """Refuse an archive that unpacks to far more than it is, or whose arrays are larger than their members.

    Raises:
        ValueError: with what does not fit, in words.
    """
    size = path.stat().st_size
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        unpacked = sum(each.file_size for each in members)
        if unpacked > max(_FREE_BYTES, _MOST_RATIO * size):
            raise ValueError(f"unpacks to {unpacked} bytes, from {size}")
        for each in members:
            if each.filename.endswith(".npy"):
                with archive.open(each) as stream:
                    _check(stream, each.file_size, each.filename)


def check_npy(path: Path) -> None:
    """Refuse an array that is larger than its file.

    Raises:
        ValueError: with what does not fit, in words.
    """
    with path.open("rb") as stream:
        _check(stream, path.stat().st_size, path.name)


def _check(stream: IO[bytes], size: int, name: str) -> None:
    try:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(stream)
    except Exception as error:  # a broken header is broken Python, which fails in any way at all
        raise ValueError(f"{name}: not a readable NumPy array: {error}") from error
    promised = math.prod(shape) * dtype.itemsize
    if not 0 <= promised <= size or any(each < 0 for each in shape):
        raise ValueError(f"{name} promises {promised} bytes in {size}")
