"""One cell of a run is changed: the audit finds it. A product over all columns of `tasks` and `server_steps`."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from evsim.run.schema import columns
from evsim.verify import verify
from tests.verify.worlds import SELECTORS, aggregations, run

#: Columns that no check guards, and why.
UNGUARDED: dict[str, str] = {}
WORLDS = {
    "rounds": ("rounds, keep", "asking", {"client_rule": {"partial_work": True}}),
    "buffers": ("buffers, stale", "uniform", {}),
}
CASES = [(world, table, column) for world in WORLDS for table in ("tasks", "server_steps") for column in columns(table)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A clean run of each world."""
    found = {}
    for name, (how, whom, option) in WORLDS.items():
        change = {"aggregation": aggregations()[how], "selection": SELECTORS[whom], **option}
        found[name] = run(tmp_path_factory.mktemp("worlds") / name, change)
    return found


@pytest.mark.parametrize("world", WORLDS)
def test_the_worlds_are_clean_and_full_of_events(folders, world):
    assert [check for check in verify(folders[world]).checks if not check.ok] == []
    tasks = pq.read_table(folders[world] / "tasks.parquet")
    assert {"aggregated", "stale", "dropped"} <= set(tasks["outcome"].to_pylist())


@pytest.mark.parametrize(("world", "table", "column"), CASES)
def test_a_changed_cell_is_found(tmp_path, folders, world, table, column):
    """In every tenth row, one after the other."""
    folder = shutil.copytree(folders[world], tmp_path / "run")
    path = folder / f"{table}.parquet"
    whole = pq.read_table(path)
    missed = []
    for row in range(0, len(whole), max(len(whole) // 10, 1)):
        pq.write_table(_changed(whole, column, row), path)
        if verify(folder).ok:
            missed.append(row)
    assert not missed or f"{table}.{column}" in UNGUARDED


def _changed(whole: pa.Table, column: str, row: int) -> pa.Table:
    """The table with another value in one cell: one more, or another word; a value where there was none."""
    cells = whole[column].to_pylist()
    cells[row] = _other(column, cells[row])
    place = whole.schema.get_field_index(column)
    return whole.set_column(place, whole.schema.field(place), pa.array(cells, whole.schema.field(place).type))


def _other(column: str, value: object) -> object:
    words = {"kind": ("train", "query"), "outcome": ("late", "aggregated"), "reason": ("goal", "buffer")}
    words["trigger"] = ("grid", "final")
    if column in words:
        first, second = words[column]
        return second if value == first else first
    if isinstance(value, bool):
        return not value
    if column == "order":
        return int(value) ^ (1 << 62)  # type: ignore[call-overload]
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return 1
    return value * 1.01 + 0.1 if isinstance(value, float) else value + 1  # type: ignore[operator]


@pytest.mark.parametrize("column", columns("sessions"))
def test_a_changed_session_is_found_with_the_trace(tmp_path, column):
    change = {"population": {"availability": "phones"}, "record": {"sessions": False}, "stop": {"virtual_time": "30h"}}
    folder = run(tmp_path / "run", change, {"aggregation": {"kind": "synchronous", "cohort_goal": 4}})
    assert verify(folder, "phones").ok
    path = folder / "sessions.parquet"
    whole = pq.read_table(path)
    for row in range(0, len(whole), len(whole) // 20):
        pq.write_table(_changed(whole, column, row), path)
        assert not verify(folder, "phones").ok


@pytest.mark.parametrize(("table", "column"), [("evaluations", name) for name in ("at", "version", "trigger")])
def test_a_changed_evaluation_is_found(tmp_path, folders, table, column):
    folder = shutil.copytree(folders["rounds"], tmp_path / "run")
    path = folder / f"{table}.parquet"
    whole = pq.read_table(path)
    for row in range(len(whole)):
        pq.write_table(_changed(whole, column, row), path)
        assert not verify(folder).ok
