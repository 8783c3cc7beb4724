"""One cell of a run is changed: the audit finds it. A product over all columns of `tasks` and `server_steps`."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from evsim.run.schema import columns
from evsim.verify import audit
from evsim.verify.folder import Folder, read
from evsim.verify.table import NULL, OF, Table
from tests.verify.worlds import SELECTORS, aggregations, run

WORLDS = {
    "rounds": (
        "rounds, keep",
        "asking",
        {"client_rule": {"partial_work": True}, "evaluation": {"per_client": True, "every": "2h"}},
    ),
    "buffers": ("buffers, stale", "uniform", {}),
}
CASES = [(world, table, column) for world in WORLDS for table in ("tasks", "server_steps") for column in columns(table)]
WORDS = {
    "kind": ("train", "query"),
    "reason": ("goal", "buffer"),
    "by": ("", "tier"),
    "trigger": ("grid", "final"),
    "split": ("train", "held_out"),
    "metric": ("loss", "accuracy"),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Folder]:
    """A clean run of each world."""
    found = {}
    for name, (how, whom, option) in WORLDS.items():
        change = {"aggregation": aggregations()[how], "selection": SELECTORS[whom], "stop": {"virtual_time": "4h"}}
        found[name] = read(run(tmp_path_factory.mktemp("worlds") / name, change, option))
    return found


@pytest.mark.parametrize("world", WORLDS)
def test_the_worlds_are_clean_and_full_of_events(folders, world):
    assert [check for check in audit(folders[world]).checks if not check.ok] == []
    assert {OF["aggregated"], OF["stale"], OF["dropped"]} <= set(folders[world].tasks["outcome"].tolist())


@pytest.mark.parametrize(("world", "table", "column"), CASES)
def test_a_changed_cell_is_found(folders, world, table, column):
    """In eight rows, one after the other; there is no column without a check."""
    for row in _some(getattr(folders[world], table), 8):
        assert not audit(_changed(folders[world], table, column, row)).ok


@pytest.mark.parametrize("column", ["at", "version", "trigger"])
def test_a_changed_evaluation_is_found(folders, column):
    for row in range(len(folders["rounds"].evaluations)):
        assert not audit(_changed(folders["rounds"], "evaluations", column, row)).ok


@pytest.mark.parametrize("column", columns("client_evaluations"))
def test_a_changed_evaluation_of_a_client_is_found(folders, column):
    for row in _some(folders["rounds"].client_evaluations, 8):
        assert not audit(_changed(folders["rounds"], "client_evaluations", column, row)).ok


def test_a_client_that_is_left_out_is_found(folders):
    table = folders["rounds"].client_evaluations
    less = replace(table, columns={name: cells[:-1] for name, cells in table.columns.items()})
    found = [check.name for check in audit(replace(folders["rounds"], client_evaluations=less)).checks if not check.ok]
    assert found == ["no client is left out", "the spread over clients"]


@pytest.fixture(scope="module")
def of_a_trace(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """A run whose devices are those of a file."""
    change = {"population": {"availability": "phones"}, "record": {"sessions": False}, "stop": {"virtual_time": "30h"}}
    rounds = {"aggregation": {"kind": "synchronous", "cohort_goal": 4}}
    return read(run(tmp_path_factory.mktemp("trace") / "run", change, rounds))


@pytest.mark.parametrize("column", columns("sessions"))
def test_a_changed_session_is_found_with_the_trace(of_a_trace, column):
    assert audit(of_a_trace, "phones").ok
    for row in _some(of_a_trace.sessions, 5):
        assert not audit(_changed(of_a_trace, "sessions", column, row), "phones").ok


def _some(table: Table, count: int) -> range:
    return range(0, len(table), max(len(table) // count, 1))


def _changed(folder: Folder, name: str, column: str, row: int) -> Folder:
    """The folder with another value in one cell: one more, or another word; a value where there was none."""
    table = getattr(folder, name)
    cells = table[column].copy()
    cells[row] = _other(column, cells[row])
    return replace(folder, **{name: replace(table, columns={**table.columns, column: cells})})


def _other(column: str, value: object) -> object:
    if column in WORDS:
        first, second = WORDS[column]
        return second if value == first else first
    if column == "outcome":
        return OF["late"] if value == OF["aggregated"] else OF["aggregated"]
    if isinstance(value, bool | np.bool_):
        return not value
    if isinstance(value, float) and np.isnan(value):
        return 1.0
    if isinstance(value, float):
        return value * 1.01 + 0.1
    return 1 if value == NULL else value + 1  # type: ignore[operator]
