"""docs/extending.md has an example for every slot, of at most thirty lines, which keeps its contract and runs."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from evsim.base import registry
from evsim.results import load_run
from evsim.run.simulation import Simulation
from evsim.scenario import Scenario
from evsim.testing.epochs import EpochsContract
from evsim.testing.methods import ClientRuleContract, WeightingContract
from evsim.testing.networks import NetworkContract
from evsim.testing.surroundings import DataSetContract, JoinContract, PacingContract, PartitionContract, SkewContract
from evsim.verify import verify

PAGE = Path(__file__).parents[2].joinpath("docs", "extending.md").read_text(encoding="utf-8")
SECTION = PAGE.split("## One of every other slot")[1].split("\n## ")[0]
BLOCKS = re.findall(r"```python\n(.*?)```", SECTION, flags=re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("user")
    (found / "every.py").write_text("\n\n".join(BLOCKS), encoding="utf-8")
    (scenario,) = re.findall(r"```toml\n(.*?)```", SECTION, flags=re.DOTALL)
    (found / "s.toml").write_text(scenario, encoding="utf-8")
    lines = [f"{600 * (k % 5)}-{20_000 + 1500 * k}" for k in range(30)]
    (found / "phones.txt").write_text("\n".join(lines), encoding="utf-8")
    return found


class FromPage:
    slot: str
    name: str
    options: ClassVar[dict[str, Any]] = {}

    @pytest.fixture(autouse=True)
    def _load(self, folder: Path) -> None:
        self.cls = registry.load(self.slot, f"every.py:{self.name}", folder)

    def make(self) -> Any:
        return self.cls(**self.options)


class TestRule(FromPage, ClientRuleContract):
    slot, name, options = "client_rule", "BoldIfSlow", {"usual": 2.0, "learning_rate": 0.1, "momentum": 0.5}


class TestWeighting(FromPage, WeightingContract):
    slot, name = "weighting", "RareCountMore"


class TestPacing(FromPage, PacingContract):
    slot, name, options = "pacing", "Patient", {"start": 50, "most": 9000}


class TestEpochs(FromPage, EpochsContract):
    slot, name = "epochs", "SometimesTwice"


class TestDataSet(FromPage, DataSetContract):
    slot, name = "dataset", "Blobs"


class TestPartition(FromPage, PartitionContract):
    slot, name = "partition", "InTurn"


class TestSkew(FromPage, SkewContract):
    slot, name, options = "skew", "Shifted", {"distance": 2.0}


class TestJoin(FromPage, JoinContract):
    slot, name = "join", "BestToLargest"


class TestNetwork(FromPage, NetworkContract):
    slot, name = "network", "Relayed"


@pytest.mark.filterwarnings("ignore::evsim.base.caveat.CaveatWarning")
def test_one_of_every_slot_runs(folder: Path, tmp_path: Path) -> None:
    run = load_run(Simulation(Scenario.load(folder / "s.toml")).run(tmp_path / "run"))
    assert run.server_steps["version"].max() == 4
    assert run.manifest["executor"]["counts"] is True
    done = run.tasks[run.tasks["outcome"] == "aggregated"]
    np.testing.assert_array_equal(done["weight"], done["samples"] / (1.0 + done["nth"]))
    largest = run.clients["samples"].to_numpy()
    assert np.corrcoef(largest, -run.clients["compute_ms_per_sample"])[0, 1] > -1
    assert set(done["steps"] / np.ceil(done["samples"] / 20)) == {1.0, 2.0}
    assert verify(tmp_path / "run").ok


def test_every_slot_has_a_row_with_a_class_a_contract_and_an_example() -> None:
    rows = re.findall(r"^\| (`.*?`) \| (.*?) \| (.*?) \| (.*?) \|$", SECTION, flags=re.MULTILINE)
    named = {slot for cell, *_ in rows for slot in re.findall(r"`(\w+)`", cell)}
    assert named == set(registry.slots())
    for slots, base, contract, example in rows:
        for target in re.findall(r"`((?!nn\.)[\w.]+\.[A-Z]\w+)`", base):
            module, _, name = target.rpartition(".")
            assert hasattr(import_module(f"evsim.{module}"), name), target
        for target in re.findall(r"`([\w.]+)`", contract):
            module, _, name = target.rpartition(".")
            assert hasattr(import_module(f"evsim.testing.{module}"), name), target
        assert example, slots


def test_examples_of_slots_have_at_most_thirty_lines() -> None:
    for block in BLOCKS:
        for part in re.split(r"\n\n\n", block.strip()):
            assert len(part.splitlines()) <= 30, part
