"""What runs with a caveat, that the remedy it names removes it, and that the command line says it once."""

from __future__ import annotations

import json
import re
import warnings
from pathlib import Path

import pytest
from typer.testing import CliRunner

import evsim
from evsim.algorithms.compositions import COMPOSITIONS
from evsim.base.bundled import bundled
from evsim.base.caveat import Caveat
from evsim.cli import app
from evsim.scenario import Scenario
from evsim.scenario.caveats import caveats, sampling

TIMEOUT = "task_timeout = '30min'"
BUFFER = f"aggregation={{ kind = 'buffered', concurrency = 20, buffer_size = 5, {TIMEOUT} }}"
PERIOD = f"aggregation={{ kind = 'buffered', concurrency = 20, buffer_size = 50, period = '5min', {TIMEOUT} }}"
SINGLE = f"aggregation={{ kind = 'buffered', concurrency = 20, buffer_size = 1, {TIMEOUT} }}"
NO_TIMEOUT = "aggregation.task_timeout=none"
KEEP = "aggregation.late_reports=keep"
DISCOUNT = "weighting={ kind = 'hinge_staleness' }"
IDEAL = (
    "aggregation.reporting_deadline=",
    "aggregation.over_commitment=",
    "population.availability=always",
    "algorithm=dp_fedavg",
)


def _caveats(*overrides: str) -> list[Caveat]:
    return caveats(Scenario.load("quickstart", overrides))


@pytest.mark.parametrize("path", bundled("scenarios"), ids=lambda path: path.stem)
def test_a_bundled_scenario_has_none(path):
    assert caveats(Scenario.load(path)) == []


@pytest.mark.parametrize("name", sorted(set(COMPOSITIONS) - {"fedbuff", "fedasync", "dp_fedavg", "dp_ftrl"}))
def test_a_method_of_rounds_has_none_in_rounds(name):
    assert _caveats(f"algorithm={name}") == []


#: By key: what produces a caveat, words of it, and what its remedy leaves to be said (nothing).
CASES = {
    "no_task_timeout": ([BUFFER, NO_TIMEOUT], 'concurrency = 20, task_timeout = "none"', [BUFFER]),
    "no_deadline": (
        ["aggregation.reporting_deadline=", "aggregation.over_commitment=1.04"],
        "over_commitment = 1.04",
        ["aggregation.reporting_deadline=", "aggregation.over_commitment=1.3"],
    ),
    "scaffold_not_in_rounds": ([BUFFER, "algorithm=scaffold"], "guarantee does not carry over", ["algorithm=scaffold"]),
    "feddyn_not_in_rounds": ([BUFFER, "algorithm=feddyn"], "guarantee does not carry over", ["algorithm=feddyn"]),
    "no_amplification": (
        ["algorithm=dp_fedavg"],
        "(q = 1: clients are not always available, over-commitment favors fast clients",
        IDEAL,
    ),
    "tree_noise_does_not_cancel": (
        ["algorithm=dp_ftrl", "merge.separation=15", "server_optimizer={ kind = 'fedadam' }"],
        "server optimizer FedAdam",
        ["algorithm=dp_ftrl", "merge.separation=15"],
    ),
    "too_few_clients_for_the_separation": (
        ["algorithm=dp_ftrl", "merge.restart_every=30"],
        "600 reports in 30 steps, 300 clients",
        ["algorithm=dp_ftrl", "merge.restart_every=15"],
    ),
    "buffer_mean_in_rounds": (
        ["algorithm=fedbuff", "weighting.kind=uniform"],
        "divides by cohort_goal = 20, however few",
        [BUFFER, "algorithm=fedbuff"],
    ),
    "buffer_mean_of_periods": (
        [PERIOD, "algorithm=fedbuff"],
        "divides by buffer_size = 50, however few reports a period brought",
        [PERIOD, "algorithm=fedbuff", "merge.kind=mean"],
    ),
    "mixing_in_rounds": (
        ["algorithm=fedasync", "weighting.kind=uniform"],
        "not for rounds",
        [SINGLE, "algorithm=fedasync"],
    ),
    "mixing_in_buffers": (
        [BUFFER, "algorithm=fedasync"],
        "takes them in one after the other",
        [SINGLE, "algorithm=fedasync"],
    ),
    "refl_without_stale": (["merge.kind=refl"], "the plain mean of the reports", ["merge.kind=refl", KEEP]),
    "nothing_to_discount": ([DISCOUNT], "has nothing to discount", [DISCOUNT, KEEP]),
    "dropped_option": (
        ["client_rule={ kind = 'adam', learning_rate = 0.01 }"],
        "5 was inherited, kind 'adam' runs with 20",
        ["client_rule={ kind = 'adam', learning_rate = 0.01, batch_size = 5 }"],
    ),
    "predictor_unused": (
        ["selection.predictor={ kind = 'daily' }"],
        "selection Uniform, predictor Daily",
        ["selection.kind=refl_ips", "selection.predictor={ kind = 'daily' }"],
    ),
    "kept_unseen": (["keep=['3.*']"], "keep = ['3.*']", ["keep=['3.*']", "evaluation.per_client=true"]),
}


#: Tested beside their policies, in `algorithms/test_checks`.
ELSEWHERE = {"selection_without_privacy", "delta_of_a_client", "robust_merge_counts_reports"}


@pytest.mark.parametrize("key", CASES)
def test_a_caveat_is_said_with_its_measure_and_its_remedy_removes_it(key):
    overrides, words, mended = CASES[key]
    (found,) = _caveats(*overrides)
    assert found.key == key
    assert words in str(found)
    assert found.remedy
    assert _caveats(*mended) == []


def test_every_caveat_of_a_scenario_has_a_case():
    root = Path(evsim.__file__).parent
    rooms = [root / "scenario/caveats.py", root / "scenario/assembling.py"]
    rooms += [page for room in ("algorithms", "aggregation") for page in (root / room).glob("*.py")]
    source = "".join(room.read_text(encoding="utf-8") for room in rooms)
    assert set(re.findall(r'Caveat\(\s*"(\w+)"', source)) == set(CASES) | ELSEWHERE


@pytest.mark.parametrize(
    ("overrides", "keys"),
    [
        (["algorithm=fedbuff"], ["buffer_mean_in_rounds", "nothing_to_discount"]),
        (["algorithm=fedasync"], ["mixing_in_rounds", "nothing_to_discount"]),
        ([BUFFER, "algorithm=dp_fedavg"], ["no_amplification"]),
        ([*IDEAL, "aggregation.pacing={ kind = 'quantile' }"], ["no_amplification"]),
        ([BUFFER, NO_TIMEOUT, "population.availability=always"], []),
        ([BUFFER, "aggregation.task_timeout="], []),
        (["aggregation.reporting_deadline=", "aggregation.over_commitment=", "population.availability=always"], []),
        ([PERIOD, "algorithm=fedbuff", "aggregation.buffer_size=20"], []),
        ([PERIOD, "algorithm=fedbuff", "aggregation.period="], []),
        ([DISCOUNT, BUFFER], []),
        (["client_rule={ kind = 'adam', learning_rate = 0.05, batch_size = 20, epochs = 1 }"], []),
    ],
)
def test_what_is_said_of_several(overrides, keys):
    assert sorted(each.key for each in _caveats(*overrides)) == keys


def test_a_caveat_of_a_plug_in_is_said_with_the_rest(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(
        "from dataclasses import dataclass\n"
        "from evsim.algorithms.base import Weighting\n"
        "from evsim.base.caveat import Caveat\n"
        "@dataclass(frozen=True)\n"
        "class Mine(Weighting):\n"
        "    def weights(self, reports): ...\n"
        "    def caveats(self, scenario): yield Caveat('mine', f'goal {scenario.aggregation.cohort_goal}')\n",
        encoding="utf-8",
    )
    assert [str(each) for each in _caveats("weighting.kind=mine.py:Mine")] == ["goal 20"]


def test_sampling_is_told_as_the_scenario_has_it():
    found = sampling(Scenario.load("quickstart", IDEAL), 300)
    assert (found.n_clients, found.cohort, found.over_commitment, found.deadline) == (300, 20, 1.0, False)
    assert found.reasons_against_amplification == ()


# -- the command line --------------------------------------------------------------------------------------------------

DRY = ["replay", "-o", "stop.virtual_time=1h", "-o", "population.clients=600", "-o", DISCOUNT]
SAID = "evsim: caveat: no report of a round is stale: "


@pytest.fixture
def command(tmp_path, monkeypatch):
    """Runs a command in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: CliRunner().invoke(app, list(arguments), catch_exceptions=False)


def test_check_says_them_on_stderr(command):
    done = command("check", *DRY)
    assert (done.exit_code, done.stderr.count(SAID)) == (0, 1)
    assert done.stdout.endswith("replay: runs, with caveats\n")


def test_run_says_them_on_stderr_once_and_keeps_them(command):
    done = command("run", *DRY)
    assert (done.exit_code, done.stderr.count(SAID)) == (0, 1)
    kept, *others = json.loads(Path("runs/replay-1/manifest.json").read_text(encoding="utf-8"))["caveats"]
    assert Caveat.from_json(kept) == caveats(Scenario.load("replay", [DISCOUNT]))[0]
    assert 1 <= done.stderr.count("evsim: caveat: ") <= 1 + len(others)  # the manifest also has what the tables show


def test_run_does_not_let_python_warn_of_them_again(command):
    overrides = ["algorithm=scaffold", BUFFER, "stop.virtual_time=30min", "executor.kind=serial"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the run would end with the warning
        done = command("run", "quickstart", *(word for each in overrides for word in ("-o", each)))
    assert (done.exit_code, done.stderr.count("SCAFFOLD")) == (0, 1)
    assert all(line.startswith("evsim: caveat: ") for line in done.stderr.splitlines())
