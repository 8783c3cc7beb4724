"""NumPy arrays: ``.npy`` files in a folder, mapped and never loaded whole, or an ``.npz`` archive."""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evsim.base.errors import DataError, suggest
from evsim.training.data.columns import Reading
from evsim.training.data.importers._files import existing
from evsim.training.data.labels import Labels
from evsim.training.data.npz import read_npz
from evsim.training.data.table import Table, stacked


def read(  # noqa: PLR0913  each is an option of the command line
    source: str,
    *,
    x: str = "x",
    y: str = "y",
    client: str = "client",
    test: str = "test",
    inputs: Reading = "auto",
    labels: Labels = "auto",
) -> Table:
    """Arrays x, y and, where there is one, client; x_test and y_test are a test set.

    Args:
        source: a folder with x.npy, y.npy, client.npy, or an archive with such arrays.
        x: name of the array of inputs.
        y: name of the labels.
        client: name of the array that says whose a sample is.
        test: what the names of the test set's arrays end with, after an underscore.
        inputs: what integers in x are: "numbers" or "tokens"; "auto": bytes with two or three axes are images.
        labels: what y holds: "classes", "steps", "flags" or "numbers"; "auto": as in the data set `arrays`.
    """
    root = existing(Path(source), "a folder with x.npy and y.npy, or an .npz archive")
    arrays = _folder(root) if root.is_dir() else _archive(root)
    if client not in arrays and f"{client}s" in arrays:
        client = f"{client}s"
    parts = [_part(arrays, (x, y, client), root, inputs, is_test=False)]
    if f"{x}_{test}" in arrays:
        parts.append(_part(arrays, (f"{x}_{test}", f"{y}_{test}", ""), root, inputs, is_test=True))
    if len(parts) == 1:
        return replace(parts[0], labels=labels)
    if parts[0].client is not None:
        parts[1] = _of_nobody(parts[1], parts[0].client)
    return replace(stacked(parts), labels=labels)


def _part(
    arrays: dict[str, NDArray[Any]], names: tuple[str, str, str], root: Path, inputs: Reading, *, is_test: bool
) -> Table:
    for name in names[:2]:
        if name not in arrays:
            raise DataError(f"{root}: has no array {name!r}; {suggest(name, arrays)}")
    x, y, client = (arrays.get(name) for name in names)
    if x is None or y is None or x.ndim == 0 or y.ndim == 0:
        raise DataError(f"{root}: arrays without an axis of samples; expected (n, ...) and (n,)")
    return Table(x=x, y=np.asarray(y), client=client, is_test=np.full(len(x), is_test), inputs=inputs)


def _of_nobody(test: Table, client: NDArray[Any]) -> Table:
    """A test set beside a client column: its rows need an entry, which is not used."""
    return Table(
        x=test.x, y=test.y, client=np.resize(client[:1], len(test.y)), is_test=test.is_test, inputs=test.inputs
    )


def _folder(root: Path) -> dict[str, NDArray[Any]]:
    try:
        return {file.stem: np.load(file, mmap_mode="r", allow_pickle=False) for file in sorted(root.glob("*.npy"))}
    except (ValueError, OSError, EOFError) as error:
        raise DataError(f"{root}: cannot be read without pickles: {error}") from error


def _archive(file: Path) -> dict[str, NDArray[Any]]:
    if not zipfile.is_zipfile(file):
        raise DataError(f"{file}: is no .npz archive; expected arrays x, y and optionally client")
    try:
        return read_npz(file)[0]
    except (ValueError, OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{file}: cannot be read without pickles: {error}") from error
