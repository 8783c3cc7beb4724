"""The data dictionary and the code name the same tables, columns and outcomes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from evsim.events import TABLES, Outcome, columns

PAGE = Path(__file__).parents[1] / "docs" / "data_dictionary.md"


def _sections() -> dict[str, str]:
    parts = re.split(r"^## (.+)$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def _rows_below(header: str, text: str) -> list[list[str]]:
    """The cells of the Markdown table whose first header cell is given."""
    lines = text.splitlines()
    begin = next(i for i, line in enumerate(lines) if line.startswith(f"| {header} |")) + 2
    rows = []
    for line in lines[begin:]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def test_dictionary_has_the_tables_of_the_code_in_their_order():
    assert [name for name in _sections() if name in TABLES] == list(TABLES)
    assert set(_sections()) - set(TABLES) == {"The other files"}


@pytest.mark.parametrize("table", TABLES)
def test_dictionary_has_the_columns_of_the_code_in_their_order(table):
    named = [row[0].strip("`") for row in _rows_below("column", _sections()[table])]
    assert tuple(named) == columns(table)


def test_dictionary_explains_every_outcome():
    rows = _rows_below("outcome", _sections()["tasks"])
    assert [row[0].strip("`") for row in rows] == [outcome.label for outcome in Outcome]
    assert all(row[1] for row in rows)
