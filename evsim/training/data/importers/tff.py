"""HDF5 files of TensorFlow Federated: FEMNIST, CIFAR-100, Shakespeare, StackOverflow; a group per client."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from evsim.base.errors import DataError, missing_extra
from evsim.base.vocabulary import IntArray
from evsim.training.data.importers._files import as_bytes, existing, texts
from evsim.training.data.importers.text import BEGIN, END, characters, frequent_words, next_words
from evsim.training.data.table import Table, stacked

_INPUTS = ("pixels", "image")
_LABELS = ("label", "coarse_label")
_WINDOW = 80  # characters before the next one, as LEAF has them


def read(  # noqa: PLR0913  each is an option of the command line
    source: str,
    *,
    test: str | None = None,
    invert: bool = False,
    drop_empty: bool = False,
    clients: int | None = None,
    words: int = 10_000,
    length: int = 20,
) -> Table:
    """Samples by client. Images are read client by client while the store is written.

    Args:
        source: the file to learn from, or a folder with one that ends with _train.h5 and perhaps one with _test.h5.
        test: the file of the test set.
        invert: pixels p become 1 - p: FEMNIST's background is white there.
        drop_empty: leave out clients without samples.
        clients: the first so many clients of each file; default: all.
        words: of StackOverflow's sentences: the most frequent ones that get a token of their own.
        length: of StackOverflow's sentences: words.
    """
    try:
        import h5py
    except ImportError as error:
        raise missing_extra("h5py", "hdf5", "reading HDF5 files") from error
    root = existing(Path(source), "an HDF5 file of TensorFlow Federated, or a folder with a _train.h5 file")
    files = [root, *([Path(test)] if test else [])] if root.is_file() else _pair(root)
    parts = []
    for file in files:
        try:
            content = h5py.File(existing(file, "an HDF5 file"), "r")  # closed with the last who reads of it
        except OSError as error:
            raise DataError(f"{file}: cannot be read as HDF5: {error}") from error
        parts.append(_part(content, file, drop_empty=drop_empty or file != files[0], most=clients))
    keys = set(parts[0].keys)
    if "tokens" in keys:
        return _sentences(parts, words, length)
    if "snippets" in keys:
        return _snippets(parts)
    return _images(parts, invert=invert)


def _pair(root: Path) -> list[Path]:
    train, test = sorted(root.glob("*_train.h5")), sorted(root.glob("*_test.h5"))
    if len(train) != 1:
        raise DataError(f"{root}: {len(train)} files end with _train.h5; expected one")
    return [train[0], *test[:1]]


@final
@dataclass(frozen=True, eq=False)
class _Part:
    """An open file: its clients that have samples, how many each has, and what they hold."""

    file: Path
    groups: list[Any]
    names: list[str]
    sizes: IntArray
    keys: list[str]

    def column(self, key: str) -> Iterator[NDArray[Any]]:
        """What each client holds under a key."""
        for group, name in zip(self.groups, self.names, strict=True):
            if key not in group:
                raise DataError(f"{self.file}: client {name!r} has no {key!r}; expected it in every client")
            yield group[key][()]

    @property
    def owners(self) -> NDArray[Any]:
        """Whose each sample is."""
        return np.repeat(np.array(self.names), self.sizes)


def _part(content: Any, file: Path, *, drop_empty: bool, most: int | None) -> _Part:
    if "examples" not in content:
        raise DataError(f"{file}: has no group 'examples'; expected a file of TensorFlow Federated")
    groups, names, sizes = [], [], []
    for name, group in content["examples"].items():
        size = min((len(group[key]) for key in group), default=0)
        if not size and not drop_empty:
            raise DataError(f"{file}: client {name!r} has no samples; -o drop_empty=true leaves such clients out")
        if size:
            groups.append(group)
            names.append(name)
            sizes.append(size)
        if len(names) == most:
            break
    keys = list(groups[0]) if groups else []
    if not {*_INPUTS, "snippets", "tokens"} & set(keys):
        held = ", ".join(keys) or "nothing"
        raise DataError(f"{file}: clients hold {held}; expected pixels, image, snippets or tokens")
    return _Part(file, groups, names, np.array(sizes, np.int64), keys)


@final
class _Pixels:
    """Images of clients, read when they are asked for; those of one client are kept until another is asked for."""

    def __init__(self, parts: list[_Part], key: str, *, invert: bool) -> None:
        self._groups = [group for part in parts for group in part.groups]
        self._key, self._invert = key, invert
        self._ends = np.cumsum(np.concatenate([part.sizes for part in parts]))
        self._held: tuple[int, NDArray[Any]] | None = None

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, rows: IntArray) -> NDArray[Any]:
        owner = np.searchsorted(self._ends, rows, side="right")
        starts = np.flatnonzero(np.diff(owner, prepend=-1))
        found = []
        for start, stop in zip(starts, [*starts[1:], len(rows)], strict=True):
            client = int(owner[start])
            first = int(self._ends[client - 1]) if client else 0
            found.append(self._of(client)[rows[start:stop] - first])
        if len({(each.shape[1:], each.dtype) for each in found}) > 1:
            kinds = sorted({f"{each.dtype} of shape {each.shape[1:]}" for each in found})
            raise DataError(f"images of clients do not fit together: {', '.join(kinds)}; expected one kind")
        return np.concatenate(found) if found else self._of(0)[:0]

    def _of(self, client: int) -> NDArray[Any]:
        if self._held is None or self._held[0] != client:
            x = self._groups[client][self._key][()]
            kept = x if x.dtype == np.uint8 else as_bytes(1 - x if self._invert else x)
            self._held = client, kept[:, None] if kept.ndim == 3 else kept  # noqa: PLR2004
        return self._held[1]


def _images(parts: list[_Part], *, invert: bool) -> Table:
    x_key = next(key for key in _INPUTS if key in parts[0].keys)
    y_key = next((key for key in _LABELS if key in parts[0].keys), None)
    if y_key is None:
        raise DataError(f"clients hold {', '.join(parts[0].keys)}; expected {' or '.join(_LABELS)} beside {x_key}")
    for part in parts:
        if x_key not in part.keys:
            raise DataError(
                f"{part.file}: clients hold {', '.join(part.keys)}; expected {x_key}, as the first file has"
            )
    return Table(
        x=_Pixels(parts, x_key, invert=invert),
        y=np.concatenate([labels for part in parts for labels in part.column(y_key)]),
        client=np.concatenate([part.owners for part in parts]),
        is_test=_marks([int(part.sizes.sum()) for part in parts]),
    )


def _marks(sizes: list[int]) -> NDArray[np.bool_]:
    """The samples of the second file are the test set."""
    return np.repeat([False, True][: len(sizes)], sizes)


def _snippets(parts: list[_Part]) -> Table:
    """Windows of 80 characters and the next one, within a snippet."""
    speeches = [[list(texts(list(each))) for each in part.column("snippets")] for part in parts]
    vocabulary = characters([text for part in speeches for client in part for text in client])
    token = {character: number for number, character in enumerate(vocabulary)}
    tables = []
    for at, (part, found) in enumerate(zip(speeches, parts, strict=True)):
        windows, owners = [], []
        for name, client in zip(found.names, part, strict=True):
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


@final
@dataclass(frozen=True, eq=False)
class _Before:
    """What a word is guessed from: the beginning, then the words before it; filled up with token 0."""

    words: IntArray
    begin: int

    def __len__(self) -> int:
        return len(self.words)

    def __getitem__(self, rows: IntArray) -> NDArray[Any]:
        found = np.maximum(np.roll(self.words[rows], 1, axis=1), 0)
        found[:, 0] = self.begin
        return found


def _sentences(parts: list[_Part], words: int, length: int) -> Table:
    """Sentences of words: the next word of each, for the objective next_token."""
    if words < 1 or length < 1:
        raise DataError(f"-o words={words} -o length={length}; expected at least 1 of each")
    counts: Counter[str] = Counter()
    for sentences in parts[0].column("tokens"):  # the test set adds no word
        counts.update(word for text in texts(list(sentences)) for word in text.split())
    vocabulary = frequent_words(counts, words, BEGIN, END)
    small = np.min_scalar_type(-len(vocabulary))
    y = [
        next_words(list(texts(list(each))), vocabulary, length).astype(small)
        for part in parts
        for each in part.column("tokens")
    ]
    whole = np.concatenate(y)
    return Table(
        x=_Before(whole, vocabulary.index(BEGIN)),
        y=whole,
        client=np.concatenate([part.owners for part in parts]),
        is_test=_marks([int(part.sizes.sum()) for part in parts]),
        inputs="tokens",
        labels="steps",
        label_names=vocabulary,
        vocabulary=vocabulary,
    )
