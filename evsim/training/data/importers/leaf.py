"""LEAF's JSON: FEMNIST, Shakespeare, Sent140, the synthetic sets (Caldas et al. 2018).

Files hold ``users``, ``num_samples`` and ``user_data``: for each user x and y. They lie in a folder, or in the folders
``train`` and ``test`` (under ``data`` or not); a file alone will do.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evsim.base.documents import parse_json
from evsim.base.errors import DataError
from evsim.training.data.importers._files import as_bytes, existing, read_bytes
from evsim.training.data.importers.text import PAD, characters, encode, encode_words, frequent_words
from evsim.training.data.labels import Labels
from evsim.training.data.table import Table, stacked

_TEXT = 4  # field of a tweet in Sent140, after id, date, query and user


def read(
    source: str,
    *,
    shape: str | None = None,
    length: int | None = None,
    words: int | None = None,
    drop_empty: bool = False,
    labels: Labels = "auto",
) -> Table:
    """Samples by user.

    Args:
        source: a JSON file, a folder of them, or one with folders train and test.
        shape: of an image, such as "1x28x28"; default: lists of 784 numbers are 1x28x28.
        length: texts are cut, and filled up in front, to so many characters or words.
        words: texts become words, of which the most frequent so many get a token of their own; default: characters.
        drop_empty: leave out users without samples.
        labels: what y holds: "classes" or "numbers"; "auto": classes.
    """
    root = existing(Path(source), "LEAF's JSON files, or folders train and test of them")
    nested = root / "data"
    root = nested if nested.is_dir() and not list(root.glob("*.json")) else root
    train = _files(root / "train" if (root / "train").is_dir() else root)
    test = _files(root / "test") if (root / "test").is_dir() else []
    parts = [_part(file, shape, drop_empty=drop_empty or test_part) for file, test_part in _marked(train, test)]
    kinds = {isinstance(x, list) for x, _, _ in parts}
    if len(kinds) > 1:
        raise DataError(f"{root}: some inputs are texts and others are not; expected one kind")
    if words is not None and (words < 1 or length is None):
        raise DataError(f"-o words={words}: say -o length=N, too: how many words a text has")
    is_text = True in kinds
    vocabulary = _vocabulary(parts, length, words) if is_text else None
    tables = []
    for (x, y, client), (file, test_part) in zip(parts, _marked(train, test), strict=True):
        marks = np.full(len(client), test_part)
        if vocabulary is None:
            tables.append(Table(x=x, y=np.array(y), client=client, is_test=marks))
        elif words is None:
            tables.append(
                Table(
                    x=encode(x, vocabulary, str(file), length),
                    y=_text_labels(y, vocabulary, file),
                    client=client,
                    is_test=marks,
                )
            )
        else:
            tables.append(
                Table(x=encode_words(x, vocabulary, length or 1), y=np.array(y), client=client, is_test=marks)
            )
    whole = replace(stacked(_of_one_kind(tables)), labels=labels)
    if vocabulary is None:
        return whole
    names = vocabulary if all(isinstance(each, str) for each in parts[0][1]) else None
    return Table(
        x=whole.x,
        y=whole.y,
        client=whole.client,
        is_test=whole.is_test,
        inputs="tokens",
        label_names=names,
        vocabulary=vocabulary,
    )


_Part = tuple[Any, list[Any], NDArray[Any]]  # x, an array or a list of texts; y, users


def _marked(train: list[Path], test: list[Path]) -> list[tuple[Path, bool]]:
    return [(file, False) for file in train] + [(file, True) for file in test]


def _files(folder: Path) -> list[Path]:
    files = [folder] if folder.is_file() else sorted(folder.glob("*.json"))
    if not files:
        raise DataError(f"{folder}: holds no .json file; expected LEAF's")
    return files


def _part(file: Path, shape: str | None, *, drop_empty: bool) -> _Part:
    """Samples of one file, user after user; numbers become an array at once, which is far smaller than their list."""
    try:
        content = parse_json(read_bytes(file), where=str(file), what="LEAF's JSON", raising=DataError)
        data = {user: (content["user_data"][user]["x"], content["user_data"][user]["y"]) for user in content["users"]}
    except (KeyError, TypeError) as error:
        raise DataError(f"{file}: lacks {error}; expected users and user_data with x and y, as LEAF writes") from error
    sizes = []
    for user, (x, y) in data.items():
        if len(x) != len(y):
            raise DataError(f"{file}: user {user!r} has {len(x)} inputs and {len(y)} labels; expected as many")
        if not x and not drop_empty:
            raise DataError(f"{file}: user {user!r} has no samples; -o drop_empty=true leaves such users out")
        sizes.append(len(x))
    if not sum(sizes):
        raise DataError(f"{file}: holds no sample; expected users with samples")
    users = np.repeat(np.array(list(data), dtype=np.str_), sizes)
    inputs, y = [each for x, _ in data.values() for each in x], [each for _, y in data.values() for each in y]
    if all(isinstance(each, list) and len(each) > _TEXT and isinstance(each[_TEXT], str) for each in inputs):
        return [each[_TEXT] for each in inputs], _sentiment(y, file), users
    is_text = {isinstance(each, str) for each in inputs}
    if len(is_text) > 1:
        raise DataError(f"{file}: some inputs are texts and others are not; expected one kind")
    return inputs if True in is_text else _numbers(inputs, file, shape), y, users


def _sentiment(y: list[Any], file: Path) -> list[int]:
    """Sent140's labels 0 and 4 as 0 and 1."""
    found = [int(each) if str(each).isdigit() else -1 for each in y]
    wrong = next((at for at, each in enumerate(found) if each not in (0, 1, 4)), None)
    if wrong is not None:
        raise DataError(f"{file}: label {y[wrong]!r} of sample {wrong}; expected 0 or 4, as Sent140 has")
    return [min(each, 1) for each in found]


def _of_one_kind(tables: list[Table]) -> list[Table]:
    """Images as bytes only where those of all files are."""
    if len({each.x[np.zeros(1, np.int64)].dtype for each in tables}) == 1:
        return tables
    every = [(each, each.x[np.arange(len(each.x))]) for each in tables]
    return [replace(each, x=x / 255 if x.dtype == np.uint8 else x) for each, x in every]


def _numbers(x: list[Any], file: Path, shape: str | None) -> NDArray[Any]:
    try:
        numbers = np.array(x, np.float64)
    except (ValueError, TypeError) as error:
        raise DataError(f"{file}: inputs of unequal length, or no numbers: {error}") from error
    wanted = "1x28x28" if shape is None and numbers.shape[1:] == (784,) else shape
    if wanted is not None:
        try:
            numbers = numbers.reshape(len(x), *map(int, wanted.split("x")))
        except ValueError as error:
            raise DataError(f"{file}: inputs of shape {numbers.shape[1:]}; expected {wanted} numbers") from error
        return as_bytes(numbers)
    return numbers


def _vocabulary(parts: list[_Part], length: int | None, words: int | None) -> tuple[str, ...]:
    if words is not None:
        return frequent_words(Counter(word for x, _, _ in parts for text in x for word in text.split()), words)
    labels = [y for _, y, _ in parts if y and isinstance(y[0], str)]
    found = characters([text for x, _, _ in parts for text in x], [label for y in labels for label in y])
    return found if length is None else (PAD, *found)


def _text_labels(y: list[Any], vocabulary: tuple[str, ...], file: Path) -> NDArray[Any]:
    """The next character as its token; numbers as they are."""
    if not isinstance(y[0], str):
        return np.array(y)
    token = {character: number for number, character in enumerate(vocabulary)}
    wrong = next((place for place, each in enumerate(y) if each not in token), None)
    if wrong is not None:
        raise DataError(f"{file}: label {y[wrong]!r} of sample {wrong}; expected one character")
    return np.array([token[each] for each in y])
