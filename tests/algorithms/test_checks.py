"""Combinations that cannot work are found before a run, and say what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from evsim.algorithms.asynchronous import Mixing
from evsim.algorithms.base import Method
from evsim.algorithms.broadcast import FullModel
from evsim.algorithms.checks import check_method
from evsim.algorithms.compositions import COMPOSITIONS
from evsim.algorithms.dp import DpMean
from evsim.algorithms.fednova import FedNova, NovaSgd
from evsim.algorithms.local_dp import LocalDpNoise
from evsim.algorithms.mean import Mean
from evsim.algorithms.norm_clip import NormClip
from evsim.algorithms.qfedavg import FairSgd
from evsim.algorithms.robust import Krum, Median, MultiKrum
from evsim.algorithms.scaffold import Scaffold, ScaffoldSgd, WithControl
from evsim.algorithms.server_sgd import ServerSgd
from evsim.algorithms.sgd import Sgd
from evsim.algorithms.staleness import PolynomialStaleness
from evsim.algorithms.weighting import EqualWeights, SampleWeights
from evsim.base.errors import ScenarioError
from evsim.scenario import Scenario

SCAFFOLD = {
    "broadcast": WithControl(),
    "client_rule": ScaffoldSgd(learning_rate=0.1),
    "weighting": EqualWeights(),
    "server_optimizer": Scaffold(),
}
NOVA = {"client_rule": NovaSgd(learning_rate=0.1), "server_optimizer": FedNova()}


def _problems(goal=20, **slots):
    parts = {
        "broadcast": FullModel(),
        "client_rule": Sgd(learning_rate=0.1),
        "upload": (),
        "weighting": SampleWeights(),
        "merge": Mean(),
        "server_optimizer": ServerSgd(),
        **slots,
    }
    return [str(problem) for problem in check_method(Method(**parts), goal)]


@pytest.mark.parametrize("weighting", [SampleWeights(), PolynomialStaleness(base="samples")])
def test_mixing_refuses_weights_that_are_no_shares(weighting):
    (problem,) = _problems(goal=1, merge=Mixing(), weighting=weighting)
    assert "gives a fresh report of 1000 samples the weight 1000" in problem
    assert "base = 'uniform'" in problem


@pytest.mark.parametrize("weighting", [EqualWeights(), PolynomialStaleness()])
def test_mixing_takes_shares(weighting):
    assert _problems(goal=1, merge=Mixing(), weighting=weighting) == []


@pytest.mark.parametrize("name", COMPOSITIONS)
def test_every_named_algorithm_is_accepted_on_the_quickstart(name):
    assert Scenario.load("quickstart", [f'algorithm="{name}"']).algorithm == name


@pytest.mark.parametrize(
    "slots",
    [
        {},
        SCAFFOLD,
        NOVA,
        {**SCAFFOLD, "merge": Median()},
        {**SCAFFOLD, "merge": Krum(attackers=3)},
        {**NOVA, "merge": MultiKrum(attackers=3)},
        {"merge": NormClip(max_norm=1.0)},
    ],
)
def test_combinations_that_work_are_accepted(slots):
    assert _problems(**slots) == []


@pytest.mark.parametrize(
    ("slots", "said"),
    [
        ({**SCAFFOLD, "merge": NormClip(max_norm=1.0)}, ["merge: NormClip cannot merge 'control'"]),
        ({**NOVA, "merge": Median()}, ["merge: Median cannot merge 'nova'"]),
        (
            {**SCAFFOLD, "broadcast": FullModel()},
            ["broadcast: FullModel does not send 'control'", "use broadcast kind = 'scaffold'"],
        ),
        ({**SCAFFOLD, "server_optimizer": ServerSgd()}, ["keeps no 'control'", "does not use 'control'"]),
        ({"client_rule": FairSgd(learning_rate=0.1, q=1.0)}, ["does not use 'fair'", "kind = 'qfedavg'"]),
        ({"server_optimizer": FedNova()}, ["client_rule: Sgd does not send 'nova'", "kind = 'fednova'"]),
        ({"merge": Krum(attackers=9)}, ["needs 21 updates, the cohort goal is 20"]),
        ({"merge": MultiKrum(attackers=1, keep=25)}, ["needs 25 updates"]),
        ({**NOVA, "upload": (LocalDpNoise(max_norm=1.0, noise_multiplier=1.0),)}, ["does not protect 'nova'"]),
        ({"merge": DpMean(max_norm=1.0, noise_multiplier=1.0)}, ["weighting: SampleWeights; expected 'uniform'"]),
        (
            {"merge": DpMean(max_norm=1.0, noise_multiplier=9.0, adaptive=True), "weighting": EqualWeights()},
            ["count_noise must be > noise_multiplier / 2 = 4.5"],
        ),
        ({**SCAFFOLD, "merge": DpMean(max_norm=1.0, noise_multiplier=1.0)}, ["DpMean cannot merge 'control'"]),
    ],
)
def test_combinations_that_cannot_work_say_so(slots, said):
    found = "\n".join(_problems(**slots))
    for words in said:
        assert words in found


def test_a_buffer_without_a_goal_needs_no_goal_for_krum_but_dp_needs_a_cohort():
    assert _problems(goal=0, merge=Krum(attackers=9)) == []
    assert (
        "cohort is not given"
        in _problems(goal=0, merge=DpMean(max_norm=1.0, noise_multiplier=1.0), weighting=EqualWeights())[0]
    )


def test_a_scenario_file_reports_them_with_its_other_problems(tmp_path: Path):
    file = tmp_path / "bad.toml"
    file.write_text('extends = "quickstart"\nalgorithm = "scaffold"\nmerge = { kind = "norm_clip", max_norm = 1.0 }\n')
    with pytest.raises(ScenarioError, match=r"merge.*NormClip cannot merge 'control' beside the model"):
        Scenario.load(file)
