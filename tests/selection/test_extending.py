"""The predictor and the selector of docs/extending.md, as they stand there: they keep the contracts, and run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evsim.base import registry
from evsim.base.errors import ScenarioError
from evsim.base.vocabulary import Outcome
from evsim.results import load_run
from evsim.run.simulation import Simulation
from evsim.scenario import Scenario
from evsim.selection.base import Outcomes, Selector
from evsim.selection.forecast import Constant, Predictor
from evsim.testing.predictors import PredictorContract
from evsim.testing.selectors import SelectorContract
from evsim.timeline.manager import ClientManager
from evsim.traces.availability import AvailabilityTrace

PAGE = Path(__file__).parents[2].joinpath("docs", "extending.md").read_text(encoding="utf-8")
BANDIT = PAGE.split("## A selector that learns: a bandit")[1].split("\n## ")[0]
SECTION = PAGE.split("## A predictor, and a selector that asks it")[1].split("\n## ")[0]
BLOCKS = re.findall(r"```python\n(.*?)```", SECTION, flags=re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("user")
    (found / "forecasts.py").write_text("\n\n".join(BLOCKS), encoding="utf-8")
    (scenario,) = re.findall(r"```toml\n(.*?)```", SECTION, flags=re.DOTALL)
    (found / "s.toml").write_text(scenario, encoding="utf-8")
    (code,), (scenario,) = (re.findall(rf"```{kind}\n(.*?)```", BANDIT, flags=re.DOTALL) for kind in ("python", "toml"))
    assert len(code.splitlines()) <= 31
    (found / "bandit.py").write_text(code, encoding="utf-8")
    (found / "bandit.toml").write_text(scenario, encoding="utf-8")
    return found


class TestLossBandit(SelectorContract):
    @pytest.fixture(autouse=True)
    def _load(self, folder: Path) -> None:
        self.cls = registry.load("selection", "bandit.py:LossBandit", folder)

    def make(self) -> Selector[Any]:
        found: Selector[Any] = self.cls(gamma=0.8)
        return found

    def test_the_largest_printed_bounds_are_taken_and_the_unheard_first(self) -> None:
        """Six clients of 10 to 60 samples, two asked a round; the index by sums over all rounds so far."""
        sizes, n, gamma, spread = 10 * np.arange(1, 7), 2, 0.8, 0.1
        manager = ClientManager(self.cls(gamma=gamma, spread=spread), 6, 0, AvailabilityTrace.always(6))
        manager.register_client(np.arange(6), 0, sizes)
        heard: list[tuple[int, int, float]] = []  # round, client, loss
        for now in range(12):
            chosen = np.sort(manager.select_clients(n, now))
            if now < 3:
                assert not {client for _, client, _ in heard} & set(chosen.tolist())
            else:
                weight = {t: gamma ** (now - t) for t in range(now + 1)}
                index = []
                for client in range(6):
                    times = sum(weight[t] for t, k, _ in heard if k == client)
                    mean = sum(weight[t] * loss for t, k, loss in heard if k == client) / times
                    bonus = np.sqrt(2 * spread**2 * np.log(sum(weight.values())) / times)
                    index.append(sizes[client] * (mean + bonus))
                assert chosen.tolist() == sorted(np.argsort(index)[-n:].tolist())
            losses = 2.0 / (1 + chosen) + 0.05 * now
            heard += [(now, int(client), float(loss)) for client, loss in zip(chosen, losses, strict=True)]
            same, done = np.full(n, now), np.full(n, Outcome.AGGREGATED, np.int8)
            manager.register_feedback(Outcomes(chosen, same, same, done, same + 1, sizes[chosen], losses))


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


def test_the_bandit_runs_from_the_scenario_of_the_page(folder: Path, tmp_path: Path) -> None:
    short = ["stop.server_steps=6", "stop.target_accuracy=", "executor.kind=serial"]
    run = load_run(Simulation(Scenario.load(folder / "bandit.toml", short)).run(tmp_path / "run"))
    assert run.manifest["end"]["reason"] == "server_steps"


def test_a_selector_without_the_predictor_that_it_needs_says_so(folder: Path) -> None:
    with pytest.raises(ScenarioError, match=r"selection.predictor: missing; expected a predictor to ask"):
        Scenario.load(folder / "s.toml", ["selection.predictor="])


def test_each_example_has_at_most_thirty_lines() -> None:
    assert [len(block.splitlines()) <= 30 for block in BLOCKS] == [True, True]
