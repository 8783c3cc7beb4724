"""Images in a folder per label, in folders train and test or without; a CSV file may say whose each image is.

Without a folder test, val (or validation) is the test set; beside one it is left out.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from evsim.base.errors import DataError
from evsim.training.data.importers._files import existing, existing_folder, open_image, read_rows
from evsim.training.data.table import Decoded, Table

_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm", ".ppm"}


def read(source: str, *, size: int | None = None, colours: str | None = None, clients: str | None = None) -> Table:
    """Images as bytes, labels by the names of their folders.

    Args:
        source: the folder.
        size: side in pixels to which images are scaled; default: they must have one size.
        colours: "L" (grey) or "RGB"; default: as the files are.
        clients: a CSV file with columns path (below the folder) and client.
    """
    root = existing_folder(Path(source), "a folder of folders of images")
    has_parts = (root / "train").is_dir()
    tests = [each for each in ("test", "val", "validation") if (root / each).is_dir()][:1]
    parts = [(root / "train", False), *((root / each, True) for each in tests)] if has_parts else [(root, False)]
    found = [(file, folder, is_test) for folder, is_test in parts if folder.is_dir() for file in _images(folder)]
    if not found:
        raise DataError(f"{root}: holds no image in a folder per label ({', '.join(sorted(_SUFFIXES))})")
    files = [file for file, _, _ in found]
    is_test = np.array([test for _, _, test in found])
    return Table(
        x=Decoded(np.array([str(file) for file in files]), partial(open_image, size=size, colours=colours)),
        y=np.array([file.relative_to(folder).parts[0] for file, folder, _ in found]),
        client=None if clients is None else _clients(Path(clients), root, files),
        is_test=is_test if is_test.any() else None,
    )


def _images(folder: Path) -> list[Path]:
    """Image files in folders of a folder."""
    return sorted(each for each in folder.glob("*/**/*") if each.suffix.lower() in _SUFFIXES and each.is_file())


def _clients(file: Path, root: Path, images: list[Path]) -> np.ndarray[tuple[int], np.dtype[np.str_]]:
    rows = read_rows(existing(file, "a CSV file with columns path and client"), {"path", "client"})
    owner = {row["path"]: row["client"] for row in rows}
    names = [image.relative_to(root).as_posix() for image in images]
    missing = [name for name in names if name not in owner]
    if missing:
        raise DataError(f"{file}: says no client for {len(missing)} of {len(names)} images, the first is {missing[0]}")
    return np.array([owner[name] for name in names])
