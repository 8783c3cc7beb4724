"""FedScale's ``client_data_mapping``: CSV files that name a client, a file and a label per sample (Lai et al. 2022).

Rows are read by their path, not by their position: FedScale's own reader counts repeated paths once, which shifts them.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evsim.base.errors import DataError
from evsim.training.data.importers._files import existing, existing_folder, open_image, read_rows
from evsim.training.data.importers.speech_commands import spectrum
from evsim.training.data.table import Decoded, Table

_MAPPING = "client_data_mapping"


def read(
    source: str,
    *,
    train: str = "train",
    test: str = "test",
    size: int | None = None,
    colours: str = "RGB",
    mels: int = 32,
) -> Table:
    """Images, sounds (one second at 16 kHz, as log-mel spectra) or arrays by client; arrays of integers are token ids.

    Args:
        source: the folder that holds the folder client_data_mapping.
        train: name of the CSV file to learn from.
        test: name of the one that is the test set, if it is there.
        size: side in pixels to which images are scaled; default: they must have one size.
        colours: "RGB", as FedScale reads images, or "L" (grey).
        mels: frequency bands of a sound.
    """
    root = existing_folder(Path(source), f"a folder that holds {_MAPPING}")
    existing(root / _MAPPING, "FedScale's mapping of samples to clients")
    rows: list[tuple[str, str, str]] = []
    counts = []
    for split in (train, test):
        file = root / _MAPPING / f"{split}.csv"
        if split == test and not file.is_file():
            continue
        found = _rows(root, existing(file, "columns client_id, sample_path, label_name, label_id"), split)
        counts.append(len(found))
        rows += found
    client, path, label = (np.array(column) for column in zip(*rows, strict=True))
    whole = np.char.isdigit(label)
    return Table(
        x=Decoded(path, partial(_decode, size=size, colours=colours, mels=mels)),
        y=label.astype(np.int64) if whole.all() else label,
        client=client.astype(np.int64) if np.char.isdigit(client).all() else client,
        is_test=np.repeat([False, True][: len(counts)], counts) if len(counts) > 1 else None,
    )


def _rows(root: Path, file: Path, split: str) -> list[tuple[str, str, str]]:
    """Client, file and label of every sample."""
    rows = read_rows(file, {"client_id", "sample_path"})
    label = next((name for name in ("label_id", "label_name") if rows and rows[0].get(name) is not None), None)
    if rows and label is None:
        raise DataError(f"{file}: columns {', '.join(rows[0])}; expected label_id or label_name beside the others")
    found = [(row["client_id"], row["sample_path"], row[label or ""] or "") for row in rows]
    if not found:
        raise DataError(f"{file}: holds no sample")
    base = next((each for each in (root, root / split) if (each / found[0][1]).is_file()), None)
    if base is None:
        raise DataError(f"{file}: names {found[0][1]}, which lies neither in {root} nor in {root / split}")
    return [(client, str(_inside(root, base / path, file)), each) for client, path, each in found]


def _inside(root: Path, path: Path, file: Path) -> Path:
    if ".." in path.relative_to(root).parts:
        raise DataError(f"{file}: names {path}, which leaves {root}; expected paths below it")
    return path


def _decode(path: str, *, size: int | None, colours: str, mels: int) -> NDArray[Any]:
    if path.endswith(".wav"):
        return spectrum(str(existing(Path(path), "a file that the mapping names")), mels=mels)
    if not path.endswith(".npy"):
        return open_image(existing(Path(path), "a file that the mapping names"), size=size, colours=colours)
    try:
        return np.asarray(np.load(existing(Path(path), "a file that the mapping names"), allow_pickle=False))
    except (ValueError, EOFError) as error:
        raise DataError(f"{path}: cannot be read without pickles: {error}") from error
