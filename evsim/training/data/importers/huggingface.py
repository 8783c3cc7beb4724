"""Data sets of Hugging Face: saved with ``save_to_disk`` (Arrow streams and JSON), or a folder of Parquet files.

Read with pyarrow alone; the package `datasets` is not needed.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from evsim.base.documents import parse_json
from evsim.base.errors import DataError, suggest
from evsim.training.data.importers._arrow import Columns, as_table
from evsim.training.data.importers._files import existing, existing_folder, read_bytes
from evsim.training.data.importers.table import read_file
from evsim.training.data.labels import Labels
from evsim.training.data.table import Table

if TYPE_CHECKING:
    import pyarrow as pa


def read(  # noqa: PLR0913  each is an option of the command line
    source: str,
    *,
    x: str | None = None,
    y: str | None = None,
    client: str | None = None,
    train: str = "train",
    test: str = "test",
    length: int | None = None,
    labels: Labels = "auto",
) -> Table:
    """Inputs, labels and clients from columns.

    Args:
        source: the folder.
        x: column of the inputs; default: image, img, x, text ...
        y: column of the labels; default: label, fine_label, character ...
        client: column of the clients; default: client_id, writer_id, character_id ...; "": none.
        train: the split to learn from.
        test: the split that is the test set, if there is one of this name.
        length: texts are cut, and filled up in front, to so many characters.
        labels: what the label is: "classes", "steps", "flags" or "numbers"; "auto": as in the data set `arrays`.
    """
    import pyarrow as pa

    root = existing_folder(Path(source), "a folder from save_to_disk, or of Parquet files")
    splits = _saved(root) or _parquet(root)
    if train not in splits:
        raise DataError(f"{root}: has no split {train!r}; {suggest(train, splits)}")
    parts = [_load(splits[name]) for name in (train, test) if name in splits]
    is_test = np.repeat([False, True][: len(parts)], [len(part) for part in parts])
    try:
        whole = pa.concat_tables([part.replace_schema_metadata(None) for part in parts])
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise DataError(f"{root}: its splits do not fit together: {error}") from error
    made = as_table(
        whole,
        Columns(x=x, y=y, client=client, length=length, labels=labels),
        root.name,
        is_test if len(parts) > 1 else None,
    )
    names = _label_names(parts[0].schema, y, made)
    return made if names is None else _named(made, names)


def _named(table: Table, names: tuple[str, ...]) -> Table:
    from dataclasses import replace

    return replace(table, label_names=names)


def _saved(root: Path) -> dict[str, list[Path]]:
    """Files of each split of a saved set; nothing if it is none. A set without splits is all train."""
    if (root / "state.json").is_file():
        return {"train": _arrow_files(root)}
    if not (root / "dataset_dict.json").is_file():
        return {}
    names = _json(root / "dataset_dict.json").get("splits")
    if not isinstance(names, list):
        raise DataError(f"{root / 'dataset_dict.json'}: names no splits; expected a list of them")
    return {str(name): _arrow_files(root / str(name)) for name in names}


def _arrow_files(folder: Path) -> list[Path]:
    state = _json(existing(folder / "state.json", "the state of a saved split"))
    files = [folder / str(each["filename"]) for each in state.get("_data_files", [])]
    for file in files:
        if file.resolve().parent != folder.resolve():
            raise DataError(f"{folder / 'state.json'}: names {file.name} outside its folder; expected files beside it")
        existing(file, "an Arrow file that state.json names")
    if not files:
        raise DataError(f"{folder / 'state.json'}: names no data files")
    return files


def _parquet(root: Path) -> dict[str, list[Path]]:
    """Parquet files by split: the name up to the first dash, as in ``data/train-00000-of-00002.parquet``."""
    splits: dict[str, list[Path]] = {}
    for file in sorted(root.glob("**/*.parquet")):
        splits.setdefault(file.stem.split("-")[0], []).append(file)
    if not splits:
        raise DataError(f"{root}: holds neither dataset_dict.json, state.json nor Parquet files")
    return splits if len(splits) > 1 or "train" in splits else {"train": next(iter(splits.values()))}


def _load(files: list[Path]) -> pa.Table:
    import pyarrow as pa

    parts = []
    for file in files:
        if file.suffix == ".parquet":
            parts.append(read_file(file))
            continue
        try:
            parts.append(pa.ipc.open_stream(pa.memory_map(str(file))).read_all())
        except (pa.ArrowInvalid, OSError) as error:
            raise DataError(f"{file}: cannot be read as an Arrow stream: {error}") from error
    return pa.concat_tables(parts)


def _label_names(schema: pa.Schema, y: str | None, table: Table) -> tuple[str, ...] | None:
    """Names of a label that is a ClassLabel, from the schema's notes."""
    notes = (schema.metadata or {}).get(b"huggingface")
    if notes is None or table.y.dtype.kind not in "iu":
        return None
    features = _features(notes)
    named = {key: each["names"] for key, each in features.items() if isinstance(each, dict) and "names" in each}
    wanted = y if y in named else next((key for key in ("label", "fine_label", "character", "y") if key in named), None)
    return None if wanted is None else tuple(map(str, named[wanted]))


def _features(notes: bytes) -> dict[str, Any]:
    told = parse_json(notes, where="the schema's notes", what="notes of Hugging Face", raising=DataError)
    features = told["info"].get("features") if isinstance(told.get("info"), dict) else None
    return features if isinstance(features, dict) else {}


def _json(path: Path) -> dict[str, Any]:
    return parse_json(read_bytes(path), where=str(path), what="a file of a data set", raising=DataError)
