"""docs/algorithms.md describes every kind there is, and its defaults are those of the code."""

from __future__ import annotations

import re
from dataclasses import MISSING, fields
from pathlib import Path

import pytest

from evsim.algorithms.compositions import COMPOSITIONS
from evsim.base import registry

TEXT = Path(__file__).parents[2].joinpath("docs", "algorithms.md").read_text()
PARTS = dict(re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", TEXT, flags=re.DOTALL | re.MULTILINE))
SLOTS = {
    "broadcast": "Broadcast",
    "client_rule": "Client rules",
    "upload": "Uploads",
    "weighting": "Weighting",
    "merge": "Merges",
    "server_optimizer": "Server optimizers",
}


@pytest.mark.parametrize("slot", SLOTS)
def test_every_kind_has_its_row(slot):
    rows = re.findall(r"^\| (`.*?) \|", PARTS[SLOTS[slot]], flags=re.MULTILINE)
    assert set(re.findall(r"`(\w+)`", " ".join(rows))) - {"paper", "flower", "fedscale"} == set(registry.entries(slot))


def test_every_named_algorithm_is_listed():
    table = TEXT.split("Notation:")[0]
    rows = " ".join(re.findall(r"^\| (`.*?) \|", table, flags=re.MULTILINE))
    assert set(re.findall(r"`(\w+)`", rows)) == set(COMPOSITIONS)


@pytest.mark.parametrize(
    ("slot", "kind", "stated"),
    [
        ("server_optimizer", "fedavgm", {"learning_rate": 1.0, "momentum": 0.9}),
        ("server_optimizer", "fedadagrad", {"learning_rate": 0.1, "beta1": 0.0, "tau": 1e-3}),
        ("server_optimizer", "fedadam", {"learning_rate": 0.1, "beta1": 0.9, "beta2": 0.99, "tau": 1e-3}),
        ("server_optimizer", "fedyogi", {"learning_rate": 0.1, "beta1": 0.9, "beta2": 0.99, "tau": 1e-3}),
        ("client_rule", "adam", {"beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8}),
        ("client_rule", "scaffold", {"option": 2, "momentum": 0.0, "batch_size": 20}),
        ("merge", "trimmed_mean", {"share": 0.1}),
    ],
)
def test_stated_defaults_are_those_of_the_code(slot, kind, stated):
    found = {each.name: each.default for each in fields(registry.load(slot, kind)) if each.default is not MISSING}
    assert stated == {name: found[name] for name in stated}
