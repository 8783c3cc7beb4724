"""The examples of docs/extending.md, as they stand there: found in three ways, run, and true to their laws."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from evsim import load_run
from evsim.algorithms.base import ReportMeta, StepInfo, Wire, total_bytes
from evsim.algorithms.weighting import EqualWeights
from evsim.base import registry
from evsim.run.simulation import Simulation
from evsim.scenario import Scenario
from evsim.testing.objectives import ObjectiveContract
from tests.algorithms.oracle import CLASSES, INPUTS, Drive, client_rows, learning, problem

PAGE = Path(__file__).parents[2].joinpath("docs", "extending.md").read_text()
CODE = "\n\n".join(re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL))
SCENARIO = next(t for t in re.findall(r"```toml\n(extends.*?)```", PAGE, flags=re.DOTALL) if "my_method.py" in t)


@pytest.fixture
def folder(tmp_path):
    """A user's folder with the code and the scenario of the page."""
    (tmp_path / "my_method.py").write_text(CODE)
    (tmp_path / "mine.toml").write_text(SCENARIO)
    yield tmp_path
    sys.modules.pop("evsim_plugin_my_method", None)


@pytest.fixture
def kinds(folder):
    def load(slot, name):
        return registry.load(slot, f"my_method.py:{name}", folder)

    return load


def test_the_scenario_of_the_page_runs_from_a_plain_file(folder):
    scenario = Scenario.load(folder / "mine.toml", ["stop.server_steps=2", "executor.kind=serial"])
    found = Simulation(scenario).run(folder / "run", None)
    assert (found / "model.safetensors").exists()


def test_an_entry_point_of_an_installed_package_gives_a_kind(tmp_path, monkeypatch):
    (tmp_path / "my_package").mkdir()
    (tmp_path / "my_package" / "__init__.py").write_text("")
    (tmp_path / "my_package" / "methods.py").write_text(CODE)
    (tmp_path / "my_package-1.0.dist-info").mkdir()
    (tmp_path / "my_package-1.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: my-package\nVersion: 1.0\n"
    )
    declared = re.findall(r'\[project\.entry-points\."(.*?)"\]\n\s*(.*?)\n', PAGE)[0]
    target = declared[1].replace('"', "")
    (tmp_path / "my_package-1.0.dist-info" / "entry_points.txt").write_text(f"[{declared[0]}]\n{target}\n")
    monkeypatch.syspath_prepend(tmp_path)
    registry._plug_ins.cache_clear()  # a new process would look anew
    entry = registry.entries("client_rule")["dyn"]
    assert entry.summary == "from my-package"
    assert registry.load("client_rule", "dyn")(alpha=0.1, learning_rate=0.1).alpha == 0.1
    for name in [name for name in sys.modules if name.startswith("my_package")]:
        del sys.modules[name]
    registry._plug_ins.cache_clear()


def test_a_wrong_key_of_a_users_kind_is_reported_like_any_other(folder):
    from evsim.base.errors import ScenarioError

    with pytest.raises(ScenarioError, match=r"client_rule.alhpa: unknown key.*did you mean 'alpha'"):
        Scenario.load(folder / "mine.toml", ["client_rule.alhpa=1"])


def test_feddyn_reaches_the_optimum_where_fedavg_stalls(kinds):
    data, alpha, decay = problem((4, 12, 8)), 1.0, 0.2
    rule = kinds("client_rule", "DynSgd")(alpha=alpha, learning_rate=0.3, batch_size=100, epochs=10, weight_decay=decay)
    server = learning(
        data,
        client_rule=rule,
        weighting=EqualWeights(),
        server_optimizer=kinds("server_optimizer", "FedDyn")(alpha=alpha),
    )
    drive = Drive(server)
    for _ in range(80):
        w = drive.round((0, 1, 2))
    v = torch.tensor(w, requires_grad=True)
    weight, bias = v[: CLASSES * INPUTS].reshape(CLASSES, INPUTS), v[CLASSES * INPUTS :]
    objective = decay / 2 * (v @ v)
    for k in range(3):
        x, y = (torch.as_tensor(part) for part in client_rows(data, k))
        objective = objective + torch.nn.functional.cross_entropy(x @ weight.T + bias, y) / 3
    (slope,) = torch.autograd.grad(objective, v)
    assert float(slope.norm()) < 1e-6


def test_the_one_bit_upload_sends_signs_and_loses_nothing_for_good(kinds):
    rule = kinds("upload", "SignWithMemory")()
    draw, total, arrived = np.random.default_rng(0), np.zeros(40), np.zeros(40)
    state = rule.init_client({"model": {"w": torch.zeros(40, dtype=torch.float64)}})
    for _ in range(5):
        u = draw.normal(size=40)
        total += u
        sent, state = rule.encode({"model": {"w": torch.tensor(u)}}, state, None, 0)
        assert len(sent["model"]["w"].abs().unique()) == 1
        arrived += sent["model"]["w"].numpy()
    np.testing.assert_allclose(arrived + state["residual"]["w"].numpy(), total, rtol=0, atol=1e-14)
    assert total_bytes(rule.wires({"model": {"w": Wire(40, 40)}, "buffers": {}})) == 5 + 4


def test_the_geometric_median_ignores_a_far_away_update(kinds):
    rule, info = kinds("merge", "GeometricMedian")(iterations=200), StepInfo(0, 9, 9, 9, 0)
    rows = np.random.default_rng(2).normal(size=(9, 6))
    rows[4] = 1e6
    acc = rule.init({}, info)
    for k, row in enumerate(rows):
        update = {"model": {"w": torch.tensor(row)}, "buffers": {}}
        acc = rule.add(acc, update, {"": 1.0}, ReportMeta(k, k, 1, 1, 0, 0))
    z = rule.finish(acc, {}, info)["model"]["w"].numpy()
    unit = (rows - z) / np.linalg.norm(rows - z, axis=1, keepdims=True)
    assert np.linalg.norm(unit.sum(0)) < 1e-6  # the condition of optimality
    assert np.abs(z).max() < 3


class TestPinball(ObjectiveContract):
    """The objective of the page keeps the promises of its slot."""

    @pytest.fixture(autouse=True)
    def found(self, kinds):
        self.kind = kinds("objective", "Pinball")

    def make(self):
        return self.kind(quantile=0.75)

    def judged(self):
        draws = torch.from_numpy(np.random.default_rng(0).normal(size=(60, 2)))
        return draws[:, :1], draws[:, 1]


def test_the_objective_of_the_page_learns_a_quantile_and_its_metric_says_so(folder):
    draw = np.random.default_rng(0)
    np.savez(folder / "stock.npz", x=np.ones((2000, 1), np.float32), y=draw.exponential(size=2000))
    tables = {
        "name": "stock",
        "data": {"dataset": {"kind": "arrays", "path": ".", "labels": "numbers"}, "partition": "iid"},
        "population": {"clients": 10, "availability": "always", "speed": "phones"},
        "model": "softmax",
        "objective": {"kind": "my_method.py:Pinball", "quantile": 0.9},
        "client_rule": {"kind": "sgd", "learning_rate": 0.1, "batch_size": 40},
        "aggregation": {"kind": "synchronous", "cohort_goal": 10},
        "executor": {"kind": "serial"},
        "evaluation": {"every": 10},
        "stop": {"rounds": 40},
    }
    run = load_run(Simulation(Scenario.from_dict(tables, folder=folder)).run(folder / "run"))
    assert run.headline == "too_little"
    short = run.curve("too_little", final=True).value
    assert short[0] > 0.5
    assert short[-1] == pytest.approx(0.1, abs=0.03)
