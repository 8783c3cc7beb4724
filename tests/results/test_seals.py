"""Tables that were changed after a run are told wherever its figures are shown; older folders say they cannot tell."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from evsim.base import parquet
from evsim.base.parquet import differs, seal
from evsim.cli import app
from evsim.results import load_run
from evsim.results.reading import changed
from evsim.run.schema import TABLES
from tests.results.hand_made import write


def keys(folder):
    return {each.key: each.measure for each in load_run(folder).caveats}


def flip(path, at):
    """Change one byte and nothing else."""
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("table", TABLES)
def test_any_changed_table_is_told_and_an_untouched_one_is_not(tiny, table):
    assert "changed_tables" not in keys(tiny.folder)
    path = tiny.folder / f"{table}.parquet"
    pq.write_table(pq.read_table(path), path)  # the same rows, written by another
    assert keys(tiny.folder)["changed_tables"] == table


def test_describe_compare_and_report_show_it(tmp_path):
    first, second = write(tmp_path / "a"), write(tmp_path / "b", seed=1)
    path = second.folder / "evaluations.parquet"
    table = pq.read_table(path)
    value = pa.array(table["value"].to_numpy() + 0.01)
    pq.write_table(table.set_column(table.column_names.index("value"), "value", value), path)
    words = "tables differ from what the run wrote"
    page = tmp_path / "page.html"
    for command in (["describe", second.folder], ["compare", first.folder, second.folder],
                    ["report", second.folder, "--out", page]):  # fmt: skip
        done = CliRunner().invoke(app, [str(each) for each in command], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        told = page.read_text(encoding="utf-8") if command[0] == "report" else done.output
        assert words in " ".join(told.split()), command


def test_every_byte_of_a_small_file_counts_and_of_a_large_one_its_size_and_footer(tmp_path, monkeypatch):
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"x": np.arange(200)}), path)
    told = seal(path)
    assert (told["rows"], told["bytes"], differs(path, told)) == (200, path.stat().st_size, False)
    size = path.stat().st_size
    places = range(4, size - 8, 37)
    for at in places:
        flip(path, at)
        assert differs(path, told)
        flip(path, at)
    monkeypatch.setattr(parquet, "CHEAP_BYTES", 0)
    assert not differs(path, told)
    flip(path, 10)  # of the rows: not looked at
    assert not differs(path, told)
    flip(path, 10)
    flip(path, size - 20)  # of the footer
    assert differs(path, told)


@pytest.mark.parametrize("content", [b"", b"PAR1", b"no table at all", b"\xff" * 4 + b"PAR1"])
def test_what_is_no_table_any_more_is_told_as_changed(tiny, content):
    path = tiny.folder / "sessions.parquet"
    told = {"sessions": seal(path) | {"bytes": len(content)}}
    path.write_bytes(content)
    (found,) = changed(tiny.folder, {"tables": told}, TABLES)
    assert found.measure == "sessions"


@pytest.mark.parametrize("told", [None, "x", []])
def test_an_older_folder_says_that_changes_go_unnoticed(tiny, told):
    path = tiny.folder / "manifest.json"
    manifest = json.loads(path.read_text())
    path.write_text(
        json.dumps(
            {key: value for key, value in manifest.items() if key != "tables"}
            | ({} if told is None else {"tables": told})
        )
    )
    found = keys(tiny.folder)
    assert "unsealed" in found
    assert "changed_tables" not in found


@pytest.mark.parametrize("told", [{}, {"bytes": 1}, 3])
def test_a_seal_that_cannot_be_read_is_one_that_differs(tiny, told):
    path = tiny.folder / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["tables"]["tasks"] = told
    path.write_text(json.dumps(manifest))
    assert keys(tiny.folder)["changed_tables"] == "tasks"
