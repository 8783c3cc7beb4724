"""evsim's own store: a folder of memory-mapped arrays, sorted by client, with names and checksums.

- ``x.npy``: inputs, one row per sample; client after client, the test set last.
- ``y.npy``: labels: classes, classes of time steps, flags or numbers, as the manifest says.
- ``offsets.npy``: client k has the rows ``offsets[k]`` to ``offsets[k + 1]``; only if the data have clients.
- ``names.json``: names of clients and labels, where they have any, and the vocabulary of a text.
- ``manifest.json``: counts, shape, where it comes from; size and SHA-256 of every other file.

Sizes are checked whenever a store is opened; checksums when it was written and by `verify`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from evsim.base.documents import load_json
from evsim.base.errors import DataError, Problem, report
from evsim.base.vocabulary import IntArray
from evsim.training.data.base import DataSet, Samples
from evsim.training.data.gathered import Gathered, Pages
from evsim.training.data.labels import IN_WORDS, LabelKind
from evsim.training.data.promises import check_npy

FORMAT = "evsim-data"
VERSION = 1
MANIFEST = "manifest.json"
INPUTS, LABELS, OFFSETS, NAMES = "x.npy", "y.npy", "offsets.npy", "names.json"

_BLOCK = 1 << 24  # bytes that are hashed at a time


@final
@dataclass(frozen=True, kw_only=True)
class Store(DataSet):
    """Data in evsim's own store, made by ``evsim data import``; samples are read from disk when they are used.

    Attributes:
        path: the folder; a relative one is looked up beside the scenario file.
    """

    path: str

    @override
    def load(self, *, n_clients: int | None, seed: int, folder: Path) -> Samples:
        store = open_store(folder / self.path)
        n_train = len(store.y) - store.n_test
        groups = None
        if store.offsets is not None:
            groups = np.full(len(store.y), -1, np.int64)
            groups[:n_train] = np.repeat(np.arange(len(store.offsets) - 1), np.diff(store.offsets))
        is_test = np.arange(len(store.y)) >= n_train if store.n_test else None
        x = Gathered(store.pages.array, pages=store.pages)
        return Samples(x, store.y, store.n_classes, groups, store.name, store.n_tokens, is_test, store.labels)


@final
@dataclass(frozen=True, eq=False)
class OpenStore:
    """A store whose arrays are mapped.

    Attributes:
        folder: where it lies.
        manifest: what it says about itself.
        pages: inputs, (samples, ...).
        y: labels, (samples, ...): what they are, `labels` says.
        offsets: first row of each client, and one past the last; None if the data have no clients.
    """

    folder: Path
    manifest: Mapping[str, Any]
    pages: Pages
    y: NDArray[Any]
    offsets: IntArray | None

    @property
    def name(self) -> str:
        """What messages call it."""
        return str(self.manifest["name"])

    @property
    def n_test(self) -> int:
        """Size of the test set, the last rows."""
        return int(self.manifest["test_samples"])

    @property
    def n_classes(self) -> int:
        """Number of labels."""
        return int(self.manifest["labels"])

    @property
    def labels(self) -> LabelKind:
        """What y holds."""
        kind: LabelKind = self.manifest.get("label_kind", "classes")
        return kind

    @property
    def n_tokens(self) -> int | None:
        """Size of the vocabulary; None if the inputs are numbers."""
        tokens = self.manifest["tokens"]
        return None if tokens is None else int(tokens)

    def names(self) -> dict[str, list[str]]:
        """Names of "clients", "labels" and "tokens", those that there are."""
        return {key: [str(each) for each in names] for key, names in _read_json(self.folder / NAMES).items()}


def is_store(folder: Path) -> bool:
    """Whether a folder holds a store."""
    try:
        return bool(_read_json(folder / MANIFEST).get("format") == FORMAT)
    except DataError:
        return False


def open_store(folder: Path) -> OpenStore:
    """Map the arrays of a store; reads labels and offsets, but no inputs.

    Raises:
        DataError: if it is no store, a file is missing or has another size, or the arrays do not fit together.
    """
    if not folder.is_dir():
        raise DataError(
            f"{folder}: no such folder; expected a store, made by: evsim data import FORMAT PATH --out NAME"
        )
    manifest = _manifest(folder)
    _check_sizes(folder, manifest)
    try:
        for name in manifest["files"]:
            if name.endswith(".npy"):
                check_npy(folder / name)
        pages = Pages(folder / INPUTS)
        y: NDArray[Any] = np.load(folder / LABELS, allow_pickle=False)
        if manifest.get("label_kind", "classes") == "classes":
            y = y.astype(np.int64)
        offsets: NDArray[Any] | None = None
        if OFFSETS in manifest["files"]:
            offsets = np.load(folder / OFFSETS, allow_pickle=False).astype(np.int64)
    except (OSError, ValueError, EOFError, SyntaxError, MemoryError) as error:
        raise DataError(f"{folder}: cannot be read: {error}; import it again") from error
    n_train = len(y) - int(manifest["test_samples"])
    fit = offsets is None or (offsets[0] == 0 and offsets[-1] == n_train and bool((np.diff(offsets) >= 0).all()))
    if len(pages.array) != len(y) or n_train < 0 or not fit:
        raise DataError(f"{folder}: its arrays do not fit together; import it again")
    return OpenStore(folder, manifest, pages, y, offsets)


def verify(folder: Path) -> None:
    """Compare every file of a store with its checksum.

    Raises:
        DataError: if one differs; names all that do.
    """
    manifest = _manifest(folder)
    _check_sizes(folder, manifest)
    wrong = [name for name, file in manifest["files"].items() if checksum(folder / name) != file["sha256"]]
    if wrong:
        problems = [Problem(str(folder / name), "wrong checksum", "", "import it again") for name in wrong]
        raise DataError(report(problems))


def checksum(path: Path) -> str:
    """SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _manifest(folder: Path) -> dict[str, Any]:
    if not (folder / MANIFEST).is_file():
        raise DataError(
            f"{folder}: is no store (no {MANIFEST}); make one with: evsim data import FORMAT PATH --out NAME"
        )
    manifest = _read_json(folder / MANIFEST)
    if manifest.get("format") != FORMAT:
        raise DataError(f"{folder}: format {manifest.get('format')!r}; expected {FORMAT!r}")
    if manifest.get("version") != VERSION:
        raise DataError(f"{folder}: version {manifest.get('version')!r}; expected {VERSION}; import it again")
    missing = [key for key in ("name", "files", "samples", "test_samples", "labels", "tokens") if key not in manifest]
    if missing:
        raise DataError(f"{folder}: its manifest lacks {', '.join(missing)}; import it again")
    if manifest.get("label_kind", "classes") not in IN_WORDS:
        raise DataError(f"{folder}: labels of kind {manifest['label_kind']!r}; expected {', '.join(IN_WORDS)}")
    return manifest


def _check_sizes(folder: Path, manifest: Mapping[str, Any]) -> None:
    problems = []
    for name, file in manifest["files"].items():
        path = folder / name
        if Path(name).name != name:
            problems.append(Problem(str(path), "a path that leaves the store", "a file name", "import it again"))
        elif not path.is_file():
            problems.append(Problem(str(path), "missing", f"a file of {file['bytes']} bytes", "import it again"))
        elif path.stat().st_size != file["bytes"]:
            size = path.stat().st_size
            problems.append(Problem(str(path), f"{size} bytes", f"{file['bytes']} bytes", "import it again"))
    if problems:
        raise DataError(report(problems))


def _read_json(path: Path) -> dict[str, Any]:
    return load_json(path, what="a file of a store", raising=DataError)
