"""HDF5 files of TensorFlow Federated: FEMNIST, CIFAR-100, Shakespeare, StackOverflow; a group per client."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from evsim.base.errors import DataError, missing_extra
from evsim.training.data.importers._files import as_bytes, existing, texts
from evsim.training.data.importers.text import characters
from evsim.training.data.table import Table, stacked

_INPUTS = ("pixels", "image")
_LABELS = ("label", "coarse_label")
_WINDOW = 80  # characters before the next one, as LEAF has them


def read(source: str, *, test: str | None = None, invert: bool = False, drop_empty: bool = False) -> Table:
    """Samples by client.

    Args:
        source: the file to learn from, or a folder with one that ends with _train.h5 and perhaps one with _test.h5.
        test: the file of the test set.
        invert: pixels p become 1 - p: FEMNIST's background is white there.
        drop_empty: leave out clients without samples.
    """
    try:
        import h5py
    except ImportError as error:
        raise missing_extra("h5py", "hdf5", "reading HDF5 files") from error
    root = existing(Path(source), "an HDF5 file of TensorFlow Federated, or a folder with a _train.h5 file")
    files = [root, *([Path(test)] if test else [])] if root.is_file() else _pair(root)
    found: list[tuple[list[Any], list[str]]] = []
    for file in files:
        try:
            with h5py.File(existing(file, "an HDF5 file"), "r") as content:
                found.append(_clients(content, file, drop_empty=drop_empty or file != files[0]))
        except OSError as error:
            raise DataError(f"{file}: cannot be read as HDF5: {error}") from error
    if "snippets" in found[0][0][0]:
        return _snippets(found)
    return stacked([_images(groups, names, invert=invert, is_test=at > 0) for at, (groups, names) in enumerate(found)])


def _pair(root: Path) -> list[Path]:
    train, test = sorted(root.glob("*_train.h5")), sorted(root.glob("*_test.h5"))
    if len(train) != 1:
        raise DataError(f"{root}: {len(train)} files end with _train.h5; expected one")
    return [train[0], *test[:1]]


def _clients(content: Any, file: Path, *, drop_empty: bool) -> tuple[list[dict[str, Any]], list[str]]:
    """Arrays and names of every client."""
    if "examples" not in content:
        raise DataError(f"{file}: has no group 'examples'; expected a file of TensorFlow Federated")
    groups, names = [], []
    for name, group in content["examples"].items():
        arrays = {key: group[key][()] for key in group}
        size = len(next(iter(arrays.values()), ()))
        if not size and not drop_empty:
            raise DataError(f"{file}: client {name!r} has no samples; -o drop_empty=true leaves such clients out")
        if size:
            groups.append(arrays)
            names.append(name)
    known = {*_INPUTS, "snippets"}
    if not groups or not known & set(groups[0]):
        raise DataError(
            f"{file}: clients hold {', '.join(groups[0]) if groups else 'nothing'}; expected pixels, image or snippets"
        )
    return groups, names


def _images(groups: list[dict[str, Any]], names: list[str], *, invert: bool, is_test: bool) -> Table:
    x_key = next(key for key in _INPUTS if key in groups[0])
    y_key = next((key for key in _LABELS if key in groups[0]), None)
    if y_key is None:
        raise DataError(f"clients hold {', '.join(groups[0])}; expected {' or '.join(_LABELS)} beside {x_key}")
    x = np.concatenate([group[x_key] for group in groups])
    kept = x if x.dtype == np.uint8 else as_bytes(1 - x if invert else x)
    kept = kept[:, None] if kept.ndim == 3 else kept  # noqa: PLR2004
    owner = np.repeat(np.array(names), [len(group[y_key]) for group in groups])
    y = np.concatenate([group[y_key] for group in groups])
    return Table(x=kept, y=y, client=owner, is_test=np.full(len(y), is_test))


def _snippets(found: list[tuple[list[dict[str, Any]], list[str]]]) -> Table:
    """Windows of 80 characters and the next one, within a snippet."""
    speeches = [[list(texts(list(group["snippets"]))) for group in groups] for groups, _ in found]
    vocabulary = characters([text for part in speeches for client in part for text in client])
    token = {character: number for number, character in enumerate(vocabulary)}
    tables = []
    for at, (part, (_, names)) in enumerate(zip(speeches, found, strict=True)):
        windows, owners = [], []
        for name, client in zip(names, part, strict=True):
            codes = [np.array([token[each] for each in text]) for text in client if len(text) > _WINDOW]
            own = [np.lib.stride_tricks.sliding_window_view(each, _WINDOW + 1) for each in codes]
            windows += own
            owners += [name] * sum(map(len, own))
        if windows:
            both = np.concatenate(windows)
            is_test = np.full(len(both), at > 0)
            tables.append(Table(x=both[:, :-1], y=both[:, -1], client=np.array(owners), is_test=is_test))
    if not tables:
        raise DataError(f"no snippet is longer than {_WINDOW} characters; there is nothing to predict")
    whole = stacked(tables)
    return Table(
        x=whole.x,
        y=whole.y,
        client=whole.client,
        is_test=whole.is_test,
        inputs="tokens",
        label_names=vocabulary,
        vocabulary=vocabulary,
    )
