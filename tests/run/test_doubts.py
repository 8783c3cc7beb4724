"""What only open traces, data and models can tell; that check opens them all, and that what it calls fine, runs."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import evsim
from evsim.base.bundled import bundled
from evsim.cli import app
from evsim.run.assembly import open_all
from evsim.run.doubts import doubts
from evsim.run.trial import try_out
from evsim.scenario import Scenario
from tests.training.data.test_importers import write_idx

DOCS = Path(__file__).parents[2] / "docs" / "asynchronous.md"
BLOCKS = re.findall(r"```toml\n(.*?)```", DOCS.read_text(encoding="utf-8"), flags=re.DOTALL)

EQUAL = "population.speed={ compute_ms_per_sample = 1, download_kbps = 8000, upload_kbps = 8000 }"
#: Clients with samples of their own on equal devices that never leave: nothing to be said of them.
DEALT = ["data.partition.samples_per_client=", "data.partition.alpha=", "data.partition.kind=iid"]
PLAIN = ["population.availability=always", EQUAL, "population.clients=40", *DEALT]
BUFFER = "aggregation={ kind='buffered', concurrency=5, buffer_size=2 }"
NET = """
from torch import nn

class Typo:
    def reported(self, at, tasks, clients): ...
    def dispatchd(self, at, tasks, clients): ...

class Fine:
    def reported(self, at, tasks, clients): ...
    def report(self): ...

def normed():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Linear(8, 10))
"""

#: By key: what produces a caveat beside PLAIN, and what its remedy is.
CASES = {
    "unheard": (["listener=[{ kind = 'net.py:Typo' }]"], ["listener=[{ kind = 'net.py:Fine' }]"]),
    "few_online": (
        ["population.availability=phones", "aggregation.cohort_goal=30"],
        ["population.availability=phones", "aggregation.cohort_goal=2", "aggregation.minimum_cohort=2"],
    ),
    "shared_samples": (["data.partition.samples_per_client=60"], []),
    "seen_in_training": (
        ["evaluation.per_client=true"],
        ["evaluation.per_client=true", "data.client_test_fraction=0.2"],
    ),
    "held_out": (
        [
            "evaluation.per_client=true",
            "data.client_test_fraction=0.2",
            "data.partition={kind='dirichlet', alpha=0.05}",
        ],
        ["evaluation.per_client=true", "data.client_test_fraction=0.5", "data.partition='iid'"],
    ),
    "rates_reach_zero": (
        ["population.speed={compute_ms_per_sample=20, upload_kbps=900, download_kbps={kind='exponential', mean=900}}"],
        ["population.speed={compute_ms_per_sample={kind='exponential', mean=9}, upload_kbps=900, download_kbps=900}"],
    ),
    "too_long": ([BUFFER, "aggregation.task_timeout=1min"], [BUFFER]),  # 80 s for 80 MB
    "many_evaluations": (["evaluation.every=1ms"], ["evaluation.every=1min"]),
    "charged_size": (["cost.sample_scale=1"], ["cost.sample_scale=80"]),
    "diverges_at_once": (
        ["client_rule.learning_rate=1e15", "client_rule.weight_decay=1e15", "client_rule.momentum=0.9"],
        ["client_rule.learning_rate=0.1"],
    ),
    "batch_of_one": (["model={kind='net.py:normed'}"], ["model={kind='net.py:normed'}", "client_rule.drop_last=true"]),
    "repeated_period": (
        ["population.availability=phones", "stop.virtual_time=8d"],
        ["population.availability=phones", "stop.virtual_time=7d"],
    ),
}
SETTING = ["aggregation.cohort_goal=5", "aggregation.minimum_cohort=5", "aggregation.minimum_reports=2"]


def _keys(*overrides: str) -> set[str]:
    scenario = Scenario.load("quickstart", [*SETTING, *PLAIN, *overrides])
    opened = open_all(scenario, "cpu")
    return {each.key for each in (*doubts(scenario, opened), *try_out(scenario, opened))}


@pytest.fixture(autouse=True)
def net(tmp_path, monkeypatch):
    """A model with BatchNorm in the working directory."""
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(NET, encoding="utf-8")


@pytest.mark.parametrize("key", CASES)
def test_a_doubt_is_said_and_its_remedy_removes_it(key):
    produced, mended = CASES[key]
    assert key in _keys(*produced)
    assert key not in _keys(*mended)


def test_tasks_too_long_for_a_round_are_told_where_nobody_could_be_in_time():
    late = "aggregation.reporting_deadline=1min"
    assert "too_long" in _keys(late)
    assert "too_long" not in _keys(late, "client_rule.partial_work=true")  # they report what they did
    some = "{compute_ms_per_sample=1, upload_kbps=8000, download_kbps={kind='log_normal', median=9e3, sigma=0.5}}"
    assert "too_long" not in _keys("aggregation.reporting_deadline=90s", f"population.speed={some}")


def test_there_are_set_ups_without_any_doubt():
    assert _keys() == set()


def test_every_doubt_has_a_case():
    source = "".join((Path(evsim.__file__).parent / "run" / name).read_text() for name in ("doubts.py", "trial.py"))
    assert set(re.findall(r'Caveat\(\s*"(\w+)"', source)) <= set(CASES)


# -- what check calls fine, runs ---------------------------------------------------------------------------------------


@pytest.fixture
def command(tmp_path):
    """Runs a command; an error that is not meant for the user fails the test."""
    return lambda *arguments: CliRunner().invoke(app, [str(each) for each in arguments], catch_exceptions=False)


@pytest.mark.parametrize("path", bundled("scenarios"), ids=lambda path: path.stem)
def test_a_bundled_scenario_passes(command, path, tmp_path):
    elsewhere = []
    if path.stem == "fashion_mnist":  # its data are another package
        elsewhere = ["-o", f"data.dataset.path={write_idx(tmp_path / 'images')}"]
    assert command("check", path, *elsewhere).exit_code == 0


@pytest.mark.parametrize("text", BLOCKS, ids=range(len(BLOCKS)))
def test_a_scenario_of_the_docs_passes(command, text):
    Path("mine.toml").write_text(text, encoding="utf-8")
    done = command("check", "mine.toml")
    assert done.exit_code == 0
    assert "fewer clients are online" not in done.stderr


@pytest.mark.parametrize("command_name", ["check", "run"])
def test_all_that_cannot_be_opened_is_said_at_once(command, command_name):
    Path("bad.csv").write_text("device,start_s,stop_s\nann,0,x\n", encoding="utf-8")
    Path("data").mkdir()
    Path("mine.toml").write_text('extends = "quickstart"\n', encoding="utf-8")
    np.savez("data/a.npz", x=np.zeros((4, 3), np.float32), y=np.array([0, 1, 0, -1]))
    overrides = ["population.availability=bad.csv", "data.dataset={kind='arrays', path='data'}"]
    done = command(command_name, "mine.toml", *(word for each in overrides for word in ("-o", each)))
    assert done.exit_code == 2
    assert done.stderr.startswith("evsim: 2 problems\n")
    assert "bad.csv" in done.stderr
    assert done.stdout == ""
    assert command("check", "--fast", "mine.toml", "-o", overrides[0]).exit_code == 0  # nothing is opened


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["model={kind='torch.nn:LazyLinear', out_features=10}"], ""),
        (["population.speed={compute_ms_per_sample=1e300, download_kbps=1, upload_kbps=1}"], "client"),
        (["cost.training_factor=1e300"], "client"),
        (
            [
                "population.clients=30",
                "aggregation.cohort_goal=30",
                "aggregation.minimum_cohort=30",
                "data.partition.alpha=1e-9",
            ],
            "",
        ),
    ],
)
def test_what_a_run_refuses_check_refuses(command, overrides, said):
    words = [word for each in overrides for word in ("-o", each)]
    checked = command("check", "quickstart", *words)
    ran = command("run", "quickstart", *words, "-o", "stop.server_steps=1", "-o", "executor.kind=serial")
    assert checked.exit_code == ran.exit_code
    assert said in checked.stderr
    if checked.exit_code:
        assert checked.stderr.splitlines()[-1] == ran.stderr.splitlines()[-1]


def test_the_manifest_keeps_what_was_said(command):
    overrides = ["stop.server_steps=1", "executor.kind=serial", *SETTING, *PLAIN, "cost.sample_scale=1"]
    assert (
        command("run", "quickstart", *(word for each in overrides for word in ("-o", each)), "--out", "r").exit_code
        == 0
    )
    kept = json.loads(Path("r/manifest.json").read_text(encoding="utf-8"))["caveats"]
    assert [each["key"] for each in kept][:1] == ["charged_size"]  # then what the run's tables show
    assert len({each["key"] for each in kept}) == len(kept)
    assert all(each["remedy"] for each in kept)
