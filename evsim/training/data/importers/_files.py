"""What importers share: files that must be there, packages that may not be, images as bytes."""

from __future__ import annotations

import csv
import gzip
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evsim.base.errors import DataError, missing_extra
from evsim.base.units import format_bytes
from evsim.training.data.columns import channels_first

_MOST_BYTES = 8 * 10**9  # unpacked
_FREE_BYTES = 256 * 10**6  # unpacked: so much is taken from any small file
_MOST_RATIO = 200  # unpacked to packed, beyond that
_GZIP = b"\x1f\x8b"
_EXACT = 1e-3  # of a byte, that a float may be off


def existing(path: Path, what: str) -> Path:
    """The path, if there is something.

    Raises:
        DataError: if not; says what was expected there.
    """
    if not path.exists():
        raise DataError(f"{path}: no such file or folder; expected {what}")
    return path


def existing_folder(path: Path, what: str) -> Path:
    """The path, if it is a folder.

    Raises:
        DataError: if not; says what was expected there.
    """
    if not existing(path, what).is_dir():
        raise DataError(f"{path}: is a file; expected {what}")
    return path


def read_rows(path: Path, needed: set[str]) -> list[dict[str, str]]:
    """Rows of a CSV file, by the names of their columns.

    Raises:
        DataError: if it is no text, lacks a column, or a row lacks a value.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            rows = csv.DictReader(lines, skipinitialspace=True)
            names = list(rows.fieldnames or ())
            if not needed <= set(names):
                raise DataError(f"{path}: columns {', '.join(names) or 'none'}; expected {', '.join(sorted(needed))}")
            found = list(rows)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as CSV: {error}") from error
    for number, row in enumerate(found, start=2):
        empty = [name for name in sorted(needed) if not row[name]]
        if empty:
            raise DataError(f"{path}: line {number} has no {', '.join(empty)}; expected a value in each row")
    return found


def read_bytes(path: Path) -> bytes:
    """The content of a file, unpacked if it is gzip."""
    try:
        if path.exists() and not path.is_file():  # a pipe would wait for ever
            raise DataError(f"{path}: not a file")
        with path.open("rb") as file:
            zipped = file.read(2) == _GZIP
        with gzip.open(path) if zipped else path.open("rb") as file:
            most = min(_MOST_BYTES, max(_FREE_BYTES, _MOST_RATIO * path.stat().st_size)) if zipped else _MOST_BYTES
            content = file.read(most + 1)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    if len(content) > most:
        raise DataError(f"{path}: larger than {format_bytes(most)} unpacked; expected a smaller file")
    return content


def open_image(source: Any, *, size: int | None = None, colours: str | None = None) -> NDArray[np.uint8]:
    """An image file as bytes, (channels, height, width); `size` makes it a square, `colours` is a mode of Pillow.

    Raises:
        DataError: if it is no image.
        MissingExtraError: if Pillow is not installed.
    """
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError as error:  # pragma: no cover - matplotlib brings it
        raise missing_extra("pillow", "images", "reading image files") from error
    try:
        with Image.open(source) as opened:
            if opened.mode.startswith(("I", "F")):
                raise DataError(f"{source}: has more than 8 bits per pixel (mode {opened.mode}); expected 8")
            image = opened.convert(colours or ("L" if opened.mode in ("1", "L") else "RGB"))
            scaled = image if size is None else image.resize((size, size), Image.Resampling.BILINEAR)
            pixels: NDArray[np.uint8] = channels_first(np.asarray(scaled, np.uint8)[None])[0]
            return pixels
    except (OSError, UnidentifiedImageError, SyntaxError) as error:
        raise DataError(f"{source}: cannot be read as an image: {error}") from error


def as_bytes(x: NDArray[Any]) -> NDArray[Any]:
    """Floats that are all whole multiples of 1/255 in 0..1 as bytes, others as they are.

    >>> as_bytes(np.array([[0.0, 1.0, 128 / 255]])).tolist()
    [[0, 255, 128]]
    """
    scaled = np.rint(x * 255)
    inside = x.size and float(x.min()) >= 0 and float(x.max()) <= 1
    return scaled.astype(np.uint8) if inside and np.abs(scaled - x * 255).max() < _EXACT else x


def texts(values: list[Any]) -> NDArray[Any]:
    """Texts as an array; bytes are UTF-8."""
    return np.array([each.decode("utf-8", "replace") if isinstance(each, bytes) else str(each) for each in values])
