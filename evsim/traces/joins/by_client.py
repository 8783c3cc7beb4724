"""CSV files of the user's with a row per client."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from evsim.base.errors import Problem, TraceError
from evsim.base.vocabulary import IntArray
from evsim.traces.formats import _table

if TYPE_CHECKING:
    from evsim.traces.formats._table import Table

_SHOWN = 5  # problems said one by one


def rows_by_client(path: Path, n_clients: int, column: str, known: tuple[str, ...] = ()) -> tuple[IntArray, Table]:
    """The client of each row, and the table: a row for every client, in any order.

    Args:
        path: of the file; columns client (its number, from 0) and `column`.
        n_clients: number of clients.
        column: that is needed.
        known: all that it may have; (): anything.

    Raises:
        TraceError: if the file is not there, lacks a column, or has not one row per client.
    """
    if not path.exists():
        raise TraceError(f"population.join.file: {path}: no such file; expected a CSV with columns client and {column}")
    table = _table.read_table(path, lambda name: {"client_id": "client", "device_id": "device"}.get(name, name))
    problems = _table.check_known(table, known) if known else []
    problems += [
        Problem(f"no column {name!r}", f"it has {', '.join(table.headers.values())}", f"client and {column}")
        for name in ("client", column)
        if name not in table.columns
    ]
    if problems:
        raise _table.fail(path, problems)
    values, problems = _table.numbers(table, "client")
    whole = (values >= 0) & (values < n_clients) & (values == np.floor(values))
    if problems or not whole.all():
        clients = f"the number of a client, 0 to {n_clients - 1}"
        raise _table.fail(path, problems or table.problems(~whole, "client", clients))
    client = values.astype(np.int64)  # whole numbers below the number of clients
    times = np.bincount(client, minlength=n_clients)
    if (odd := np.flatnonzero(times != 1)).size:
        shown = ", ".join(f"client {number}: {times[number]}" for number in odd[:_SHOWN])
        raise TraceError(f"{path}: rows of {shown}{', ...' if len(odd) > _SHOWN else ''}; expected one row per client")
    return client, table
