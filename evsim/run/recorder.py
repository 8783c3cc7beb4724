"""The run folder: rows go to an append-only journal and become Parquet when the run ends.

A killed run leaves its journal behind (a Parquet file cut short has no footer and is lost; an Arrow stream can be read
up to its last batch). A thread brings waiting rows to the journal every few seconds, however long a step trains. Every
other file is written under a temporary name and renamed.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import threading
import time
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import SafetensorError
from safetensors.numpy import save_file

from evsim.base.errors import RunFolderError
from evsim.base.lock import beat
from evsim.base.parquet import seal
from evsim.base.profiling import part
from evsim.base.vocabulary import Outcome
from evsim.run.schema import TABLES

_BATCH_ROWS = 65_536
_GROUP_ROWS = 2 * _BATCH_ROWS  # of a Parquet file, however the rows came
_FLUSH_EVERY_S = 2.0  # wall-clock
_JOURNAL = "journal"
_NEW_JOURNAL = "journal.resumed"
_SCENARIO = "scenario.toml"
_OS_ERROR = re.compile(r"\(os error (\d+)\)")
_LABELS = pa.array([outcome.label for outcome in Outcome])
_FIRST = {name: fields(table)[0].name for name, table in TABLES.items()}


@lru_cache(maxsize=16)
def schema(table: str) -> pa.Schema:
    """The Arrow schema of a table: int64, float64, bool, string; nullable where the dataclass allows None."""
    hints = typing.get_type_hints(TABLES[table])
    return pa.schema([_field(field.name, hints[field.name]) for field in fields(TABLES[table])])


def _field(name: str, hint: Any) -> pa.Field:
    nullable = isinstance(hint, types.UnionType)
    kind = next(arg for arg in typing.get_args(hint) if arg is not type(None)) if nullable else hint
    known = {int: pa.int64(), float: pa.float64(), bool: pa.bool_(), str: pa.string()}
    return pa.field(name, known[kind], nullable=nullable)


@final
class Recorder:
    """Writes one run folder.

    Args:
        folder: created; must not exist or be empty, unless it is gone on with.
        again: the folder holds a run that goes on: it stays as it is until `replace`.
        before_replacing: called by `replace` before anything in the folder changes.
        lock: the file of a lock that is to be kept fresh.

    Raises:
        RunFolderError: if the folder holds something already or cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        *,
        again: bool = False,
        before_replacing: Callable[[], None] = lambda: None,
        lock: Path | None = None,
    ) -> None:
        self._folder, self._before_replacing, self._held = folder, before_replacing, lock
        self._journal = folder / (_NEW_JOURNAL if again else _JOURNAL)
        self.owns_folder = not again  # whether what lies in the folder is of this run
        self._buffers: dict[str, list[Mapping[str, Any]]] = {name: [] for name in TABLES}
        self._rows = dict.fromkeys(TABLES, 0)
        self._flushed = time.perf_counter()
        self._closed = False
        self._lock, self._over = threading.RLock(), threading.Event()
        self._watch: threading.Thread | None = None
        self._failed: Exception | None = None  # what went wrong in the thread
        if again:
            shutil.rmtree(self._journal, ignore_errors=True)
        else:
            _create(folder)
        self._journal.mkdir()
        self._schemas = {name: schema(name) for name in TABLES}
        self._writers = {
            name: pa.ipc.new_stream(str(self._journal / f"{name}.arrows"), layout)
            for name, layout in self._schemas.items()
        }

    @property
    def folder(self) -> Path:
        """Where the run is written."""
        return self._folder

    def replace(self) -> None:
        """What was told again reaches as far as what the folder holds: it takes the place of it."""
        if self.owns_folder:
            return
        with self._lock:
            self._before_replacing()
            for path in (self._folder / "manifest.json", *self._folder.glob("*.parquet"), *self._folder.glob("model*")):
                path.unlink(missing_ok=True)
            shutil.rmtree(self._folder / _JOURNAL, ignore_errors=True)
            self._journal = self._journal.rename(self._folder / _JOURNAL)
            self.owns_folder = True

    def abandon(self) -> None:
        """Leave the folder as it was before."""
        self._stop_watching()
        for writer in self._writers.values():
            writer.close()
        shutil.rmtree(self._journal, ignore_errors=True)

    @part("recording")
    def append(self, table: str, columns: Mapping[str, Any]) -> None:
        """Take a batch of rows: one sequence per column of `events.columns(table)`, not to be changed afterwards.

        `outcome` comes as codes of `events.Outcome`; in nullable columns -1 means null.
        """
        if self._watch is None:
            self._watch = threading.Thread(target=self._flush_always, name="evsim-journal", daemon=True)
            self._watch.start()
        with self._lock:
            self._buffers[table].append(columns)
            self._rows[table] += len(columns[_FIRST[table]])
        if self._rows[table] >= _BATCH_ROWS:
            self.flush(table)
        elif time.perf_counter() - self._flushed > _FLUSH_EVERY_S:
            self.flush()

    @part("recording")
    def flush(self, *tables: str) -> None:
        """Bring buffered rows to the journal, of all tables unless some are named."""
        self._flush(*tables)
        if self._failed is not None:
            raise self._failed

    def _flush(self, *tables: str) -> None:
        with self._lock:
            for name in tables or TABLES:
                batches = self._buffers[name]
                self._buffers[name], self._rows[name] = [], 0
                if batches:
                    arrays = [_column(field, [batch[field.name] for batch in batches]) for field in self._schemas[name]]
                    self._writers[name].write_batch(pa.record_batch(arrays, schema=self._schemas[name]))
            if not tables:
                self._flushed = time.perf_counter()

    def _stop_watching(self) -> None:
        self._over.set()
        if self._watch is not None:
            self._watch.join()

    def _flush_always(self) -> None:
        """In a thread of its own: a step may train for minutes, and rows from before it wait."""
        while not self._over.wait(_FLUSH_EVERY_S):
            if self._held is not None:
                beat(self._held)
            try:
                self._flush()
            except Exception as error:  # told where the run can hear it
                self._failed = error
                return

    @part("recording")
    def close(self) -> None:
        """Turn the journal into tables; no row is taken any more."""
        if self._closed:
            return
        self._closed = True
        self._stop_watching()
        self.flush()
        for name, writer in self._writers.items():
            writer.close()
            source = self._journal / f"{name}.arrows"
            atomically(self._folder / f"{name}.parquet", partial(_to_parquet, source))

    def table(self, name: str, columns: Sequence[str] | None = None) -> pa.Table:
        """A table as it was written, texts as categories, or some columns of it; `close` first."""
        texts = [field.name for field in self._schemas[name] if pa.types.is_string(field.type)]
        with pq.ParquetFile(self._folder / f"{name}.parquet", read_dictionary=texts) as file:
            return file.read(columns=columns, use_threads=False)

    def seals(self) -> dict[str, dict[str, int | str]]:
        """What tells each table's file from a changed one; `close` first."""
        return {name: seal(self._folder / f"{name}.parquet") for name in TABLES}

    @part("recording")
    def finish(
        self,
        *,
        manifest: Mapping[str, object],
        scenario_toml: str,
        tensors: Mapping[str, np.ndarray] | None,
        model: str = "model",
    ) -> None:
        """Turn the journal into tables, unless `close` did, write the other files, remove the journal."""
        self.close()
        if tensors is not None:
            whole = {name: np.asarray(array, order="C") for name, array in tensors.items()}  # keeps scalars as they are
            atomically(self._folder / f"{model}.safetensors", lambda path: save_file(whole, str(path)))
        keep_scenario(self._folder, scenario_toml)
        text = json.dumps(manifest, indent=2, allow_nan=False) + "\n"
        atomically(self._folder / "manifest.json", lambda path: path.write_text(text, encoding="utf-8"))
        shutil.rmtree(self._journal)  # last: a folder with a journal was not finished


def keep_scenario(folder: Path, text: str) -> None:
    """Write the resolved scenario, before anything happens: a killed run then says what it was."""
    atomically(folder / _SCENARIO, lambda path: path.write_text(text, encoding="utf-8"))


def read_journal(folder: Path, table: str) -> pa.Table:
    """The rows of a table that a killed run had written, up to the last whole batch; an older one has fewer columns."""
    layout = schema(table)
    batches = []
    path = folder / _JOURNAL / f"{table}.arrows"
    try:
        with pa.ipc.open_stream(str(path)) as reader:
            layout = reader.schema
            for batch in reader:
                batch.validate(full=True)
                batches.append(batch)  # a list() would lose what was read before the damage
    except (pa.ArrowInvalid, OSError):
        pass  # the end of what was written
    return pa.Table.from_batches(batches, schema=layout)


def is_unfinished(folder: Path) -> bool:
    """Whether a run in this folder was killed before it could write its tables."""
    return (folder / _JOURNAL).is_dir()


def _create(folder: Path) -> None:
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise RunFolderError(f"{folder}: exists and is not empty; choose another folder with --out, or remove it")
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        reason = error.strerror or str(error)
        raise RunFolderError(f"{folder}: cannot be written ({reason}); choose another folder with --out") from error


def _column(field: pa.Field, parts: list[Any]) -> pa.Array:
    """One column of many batches; arrays are joined as arrays, lists as lists."""
    if pa.types.is_string(field.type) and field.name != "outcome":
        return pa.array(list(itertools.chain.from_iterable(parts)), field.type)
    whole = parts[0] if len(parts) == 1 else _join(parts)
    if field.name == "outcome":
        return _LABELS.take(pa.array(np.asarray(whole, np.int8)))
    if field.nullable:
        numbers = np.asarray(whole, np.int64)
        return pa.array(numbers, mask=numbers < 0)
    return pa.array(whole, type=field.type)


def _join(parts: list[Any]) -> Any:
    if all(isinstance(part, list) for part in parts):  # single rows: an array each would cost a microsecond
        return list(itertools.chain.from_iterable(parts))
    return np.concatenate(parts)


def _to_parquet(source: Path, target: Path) -> None:
    with pa.memory_map(str(source)) as file, pa.ipc.open_stream(file) as reader:
        layout = reader.schema
        texts = [field.name for field in layout if pa.types.is_string(field.type)]
        deltas = {field.name: "DELTA_BINARY_PACKED" for field in layout if pa.types.is_integer(field.type)}
        options = {"use_dictionary": texts, "column_encoding": deltas, "compression": "zstd", "compression_level": 1}
        with pq.ParquetWriter(str(target), layout, **options) as writer:
            for group in _groups(reader):
                writer.write_table(group, row_group_size=_GROUP_ROWS)


def _groups(reader: pa.RecordBatchReader) -> Iterator[pa.Table]:
    """Rows in groups of one size: a table's file does not tell when its rows were flushed."""
    rest = pa.Table.from_batches([], schema=reader.schema)
    for batch in reader:
        rest = pa.concat_tables([rest, pa.Table.from_batches([batch])])
        while len(rest) >= _GROUP_ROWS:
            yield rest.slice(0, _GROUP_ROWS).combine_chunks()
            rest = rest.slice(_GROUP_ROWS)
    if len(rest):
        yield rest.combine_chunks()


def atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Write under a temporary name, bring it to the disk, rename: a reader sees the whole file or none.

    Raises:
        OSError: if it cannot be written, whatever the writer raises then.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        write(temporary)
    except SafetensorError as error:  # says what the system said, but is no error of the system
        if (number := _OS_ERROR.search(str(error))) is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.replace(path)
