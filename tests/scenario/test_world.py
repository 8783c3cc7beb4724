"""The networks and actors of the pages, as they stand there, and the scenarios that ship."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from evsim import Scenario, Simulation, load_run
from evsim.base import registry
from evsim.study.file import Study
from evsim.testing.actors import ActorContract
from evsim.testing.networks import NetworkContract

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
SECTION = PAGE.split("## The world: ")[1].split("\n## ")[0]
BLOCKS = re.findall(r"```python\n(.*?)```", SECTION, flags=re.DOTALL)
(TOML,) = re.findall(r"```toml\n(.*?)```", SECTION, flags=re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("mine")
    (path / "my_world.py").write_text("\n\n".join(BLOCKS), encoding="utf-8")
    (path / "mine.toml").write_text(TOML, encoding="utf-8")
    yield path
    sys.modules.pop("evsim_plugin_my_world", None)


class _OfThePage:
    @pytest.fixture(autouse=True)
    def _mine(self, folder):
        self.place = folder


class TestRushHours(_OfThePage, NetworkContract):
    def make(self):
        return registry.load("network", "my_world.py:RushHours", self.place)()


class TestCells(_OfThePage, NetworkContract):
    def make(self):
        return registry.load("network", "my_world.py:Cells", self.place)(cells=3, kbps=9_000.0)


class TestMaintenance(_OfThePage, ActorContract):
    def make(self):
        return registry.load("actor", "my_world.py:Maintenance", self.place)(at=20_000, lasts=5_000)


def test_each_is_a_plug_in_of_at_most_sixty_lines():
    assert len(BLOCKS) == 3
    assert all(len(block.splitlines()) <= 60 for block in BLOCKS)


def test_the_scenario_of_the_page_runs(folder):
    run = load_run(Simulation(Scenario.load(folder / "mine.toml")).run(folder / "run"))
    assert run.changes[["at", "until", "what"]].to_numpy().tolist() == [[10_800_000, 12_600_000, "outage"]]
    assert not run.tasks["dispatched_at"].between(10_800_000, 12_599_999).any()


@pytest.mark.parametrize("name", ["shared_link", "outage", "battery"])
def test_the_studies_that_ship_are_fine(name):
    study = Study.load(ROOT / "analysis" / "studies" / f"{name}.toml")
    scenarios = study.scenarios()
    assert len(scenarios) >= 2
