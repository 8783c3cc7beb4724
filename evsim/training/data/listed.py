"""Samples by a list of the user's: which client has which."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, final

import numpy as np
from typing_extensions import override

from evsim.base.errors import DataError, Problem, TraceError
from evsim.base.vocabulary import IntArray
from evsim.traces.formats import _table
from evsim.training.data.base import Partition
from evsim.training.data.partition import Split, by_owner

_KEY = "data.partition.file"
_OTHER_NAMES = {"client_id": "client", "sample_id": "sample", "index": "sample"}
_COLUMNS = ("client", "sample")
_SHOWN = 5
_MOST_CLIENTS = 10**7  # where the scenario does not say how many


@final
@dataclass(frozen=True, kw_only=True)
class Listed(Partition):
    """Each client has the samples that a file lists for it, in the order of the file; the rest stays unused.

    Samples are counted from 0 over the whole data set, before a test set is split off. What is listed is never tested
    on. Without `population.clients` there are as many clients as the largest number in the list says.

    Attributes:
        file: a CSV with columns client and sample (numbers from 0), relative to the scenario.
    """

    by_labels: ClassVar[bool] = False

    file: str

    @override
    def listed(self, n_samples: int, n_clients: int | None, folder: Path) -> Split:
        client, sample = self._read(folder, n_samples, n_clients)
        n = int(client.max()) + 1 if n_clients is None else n_clients
        place, offsets = by_owner(client, n)
        index = sample[place]
        self._refuse_twice(index, np.repeat(np.arange(n), np.diff(offsets)), n_samples)
        return index, offsets

    @override
    def split(
        self, y: IntArray, groups: IntArray | None, n_classes: int, n_clients: int | None, rng: np.random.Generator
    ) -> Split:
        raise DataError("partition listed: it names samples of a whole data set, and cannot deal a part of one")

    def _read(self, folder: Path, n_samples: int, n_clients: int | None) -> tuple[IntArray, IntArray]:
        """Client and sample of each row."""
        path = folder / Path(self.file).expanduser()
        if not path.is_file():
            raise DataError(f"{_KEY}: {path}: no such file; expected a CSV with columns client and sample")
        try:
            return _whole_numbers(path, {"client": n_clients, "sample": n_samples})
        except TraceError as error:  # of the reader of tables
            raise DataError(str(error)) from error

    def _refuse_twice(self, index: IntArray, owner: IntArray, n_samples: int) -> None:
        """Clients may share samples, but have each but once."""
        pairs, counts = np.unique(owner * np.int64(n_samples) + index, return_counts=True)
        if (twice := pairs[counts > 1]).size:
            shown = ", ".join(f"client {pair // n_samples}: sample {pair % n_samples}" for pair in twice[:_SHOWN])
            more = ", ..." if len(twice) > _SHOWN else ""
            raise DataError(f"{self.file}: listed more than once: {shown}{more}; expected each sample once per client")


def _whole_numbers(path: Path, ends: dict[str, int | None]) -> tuple[IntArray, IntArray]:
    table = _table.read_table(path, lambda name: _OTHER_NAMES.get(name, name))
    problems = _table.check_known(table, _COLUMNS)
    problems += [
        Problem(f"no column {name!r}", f"it has {', '.join(table.headers.values())}", "client and sample")
        for name in _COLUMNS
        if name not in table.columns
    ]
    if problems:
        raise _table.fail(path, problems)
    found = []
    for name, end in ends.items():
        values, problems = _table.numbers(table, name)
        usable = (values >= 0) & (values < (_MOST_CLIENTS if end is None else end)) & (values == np.floor(values))
        if problems or not usable.all():
            expected = f"the number of a {name}, from 0{'' if end is None else f' to {end - 1}'}"
            raise _table.fail(path, problems or table.problems(~usable, name, expected))
        found.append(values.astype(np.int64))
    if not len(found[0]):
        raise DataError(f"{path}: lists no sample; expected rows client, sample")
    return found[0], found[1]
