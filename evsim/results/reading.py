"""Tables of a run folder from Parquet or from the journal of a killed run, as pandas frames with tidy types."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from evsim.base.errors import Problem, RunFolderError, report
from evsim.base.vocabulary import Outcome
from evsim.run.recorder import read_journal, schema
from evsim.run.schema import TABLES

#: A category shared by all runs stays one when their tables are stacked.
_OUTCOMES = pd.Index([outcome.label for outcome in Outcome])


def read_table(folder: Path, name: str, *, partial: bool = False) -> pd.DataFrame:
    """One table of a run folder.

    Raises:
        RunFolderError: if the file is missing, damaged, or lacks a column.
    """
    table = read_journal(folder, name) if partial else _read_parquet(folder / f"{name}.parquet", name)
    columns = {field.name: _series(field, table.column(field.name)) for field in schema(name)}
    return pd.DataFrame(columns, copy=False)  # a copy into blocks takes longer than reading the file


def journal_rows(folder: Path) -> dict[str, int]:
    """How many rows of each table a killed run left behind."""
    return {name: len(read_journal(folder, name)) for name in TABLES}


def _read_parquet(path: Path, name: str) -> pa.Table:
    layout = schema(name)
    try:
        return pq.read_table(path, columns=layout.names, schema=layout, memory_map=True)
    except (OSError, ValueError, pa.ArrowException) as error:
        problem = Problem(str(path), f"cannot be read ({error})", "a table of a run folder")
        raise RunFolderError(report([problem])) from error


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
