"""A CSV or Parquet file, or a folder of them, with a row per sample and a column that says whose it is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from evsim.base.errors import DataError
from evsim.training.data.importers._arrow import Columns, as_table
from evsim.training.data.importers._files import existing
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
    test: str | None = None,
    length: int | None = None,
    labels: Labels = "auto",
) -> Table:
    """Inputs, labels and clients from columns.

    Args:
        source: a ``.csv`` or ``.parquet`` file, or a folder of such files.
        x: columns of the inputs, divided by commas; default: image, x, text ..., else all that are nothing else.
        y: column of the labels, or several divided by commas; default: label, y, target ...
        client: column of the clients, numbers or texts; default: client, client_id, user ...; "": none.
        test: name of the file of the folder that is the test set.
        length: texts are cut, and filled up in front, to so many characters.
        labels: what the label is: "classes", "steps", "flags" or "numbers"; "auto": as in the data set `arrays`.
    """
    root = existing(Path(source), "a .csv or .parquet file, or a folder of them")
    files = [root] if root.is_file() else sorted([*root.glob("*.parquet"), *root.glob("*.csv")])
    if not files:
        raise DataError(f"{root}: holds no .csv or .parquet file")
    if test is not None and test not in [file.name for file in files]:
        raise DataError(f"-o test: no file {test!r}; expected one of {', '.join(file.name for file in files)}")
    import pyarrow as pa

    parts = [read_file(file) for file in files]
    try:
        whole = pa.concat_tables(parts)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise DataError(f"{root}: the columns of its files do not fit together: {error}") from error
    is_test = np.repeat([file.name == test for file in files], [len(part) for part in parts])
    columns = Columns(x=x, y=y, client=client, length=length, labels=labels)
    return as_table(whole, columns, root.name, is_test if test is not None else None)


def read_file(file: Path) -> pa.Table:
    """One file as an Arrow table."""
    import pyarrow as pa
    import pyarrow.csv as pc
    import pyarrow.parquet as pq

    try:
        return pq.read_table(file) if file.suffix == ".parquet" else pc.read_csv(file)
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        raise DataError(f"{file}: cannot be read: {error}") from error
