"""Tables of a run folder from Parquet or from the journal of a killed run, as pandas frames with tidy types."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from typing_extensions import override

from evsim.base.caveat import Caveat
from evsim.base.errors import Problem, RunFolderError, report
from evsim.base.parquet import differs, read_parquet
from evsim.base.vocabulary import Outcome
from evsim.run.recorder import read_journal, schema
from evsim.run.schema import TABLES

#: A category shared by all runs stays one when their tables are stacked.
_OUTCOMES = pd.Index([outcome.label for outcome in Outcome])


class MissingColumnError(RunFolderError, KeyError):
    """A column that an older run folder does not hold."""

    @override
    def __str__(self) -> str:  # a KeyError would show its quotes
        return str(self.args[0])


class LackingTable(pd.DataFrame):
    """A table of an older run folder: asking for a column that it lacks is answered in a sentence."""

    _metadata: ClassVar[list[str]] = ["_lacks", "_place"]  # what is made from it keeps them
    _lacks: frozenset[str] = frozenset()
    _place: str = ""

    @property
    def _constructor(self) -> type[pd.DataFrame]:
        return LackingTable

    @override
    def __getitem__(self, key: Any) -> Any:
        asked = [key] if isinstance(key, str) else key if isinstance(key, list) else []
        lacking = [name for name in asked if isinstance(name, str) and name in self._lacks and name not in self.columns]
        if lacking:
            given = f"no column {', '.join(lacking)}: the run was written before there was one"
            hint = "run its scenario again to have it; Run.missing lists what a run lacks"
            raise MissingColumnError(report([Problem(self._place, given, "a newer run folder", hint)]))
        return super().__getitem__(key)


def read_table(folder: Path, name: str, *, partial: bool = False) -> pd.DataFrame:
    """One table of a run folder: the columns that there are, in the order of its layout, others after them.

    Raises:
        RunFolderError: if the file is missing or damaged.
    """
    table = read_journal(folder, name) if partial else _read_parquet(folder / f"{name}.parquet", name)
    columns = {field.name: _series(field, table.column(field.name)) for field in table.schema}
    lacks = [column for column in schema(name).names if column not in columns]
    if not lacks:
        return pd.DataFrame(columns, copy=False)  # a copy into blocks takes longer than reading the file
    frame = LackingTable(columns, copy=False)
    object.__setattr__(frame, "_lacks", frozenset(lacks))
    object.__setattr__(frame, "_place", f"{folder}: {name}")
    return frame


def missing_columns(folder: Path) -> dict[str, tuple[str, ...]]:
    """By table, what the layout of today has and the folder lacks; a table without a file lacks all of it."""
    found = {}
    for name in TABLES:
        path = folder / f"{name}.parquet"
        held = _names(path) if path.is_file() else []
        lacking = tuple(column for column in schema(name).names if column not in held)
        if lacking:
            found[name] = lacking
    return found


def changed(folder: Path, manifest: Mapping[str, Any], names: Iterable[str]) -> Iterator[Caveat]:
    """Whether the tables are those that the run wrote, as far as that is cheap: see `base.parquet.differs`."""
    told = manifest.get("tables")
    if not isinstance(told, dict):
        yield Caveat(
            "unsealed",
            "the folder does not say what its tables were when the run ended, as older ones do: changes go unnoticed",
            "",
            f"evsim verify {folder} recomputes what can be recomputed",
        )
        return
    wrong = [name for name in names if name in told and _is_other(folder / f"{name}.parquet", told[name])]
    if wrong:
        yield Caveat(
            "changed_tables",
            "tables differ from what the run wrote: figures made from them are not those of the run",
            ", ".join(wrong),
            f"run evsim verify {folder}, or its scenario again",
        )


def _is_other(path: Path, told: Mapping[str, Any]) -> bool:
    try:
        return differs(path, told)
    except (OSError, ValueError, KeyError, TypeError):
        return True


def journal_rows(folder: Path) -> dict[str, int]:
    """How many rows of each table a killed run left behind."""
    return {name: len(read_journal(folder, name)) for name in TABLES}


def _read_parquet(path: Path, name: str) -> pa.Table:
    try:
        found = read_parquet(path)
        layout = schema(name)
        known = [field for field in layout if field.name in found.column_names]
        other = [field for field in found.schema if field.name not in layout.names]
        whole = pa.schema([*known, *other])
        return found.select(whole.names).cast(whole)
    except FileNotFoundError as error:
        given = "no such table: the run was written before there was one, or did not record it"
        raise RunFolderError(report([Problem(str(path), given, "a table of a run folder")])) from error
    except (OSError, ValueError, pa.ArrowException) as error:
        raise _unreadable(path, error) from error


def _names(path: Path) -> list[str]:
    try:
        names: list[str] = pq.read_schema(path).names
    except FileNotFoundError:
        raise
    except (OSError, ValueError, pa.ArrowException) as error:
        raise _unreadable(path, error) from error
    return names


def _unreadable(path: Path, error: Exception) -> RunFolderError:
    return RunFolderError(report([Problem(str(path), f"cannot be read ({error})", "a table of a run folder")]))


def _series(field: pa.Field, column: pa.ChunkedArray) -> pd.Series:
    if pa.types.is_string(field.type):
        return _text(field.name, column)
    if field.nullable and pa.types.is_integer(field.type):
        return pd.Series(_nullable(column))
    return pd.Series(column.to_numpy())


def _text(name: str, column: pa.ChunkedArray) -> pd.Series:
    coded = column.dictionary_encode().combine_chunks()
    found = pd.Series(coded.to_pandas())
    return found.cat.set_categories(_OUTCOMES) if name == "outcome" else found


def _nullable(column: pa.ChunkedArray) -> pd.arrays.IntegerArray:
    mask = np.asarray(column.is_null().to_numpy(), np.bool_)
    return pd.arrays.IntegerArray(column.fill_null(0).to_numpy(), mask)
