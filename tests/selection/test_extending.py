"""The predictor and the selector of docs/extending.md, as they stand there: they keep the contracts, and run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from evsim.base import registry
from evsim.base.errors import ScenarioError
from evsim.results import load_run
from evsim.run.simulation import Simulation
from evsim.scenario import Scenario
from evsim.selection.base import Selector
from evsim.selection.forecast import Constant, Predictor
from evsim.testing.predictors import PredictorContract
from evsim.testing.selectors import SelectorContract

SECTION = Path(__file__).parents[2].joinpath("docs", "extending.md").read_text(encoding="utf-8")
SECTION = SECTION.split("## A predictor, and a selector that asks it")[1].split("\n## ")[0]
BLOCKS = re.findall(r"```python\n(.*?)```", SECTION, flags=re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("user")
    (found / "forecasts.py").write_text("\n\n".join(BLOCKS), encoding="utf-8")
    (scenario,) = re.findall(r"```toml\n(.*?)```", SECTION, flags=re.DOTALL)
    (found / "s.toml").write_text(scenario, encoding="utf-8")
    return found


class TestLeastAvailable(SelectorContract):
    @pytest.fixture(autouse=True)
    def _load(self, folder: Path) -> None:
        self.cls = registry.load("selection", "forecasts.py:LeastAvailable", folder)

    def make(self) -> Selector[Any]:
        found: Selector[Any] = self.cls(predictor=Constant(probability=0.5))
        return found


class TestLastVisit(PredictorContract):
    @pytest.fixture(autouse=True)
    def _load(self, folder: Path) -> None:
        self.cls = registry.load("predictor", "forecasts.py:LastVisit", folder)

    def make(self) -> Predictor[Any]:
        found: Predictor[Any] = self.cls()
        return found


@pytest.mark.parametrize("predictor", ["forecasts.py:LastVisit", "daily", "oracle"])
@pytest.mark.filterwarnings("ignore::evsim.base.caveat.CaveatWarning")
def test_they_run_and_replay_alike_in_bulk_and_by_events(folder: Path, tmp_path: Path, predictor: str) -> None:
    hashes = set()
    for replay in ("bulk", "events"):
        options = [f"selection.predictor={predictor}", f"engine.replay={replay}", "population.clients=300"]
        scenario = Scenario.load(folder / "s.toml", [*options, "stop.rounds=20"])
        run = load_run(Simulation(scenario).run(tmp_path / replay))
        hashes.add(run.manifest["timeline_hash"])
        assert len(run.tasks) > 500
    assert len(hashes) == 1


def test_a_selector_without_the_predictor_that_it_needs_says_so(folder: Path) -> None:
    with pytest.raises(ScenarioError, match=r"selection.predictor: missing; expected a predictor to ask"):
        Scenario.load(folder / "s.toml", ["selection.predictor="])


def test_each_example_has_at_most_thirty_lines() -> None:
    assert [len(block.splitlines()) <= 30 for block in BLOCKS] == [True, True]
