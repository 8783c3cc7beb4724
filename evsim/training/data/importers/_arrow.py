"""From an Arrow table to samples: which column is what, and images, lists, numbers and texts as arrays."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import numpy as np
from numpy.typing import NDArray

from evsim.base.errors import DataError, suggest
from evsim.training.data.importers._files import existing, open_image
from evsim.training.data.importers.text import PAD, characters, encode
from evsim.training.data.labels import Labels
from evsim.training.data.table import Decoded, Table

if TYPE_CHECKING:
    import pyarrow as pa

_LABELS = ("label", "y", "fine_label", "character", "labels", "target", "class")
_CLIENTS = ("client", "client_id", "clients", "writer_id", "character_id", "user", "user_id", "speaker_id", "device")
_FEWEST = 3  # rows in which a column that counts them is no chance
_INPUTS = ("image", "img", "x", "pixels", "text", "features")


@final
@dataclass(frozen=True, kw_only=True)
class Columns:
    """Which columns are what; None: the first known name that is there.

    Attributes:
        x: columns of the inputs: an image, a list or a text, or several of numbers.
        y: columns of the label: one, or several of numbers.
        client: whose a sample is; "" if no column says.
        length: texts are cut, and filled up in front, to so many characters.
        labels: what the label is, as in the data set `arrays`.
    """

    x: str | None = None
    y: str | None = None
    client: str | None = None
    length: int | None = None
    labels: Labels = "auto"


def as_table(found: pa.Table, columns: Columns, where: str, is_test: NDArray[np.bool_] | None = None) -> Table:
    """Samples of an Arrow table.

    Raises:
        DataError: if a column is missing, empty in places, or holds what cannot be used.
    """
    names = found.column_names
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f"{where}: has several columns {', '.join(twice)}; expected one of each name")
    labels = _named(columns.y, _LABELS, names, where, "-o y=NAME says which column is the label").split(",")
    client = _client(columns.client, names, where)
    taken = {*labels, client}
    inputs = columns.x.split(",") if columns.x else [next((each for each in _INPUTS if each in names), "")]
    if not columns.x and not inputs[0]:
        inputs = [name for name in names if name not in taken]
        _check_no_counter(found, inputs, where)
    if not inputs:
        raise DataError(f"{where}: no column is left for the inputs; there is: {', '.join(names)}")
    for name in [*inputs, *labels, *([client] if client else [])]:
        _check(found, name, where)
    options: dict[str, Any] = {
        "y": _label(found, labels, where),
        "labels": columns.labels,
        "client": _plain(found, client) if client else None,
        "is_test": is_test,
    }
    if len(inputs) > 1:
        return Table(x=np.stack([_numbers(found, name, where) for name in inputs], axis=1), **options)
    return _single(found.column(inputs[0]), columns, f"{where}: column {inputs[0]}", options)


def _single(column: pa.ChunkedArray, columns: Columns, where: str, options: dict[str, Any]) -> Table:
    import pyarrow as pa

    kind = column.type
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        return Table(x=Decoded(np.arange(len(column)), partial(_image, column)), **options)
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return Table(
            x=Decoded(np.arange(len(column)), lambda at: open_image(io.BytesIO(column[at].as_py()))), **options
        )
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        texts = column.to_pylist()
        found = characters(texts)
        vocabulary = found if columns.length is None else (PAD, *found)
        return Table(
            x=encode(texts, vocabulary, where, columns.length), inputs="tokens", vocabulary=vocabulary, **options
        )
    return Table(x=_listed(column, where), **options)


def _image(column: pa.ChunkedArray, at: int) -> NDArray[np.uint8]:
    """The image of a row: its bytes, else the file that its path names."""
    held = column[int(at)].as_py()
    if held["bytes"] is None:
        return open_image(existing(Path(held["path"] or ""), f"the image of row {at}"))
    return open_image(io.BytesIO(held["bytes"]))


def _listed(column: pa.ChunkedArray, where: str) -> NDArray[Any]:
    """Numbers, or lists of numbers that are nested to any depth, as one array."""
    import pyarrow as pa

    shape, flat = [len(column)], column.combine_chunks()
    while pa.types.is_list(flat.type) or pa.types.is_large_list(flat.type) or pa.types.is_fixed_size_list(flat.type):
        inner = flat.flatten()
        if len(inner) % max(1, len(flat)) or len(set(_lengths(flat))) > 1:
            raise DataError(f"{where} holds lists of unequal length; expected as many numbers for every sample")
        shape.append(len(inner) // max(1, len(flat)))
        flat = inner
    if not (pa.types.is_integer(flat.type) or pa.types.is_floating(flat.type)):
        raise DataError(f"{where} holds {flat.type}; expected numbers, lists of numbers, images or texts")
    if flat.null_count:
        raise DataError(f"{where} has {flat.null_count} empty values; expected a number in each")
    made: NDArray[Any] = flat.to_numpy(zero_copy_only=False).reshape(shape)
    return made


def _lengths(lists: pa.Array) -> list[int]:
    import pyarrow.compute as pc

    return [int(each) for each in pc.unique(pc.list_value_length(lists)).to_pylist() if each is not None]


def _numbers(found: pa.Table, name: str, where: str) -> NDArray[Any]:
    values = _listed(found.column(name), f"{where}: column {name}")
    if values.ndim > 1:
        raise DataError(f"{where}: column {name} holds lists; expected numbers, or name it alone: -o x={name}")
    return values.astype(np.float32)


def _label(found: pa.Table, names: Sequence[str], where: str) -> NDArray[Any]:
    """One column, of numbers, texts or lists of numbers, or several columns of numbers."""
    import pyarrow as pa

    if len(names) > 1:
        columns = [_listed(found.column(name), f"{where}: column {name}") for name in names]
        if any(column.ndim > 1 for column in columns):
            raise DataError(f"{where}: columns {', '.join(names)} hold lists; expected a number in each")
        return np.stack(columns, axis=1)
    kind = found.column(names[0]).type
    nested = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return _listed(found.column(names[0]), f"{where}: column {names[0]}") if nested else _plain(found, names[0])


def _plain(found: pa.Table, name: str) -> NDArray[Any]:
    import pyarrow as pa

    column = found.column(name)
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        return np.array(column.to_pylist(), dtype=np.str_)
    values: NDArray[Any] = column.to_numpy()
    return values


def _check_no_counter(found: pa.Table, names: Sequence[str], where: str) -> None:
    """A column that counts rows, as programs write before the others, is no input unless it is named."""
    import pyarrow as pa

    for name in names:
        column = found.column(name)
        if not pa.types.is_integer(column.type) or column.null_count or len(column) < _FEWEST:
            continue
        values = column.to_numpy()
        if values[0] in (0, 1) and bool((np.diff(values) == 1).all()):
            others = ",".join(each for each in names if each != name)
            raise DataError(f"{where}: column {name!r} counts the rows; say what the inputs are: -o x={others or name}")


def _check(found: pa.Table, name: str, where: str) -> None:
    names = found.column_names
    if name not in names:
        raise DataError(f"{where}: has no column {name!r}; {suggest(name, names)}")
    if found.column(name).null_count:
        raise DataError(f"{where}: column {name} is empty in {found.column(name).null_count} of {len(found)} rows")


def _named(given: str | None, known: Sequence[str], names: Sequence[str], where: str, hint: str) -> str:
    found = given or next((each for each in known if each in names), None)
    if found is None:
        raise DataError(f"{where}: columns {', '.join(names)}; expected one of {', '.join(known)}; {hint}")
    return found


def _client(given: str | None, names: Sequence[str], where: str) -> str | None:
    if given is None:
        return next((each for each in _CLIENTS if each in names), None)
    if given and given not in names:
        raise DataError(f"{where}: has no column {given!r}; {suggest(given, names)}")
    return given or None
