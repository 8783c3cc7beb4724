"""The schema accepts what loads, refuses what no scenario holds, and knows the plug-ins of a folder."""

from __future__ import annotations

import tomllib
from pathlib import Path

import fastjsonschema
import pytest

from evsim.algorithms.compositions import COMPOSITIONS
from evsim.base import registry
from evsim.base.errors import ScenarioError
from evsim.scenario import Scenario
from evsim.scenario.schema import scenario_schema, study_schema

ROOT = Path(__file__).parents[2]
SCENARIOS = sorted(ROOT.glob("scenarios/**/*.toml"))
STUDIES = sorted(ROOT.glob("analysis/studies/*.toml"))
MINE = """from dataclasses import dataclass

import evsim.selection.uniform
from evsim.aggregation.synchronous import Synchronous


@dataclass(frozen=True, kw_only=True)
class Slow(Synchronous):
    '''Waits longer.'''

    patience: int = 3


class Helper(Synchronous):
    pass
"""


def compiled(schema):
    return fastjsonschema.compile(schema, use_default=False)  # or it would write defaults into what it looks at


@pytest.fixture(scope="module")
def accepts():
    return compiled(scenario_schema())


def refused(accepts, tables):
    with pytest.raises(fastjsonschema.JsonSchemaException):
        accepts(tables)


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_a_bundled_scenario_is_accepted_as_written_and_written_out(path, accepts):
    tables = tomllib.loads(path.read_text(encoding="utf-8"))
    if set(tables) & {"arms", "grid"}:
        compiled(study_schema())(tables)
        return
    accepts(tables)
    accepts(Scenario.load(path).to_tables())


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_a_study_is_accepted(path):
    compiled(study_schema())(tomllib.loads(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize("name", COMPOSITIONS)
def test_what_a_named_algorithm_stands_for_is_accepted(name, accepts):
    accepts({"algorithm": name, **COMPOSITIONS[name].tables})


@pytest.mark.parametrize(
    "tables",
    [
        {"sede": 1},
        {"seed": "1"},
        {"stop": {"round": 3}},
        {"training": "maybe"},
        {"algorithm": "fedavgg"},
        {"selection": "unifrom"},
        {"selection": {"kind": "uniform", "alpha": 1}},
        {"client_rule": {"kind": "sgd", "mu": 0.1}},
        {"client_rule": {"learning_rate": "fast"}},
        {"upload": {"kind": "int8"}},
        {"evaluation": {"every": 1.5}},
        {"unset": "stop.rounds"},
    ],
    ids=lambda tables: str(next(iter(tables.items()))),
)
def test_what_no_scenario_holds_is_refused(tables, accepts):
    refused(accepts, tables)


@pytest.mark.parametrize(
    "tables",
    [
        {"extends": "quickstart", "client_rule": {"learning_rate": 0.1}},
        {"client_rule": {"kind": "mine.py:Rule", "anything": 3}},
        {"model": "torchvision:resnet18"},
        {"aggregation": {"kind": "synchronous", "cohort_goal": 3, "reporting_deadline": "none"}},
        {"evaluation": {"every": 5}},
        {"evaluation": {"every": "10min"}},
        {"stop": {"virtual_time": 90.5}},
        {"listener": ["csv_log"]},
    ],
    ids=str,
)
def test_parts_of_a_scenario_and_code_of_ones_own_are_accepted(tables, accepts):
    accepts(tables)


def test_every_kind_of_every_slot_is_offered():
    slots = scenario_schema()["definitions"]
    for slot in (each for each in registry.slots() if not each.endswith("_format")):
        offered = {each["const"] for each in slots[slot]["anyOf"] if "const" in each}
        assert offered == set(registry.entries(slot)), slot


def test_every_reference_leads_to_a_definition():
    found = scenario_schema()
    named: set[str] = set()

    def walk(value):
        for each in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
            walk(each)
        if isinstance(value, dict) and isinstance(value.get("$ref"), str):
            named.add(value["$ref"].removeprefix("#/definitions/"))

    walk(found)
    assert named == set(found["definitions"])


def test_the_plug_ins_of_a_folder_are_kinds_with_their_keys(tmp_path):
    (tmp_path / "mine.py").write_text(MINE, encoding="utf-8")
    accepts = compiled(scenario_schema(tmp_path))
    accepts({"aggregation": {"kind": "mine.py:Slow", "cohort_goal": 3, "patience": 4}})
    (told,) = [
        each
        for each in scenario_schema(tmp_path)["definitions"]["aggregation"]["anyOf"]
        if each.get("const") == "mine.py:Slow"
    ]
    assert told["description"] == "Waits longer."


@pytest.mark.parametrize(
    ("folder", "text", "said"),
    [
        ("none", "", "none: no such folder; expected a folder with Python files"),
        (".", "class :", "broken.py, line 1: invalid syntax"),
        (".", "import nothing_such\n" + MINE, "cannot load 'broken.py:Slow': No module named 'nothing_such'"),
    ],
    ids=["folder", "syntax", "import"],
)
def test_plug_ins_that_cannot_be_read_are_one_sentence(tmp_path, folder, text, said):
    (tmp_path / "broken.py").write_text(text, encoding="utf-8")
    with pytest.raises(ScenarioError) as caught:
        scenario_schema(tmp_path / folder)
    assert said in str(caught.value)
