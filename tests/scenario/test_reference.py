"""The reference page is what the code says."""

from __future__ import annotations

from pathlib import Path

from evsim.base import registry
from evsim.scenario.reference import reference

PAGE = Path(__file__).parents[2] / "docs" / "scenario_reference.md"


def test_the_page_is_up_to_date():
    written = PAGE.read_text(encoding="utf-8")
    assert written == reference(), "run: make docs"


def test_every_kind_of_every_slot_has_its_section():
    text = reference()
    for slot in registry.slots():
        kinds = [] if slot.endswith("_format") else registry.built_in(slot)
        assert all(f"### `{slot}` kind `{kind}`" in text for kind in kinds)


def test_keys_are_written_as_a_file_writes_them():
    assert "| `with` |" in reference()
    assert "| `with_` |" not in reference()
