"""docs/selection.md says what the code does: the table of presets, the list of kinds, the names of the view."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

from evsim.base import registry
from evsim.selection.base import ClientView
from evsim.selection.oort import Oort
from evsim.selection.oort_rules import FEDSCALE, PAPER, OortRules

TEXT = Path(__file__).parents[2].joinpath("docs", "selection.md").read_text()
OORT = TEXT.split("## Oort\n")[1].split("\n## ")[0]
ROWS = re.findall(r"^\| `(\w+)` \| (\S+) \| (\S+) \|", OORT, flags=re.MULTILINE)


def test_the_table_of_presets_is_that_of_the_code() -> None:
    expected = [(f.name, str(getattr(PAPER, f.name)), str(getattr(FEDSCALE, f.name))) for f in fields(OortRules)]
    assert expected == ROWS


def test_every_rule_can_be_set_by_a_field_of_the_same_name_and_type() -> None:
    rules = {f.name: str(f.type) for f in fields(OortRules)}
    settable = {f.name: str(f.type) for f in fields(Oort) if f.name not in ("preset", "predictor")}
    assert set(settable) == set(rules)
    assert {name: kind if kind.endswith("| None") else f"{kind} | None" for name, kind in rules.items()} == settable


def test_every_kind_of_selector_is_described() -> None:
    described = TEXT.split("## What a selector may know")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", described, flags=re.MULTILINE)) == set(registry.entries("selection"))


def test_every_name_of_the_view_is_described() -> None:
    names = {name for name, value in vars(ClientView).items() if isinstance(value, property)} | {"is_idle"}
    table = TEXT.split("## What a selector may know")[1].split("## Writing one")[0]
    assert names <= set(re.findall(r"`(\w+)(?:\(clients\))?`", table))
