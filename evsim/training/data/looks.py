"""Data in words, numbers and a plot: clients, samples per client, labels per client, skew."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from evsim.base import registry
from evsim.base.errors import DataError, EvsimError, suggest
from evsim.base.figures import is_narrow, new_figure, titled, write
from evsim.base.units import format_bytes
from evsim.base.vocabulary import FloatArray, IntArray
from evsim.training.data.base import DataSet
from evsim.training.data.gathered import Gathered, Values, select
from evsim.training.data.labels import LabelKind
from evsim.training.data.partition import label_skew
from evsim.training.data.store import is_store, open_store

_MOST_CELLS = 50_000_000  # clients times labels, up to which skew is computed
_SHOWN = 60  # clients whose labels are drawn
_TOP = 5  # names that are listed
_TICKS = 20  # labels that are named in a plot
_READ = 10_000  # inputs of which mean and deviation are taken
_COLUMNS = 16  # numbers of a sample, up to which each has a mean of its own
_IMAGES = 4  # axes: samples, channels, height, width


@final
@dataclass(frozen=True, eq=False, kw_only=True)
class Look:
    """What can be said about data; inputs are read for their mean and deviation only.

    Attributes:
        name: what it is called.
        inputs: what x holds, in words.
        y: labels of the samples that clients learn from.
        labels: what they are.
        owner: number of the client of each of them; None if they have no natural clients.
        n_clients: number of natural clients.
        n_classes: number of labels.
        n_test: size of the data's own test set.
        x: the inputs that clients learn from; None if they are token ids.
        label_names, client_names: names by number; empty if there are none.
    """

    name: str
    inputs: str
    y: NDArray[Any]
    owner: IntArray | None
    n_clients: int
    n_classes: int
    n_test: int
    x: Values | None = None
    labels: LabelKind = "classes"
    label_names: list[str] = field(default_factory=list)
    client_names: list[str] = field(default_factory=list)

    @property
    def sizes(self) -> IntArray:
        """Samples per client."""
        return np.zeros(0, np.int64) if self.owner is None else np.bincount(self.owner, minlength=self.n_clients)

    def label_counts(self) -> IntArray:
        """How often each client has each label, (clients, labels)."""
        owner = np.zeros(0, np.int64) if self.owner is None else self.owner
        flat = np.bincount(owner * self.n_classes + self.y[: len(owner)], minlength=self.n_clients * self.n_classes)
        return flat.reshape(self.n_clients, self.n_classes).astype(np.int64)


def look_at(name: str) -> Look:
    """A store by its folder, or a data set by its kind.

    Raises:
        DataError: if there is neither.
    """
    folder = Path(name)
    if is_store(folder):
        return _store(folder)
    kinds = registry.entries("dataset")
    if name in kinds:
        return _dataset(name)
    if folder.exists():
        open_store(folder)  # says what is wrong with it
    known = [*kinds, *(row[0] for row in found_stores(Path()))]
    raise DataError(f"{name}: neither a store nor a data set; {suggest(name, known)}")


def found_stores(folder: Path) -> list[tuple[str, ...]]:
    """Stores in a folder and the folders of it: path, and what they hold."""
    places = [folder, *sorted(each for each in folder.glob("*") if each.is_dir()), *sorted(folder.glob("*/*/"))]
    rows: list[tuple[str, ...]] = []
    for place in places:
        if place.is_dir() and is_store(place):
            try:
                manifest = open_store(place).manifest
            except DataError as error:
                rows.append((str(place), f"cannot be used: {str(error).splitlines()[-1].strip()}"))
                continue
            clients = "no clients" if manifest["clients"] is None else f"{manifest['clients']:,} clients"
            size = format_bytes(sum(each["bytes"] for each in manifest["files"].values()))
            rows.append(
                (str(place), f"{manifest['samples']:,} samples, {clients}, {manifest['labels']} labels, {size}")
            )
    return rows


def describe_data(look: Look) -> dict[str, str]:
    """Words and numbers, a line each."""
    lines = {
        "data": look.name,
        "inputs": look.inputs,
        **({} if look.x is None or not len(look.x) else _moments(look.x)),
        "samples": f"{len(look.y):,} to learn from, {look.n_test:,} in a test set of their own",
        "labels": _labels(look),
    }
    if look.owner is None:
        return {**lines, "clients": "none of its own: use a partition such as dirichlet or iid"}
    lines |= {
        "clients": f"{look.n_clients:,}{_examples(look.client_names)}",
        "samples per client": _quartiles(look.sizes),
    }
    if look.labels != "classes":
        return lines
    held = np.unique(look.owner * look.n_classes + look.y) // look.n_classes
    lines["labels per client"] = _quartiles(np.bincount(held, minlength=look.n_clients))
    if look.n_clients * look.n_classes <= _MOST_CELLS:
        skew = label_skew(look.label_counts())
        lines["label skew"] = f"{skew:.2f} (mean Jensen-Shannon distance to all: 0 equal, 1 disjoint)"
    return lines


def plot_data(look: Look, out: Path) -> None:
    """Draw samples per client, and which labels clients have.

    Raises:
        DataError: if the file's ending is not .png, .svg or .pdf, or it cannot be written.
    """
    narrow = is_narrow()
    figure = new_figure(9, 7.0 if narrow else 3.6)
    left, right = figure.subplots(*((2, 1) if narrow else (1, 2)))
    _draw_sizes(left, look)
    _draw_labels(figure, right, look)
    titled(figure, look.name)
    write(figure, out, DataError)


def _draw_sizes(axes: Any, look: Look) -> None:
    """Samples of each client, the largest first."""
    if look.owner is None:
        axes.text(0.5, 0.5, "no clients of its own", ha="center")
        axes.set_axis_off()
        return
    axes.plot(np.arange(1, look.n_clients + 1), np.sort(look.sizes)[::-1], drawstyle="steps-mid")
    axes.set(xlabel="clients, largest first", ylabel="samples", ylim=(0, None))


def _draw_labels(figure: Any, axes: Any, look: Look) -> None:
    """Which labels clients have, how often there is each, or how numbers are spread."""
    if look.labels == "numbers":
        axes.hist(look.y.reshape(len(look.y), -1), bins=40)
        axes.set(xlabel="number to be predicted", ylabel="samples")
        return
    if look.owner is None:
        axes.bar(np.arange(look.n_classes), _totals(look))
        axes.set(xlabel="label", ylabel="samples")
    else:
        spread = np.unique(np.linspace(0, look.n_clients - 1, min(_SHOWN, look.n_clients)).astype(np.int64))
        counts = _counts_of(look, spread)
        shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        shown = axes.imshow(shares, aspect="auto", vmin=0, interpolation="nearest")
        axes.set(xlabel="label", ylabel=f"client ({len(spread)} of {look.n_clients:,})", yticks=[])
        figure.colorbar(shown, label="share of the client's samples")
    if look.n_classes <= _TICKS:
        names = look.label_names[: look.n_classes] or [str(each) for each in range(look.n_classes)]
        long = max(map(len, names)) > 3  # noqa: PLR2004  characters that stand side by side
        axes.set_xticks(np.arange(look.n_classes), names, rotation=60 if long and look.n_classes > _TOP else 0)


def _counts_of(look: Look, clients: IntArray) -> IntArray:
    """Label counts of a few clients."""
    owner = np.zeros(0, np.int64) if look.owner is None else look.owner
    place = np.full(look.n_clients, -1)
    place[clients] = np.arange(len(clients))
    own = place[owner]
    shown, y = own[own >= 0], look.y[: len(own)][own >= 0]
    if look.labels == "flags":
        found = np.zeros((len(clients), look.n_classes), np.int64)
        np.add.at(found, shown, y)
        return found
    shown, y = np.repeat(shown, y[:1].size), y.reshape(-1)  # a class, or one of each time step
    flat = np.bincount(shown[y >= 0] * look.n_classes + y[y >= 0], minlength=len(clients) * look.n_classes)
    return flat.reshape(len(clients), look.n_classes).astype(np.int64)


def _totals(look: Look) -> IntArray:
    """How often each label occurs."""
    if look.labels == "flags":
        return np.asarray(look.y.sum(axis=0, dtype=np.int64))
    return np.bincount(look.y[look.y >= 0].astype(np.int64), minlength=look.n_classes)


def _store(folder: Path) -> Look:
    store = open_store(folder)
    n_train = len(store.y) - store.n_test
    n_clients = 0 if store.offsets is None else len(store.offsets) - 1
    names = store.names()
    shape, kind = store.manifest["shape"], store.manifest["inputs"]
    return Look(
        name=store.name,
        inputs=f"{kind} of shape {'x'.join(map(str, shape)) or '1'}, {store.manifest['dtype']}, "
        f"{format_bytes(len(store.y) * prod(shape) * store.pages.array.dtype.itemsize)}",
        y=store.y[:n_train],
        owner=None if store.offsets is None else np.repeat(np.arange(n_clients), np.diff(store.offsets)),
        n_clients=n_clients,
        n_classes=store.n_classes,
        n_test=store.n_test,
        x=None if kind == "tokens" else Gathered(store.pages.array, np.arange(n_train), store.pages),
        labels=store.labels,
        label_names=names.get("labels", []),
        client_names=names.get("clients", []),
    )


def _dataset(kind: str) -> Look:
    try:
        dataset: DataSet = registry.load("dataset", kind)()
    except TypeError as error:
        raise DataError(
            f"{kind}: needs options, so it can only be described as part of a scenario ({error})"
        ) from error
    try:
        samples = dataset.load(n_clients=None, seed=0, folder=Path())
    except EvsimError as error:
        raise DataError(f"{kind}: {error}") from error
    train = np.ones(len(samples.y), bool) if samples.is_test is None else ~samples.is_test
    groups = None if samples.groups is None else samples.groups[train]
    shape = "x".join(map(str, samples.x.shape[1:]))
    kind_of = "tokens" if samples.n_tokens is not None else "numbers"
    return Look(
        name=samples.name,
        inputs=f"{kind_of} of shape {shape}, {samples.x.dtype}, {format_bytes(samples.x.nbytes)}",
        y=samples.y[train] if groups is None else samples.y[train][groups >= 0],
        owner=None if groups is None else groups[groups >= 0],
        n_clients=0 if groups is None else int(groups.max(initial=-1)) + 1,
        n_classes=samples.n_classes,
        n_test=int((~train).sum()),
        x=None if samples.n_tokens is not None else select(samples.x, np.flatnonzero(train)),
        labels=samples.labels,
    )


def _moments(x: Values) -> dict[str, str]:
    """Mean and deviation, of each channel or each of a few columns, as the transform `normalize` takes them."""
    rows = np.unique(np.linspace(0, len(x) - 1, _READ).astype(np.int64))
    some = x[rows].astype(np.float64) / (255 if x.dtype == np.uint8 else 1)
    columns = some.ndim == 2 and some.shape[1] <= _COLUMNS  # noqa: PLR2004  samples and numbers
    along = (0, *range(2, some.ndim)) if some.ndim == _IMAGES or columns else None
    mean, deviation = np.atleast_1d(some.mean(axis=along)), np.atleast_1d(some.std(axis=along))
    text = f"mean = {_numbers(mean)}, deviation = {_numbers(deviation)}"
    return {"scale": f"{text}{' (bytes as 0 to 1)' if x.dtype == np.uint8 else ''}"}


def _numbers(values: FloatArray) -> str:
    return f"[{', '.join(f'{each:.4g}' for each in values)}]"


def _labels(look: Look) -> str:
    if look.labels == "numbers":
        mean, deviation = float(look.y.mean()), float(look.y.std())
        spread = f"{look.y.min():g} to {look.y.max():g}, mean {mean:.4g}, deviation {deviation:.4g}"
        return f"{look.n_classes} number{'s' * (look.n_classes > 1)} to predict, {spread}"
    counts = _totals(look)
    what = {"classes": "", "flags": " flags", "steps": " classes of time steps"}[look.labels]
    each = "times" if look.labels == "steps" else "samples"
    return f"{look.n_classes}{what}{_examples(look.label_names)}, {counts.min():,} to {counts.max():,} {each} each"


def _examples(names: list[str]) -> str:
    if not names:
        return ""
    return f" ({', '.join(names[:_TOP])}{', ...' if len(names) > _TOP else ''})"


def _quartiles(values: IntArray) -> str:
    low, first, middle, third, high = np.percentile(values, [0, 25, 50, 75, 100])
    return f"{low:.0f} to {high:.0f}; quartiles {first:.0f}, {middle:.0f}, {third:.0f}"
