"""CIFAR-10 and CIFAR-100 as Python pickles, read by an unpickler that runs no code."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np

from evsim.base.errors import DataError
from evsim.traces.formats.unpickle import load_plain
from evsim.training.data.importers._files import existing, existing_folder
from evsim.training.data.table import Table, stacked

_SIDE = 32
_FOLDERS = ("cifar-10-batches-py", "cifar-100-python")


def read(source: str, *, labels: Literal["fine", "coarse"] = "fine", by: Literal["none", "coarse"] = "none") -> Table:
    """Images of 3x32x32 bytes.

    Args:
        source: the folder of the pickles, or the one above.
        labels: of CIFAR-100.
        by: "coarse": the natural clients of CIFAR-100 are its coarse labels.
    """
    root = existing_folder(Path(source), "CIFAR's Python pickles")
    root = next((root / name for name in _FOLDERS if (root / name).is_dir()), root)
    is_100 = (root / "train").is_file()
    train = [root / "train"] if is_100 else sorted(root.glob("data_batch_*"))
    test = root / ("test" if is_100 else "test_batch")
    if not train:
        raise DataError(f"{root}: holds neither data_batch_1 (CIFAR-10) nor train (CIFAR-100)")
    existing(test, "the test set")
    key = f"{labels}_labels" if is_100 else "labels"
    tables = [_batch(file, key, by if is_100 else "none", is_test=file == test) for file in [*train, test]]
    whole = stacked(tables)
    return Table(x=whole.x, y=whole.y, client=whole.client, is_test=whole.is_test, label_names=_names(root, key))


def _batch(file: Path, key: str, by: str, *, is_test: bool) -> Table:
    content = _texts(load_plain(file))
    missing = [each for each in ("data", key) if each not in content]
    if missing:
        raise DataError(f"{file}: lacks {', '.join(missing)}; expected a dictionary as CIFAR's batches are")
    data = np.asarray(content["data"])
    if data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != 3 * _SIDE**2:  # noqa: PLR2004
        raise DataError(f"{file}: data holds {data.dtype} of shape {data.shape}; expected uint8 (n, {3 * _SIDE**2})")
    client = None if by == "none" else np.array(content["coarse_labels"])
    x = data.reshape(-1, 3, _SIDE, _SIDE)
    return Table(x=x, y=np.array(content[key]), client=client, is_test=np.full(len(x), is_test))


def _names(root: Path, key: str) -> tuple[str, ...] | None:
    """Names of the labels, from the file that holds them."""
    for name in ("batches.meta", "meta"):
        if (root / name).is_file():
            content = _texts(load_plain(root / name))
            found = content.get("label_names" if key == "labels" else key.replace("labels", "label_names"))
            return None if found is None else tuple(map(_text, found))
    return None


def _texts(content: Any) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise DataError(f"a pickle of {type(content).__name__}; expected a dictionary as CIFAR's batches are")
    return {_text(key): value for key, value in content.items()}


def _text(value: Any) -> str:
    return value.decode("latin1") if isinstance(value, bytes) else str(value)
