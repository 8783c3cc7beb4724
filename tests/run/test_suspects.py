"""A number that nobody means is refused at its key, or named when training diverged: every number of every policy."""

from __future__ import annotations

import tomllib
from dataclasses import fields
from types import UnionType
from typing import Union, get_args, get_origin

import pytest

from evsim import Scenario, Simulation, load_run
from evsim.base import registry
from evsim.base.caveat import CaveatWarning
from evsim.base.errors import ScenarioError
from evsim.run.suspects import suspects
from evsim.scenario.hints import hints_of

SLOTS = ("client_rule", "upload", "weighting", "merge", "server_optimizer", "model", "broadcast", "selection")
SMALL = ["population.availability=always", "stop.server_steps=4", "executor.kind=serial", "aggregation.cohort_goal=4"]
SMALL += ["aggregation.minimum_cohort=4", "aggregation.minimum_reports=2", "population.clients=8"]


def _is_float(hint) -> bool:
    if get_origin(hint) in (Union, UnionType):
        return any(_is_float(each) for each in get_args(hint))
    return hint is float


def _floats():
    for slot in SLOTS:
        for kind in sorted(registry.built_in(slot)):
            cls = registry.load(slot, kind)
            hints = hints_of(cls)
            for field in fields(cls):
                if field.init and field.compare and _is_float(hints[field.name]):
                    yield slot, kind, field.name.rstrip("_")


FLOATS = list(_floats())


@pytest.mark.parametrize(("slot", "kind", "key"), FLOATS, ids=lambda each: each)
@pytest.mark.parametrize("value", [1e300, -1e300, 3e38])
def test_what_no_float32_can_hold_is_refused_at_its_key(slot, kind, key, value):
    table = f"{{ kind = '{kind}', {key} = {value} }}"
    override = f"{slot}=[{table}]" if slot == "upload" else f"{slot}={table}"
    with pytest.raises(ScenarioError) as caught:
        Scenario.load("quickstart", [override])
    where = f"upload[0].{key}" if slot == "upload" else f"{slot}.{key}"
    (line,) = [each for each in str(caught.value).splitlines() if where in each]
    assert "expected a number of at most 1e+15" in line


@pytest.mark.parametrize(("slot", "kind", "key"), FLOATS, ids=lambda each: each)
def test_what_is_large_is_named_when_training_diverged(slot, kind, key):
    assert f"{slot}.{key} = 1e+14" in suspects({slot: {"kind": kind, key: 1e14}}) or slot == "selection"


@pytest.mark.parametrize(
    "key",
    ["client_rule.weight_decay", "client_rule.learning_rate", "server_optimizer.learning_rate"],
)
def test_a_run_that_diverges_names_it(tmp_path, key):
    scenario = Scenario.load("quickstart", [*SMALL, f"{key}=1e14"])
    with pytest.warns(CaveatWarning):
        run = load_run(Simulation(scenario, device="cpu").run(tmp_path / "run"))
    (said,) = [each for each in run.caveats if each.key == "diverged"]
    assert f"unusually large: {key} = 1e+14" in said.remedy


def test_an_ordinary_scenario_has_no_suspects():
    assert suspects(tomllib.loads(Scenario.load("quickstart").to_toml())) == ""
