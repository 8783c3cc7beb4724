"""Combinations that cannot work are found before a run, and say what to do."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

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
from evsim.base.policy import policies
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
    whole = SimpleNamespace(**parts, aggregation=SimpleNamespace(reports_per_step=goal))
    said = [problem for policy in policies(list(parts.values())) for problem in policy.problems(whole)]
    return [str(problem) for problem in (*check_method(Method(**parts), goal), *said)]


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


# -- what a policy says of the company it is in ------------------------------------------------------------------------

ROUNDS = ["aggregation.cohort_goal=20"]
LATE = ["aggregation.late_reports=keep"]
BUFFER = ['aggregation={ kind = "buffered", concurrency = 40, buffer_size = 20 }']
SINGLE = ['aggregation={ kind = "buffered", concurrency = 40, buffer_size = 1 }']


@pytest.mark.parametrize("merge", ["median", "trimmed_mean", "krum", "multi_krum", "norm_clip", "mean"])
@pytest.mark.parametrize(("aggregation", "twice"), [(ROUNDS, False), (LATE, True), (BUFFER, True), (SINGLE, False)])
def test_a_robust_merge_says_where_a_client_may_report_twice(merge, aggregation, twice):
    options = {"krum": ", attackers = 0", "multi_krum": ", attackers = 0", "norm_clip": ", max_norm = 1.0"}
    if "krum" in merge and aggregation is SINGLE:
        return  # refused: it needs three reports
    chosen = f'merge={{ kind = "{merge}"{options.get(merge, "")} }}'
    scenario = Scenario.load("quickstart", [*aggregation, chosen])
    found = [caveat.key for caveat in scenario.merge.caveats(scenario)]
    robust = merge not in ("norm_clip", "mean")
    assert found == (["robust_merge_counts_reports"] if robust and twice else [])


def test_what_policies_need_is_told_with_the_rest_of_a_scenario():
    bad = ["algorithm=dp_fedavg", "weighting.kind=samples", "merge.adaptive=true", "merge.count_noise=0.1"]
    with pytest.raises(ScenarioError) as error:
        Scenario.load("quickstart", bad)
    assert "2 problems" in str(error.value)
    for words in ("weighting: SampleWeights; expected 'uniform'", "count_noise must be > noise_multiplier / 2 = 0.5"):
        assert words in str(error.value)


def test_a_plug_in_says_what_it_needs_as_a_built_in_policy_does(tmp_path: Path):
    (tmp_path / "mine.py").write_text(
        "from dataclasses import dataclass\n"
        "from evsim.algorithms.base import Weighting\n"
        "from evsim.base.errors import Problem\n"
        "@dataclass(frozen=True)\n"
        "class Mine(Weighting):\n"
        "    def weights(self, reports): ...\n"
        "    def problems(self, scenario):\n"
        "        if scenario.aggregation.reports_per_step < 50:\n"
        "            yield Problem('aggregation.cohort_goal', 'too few for Mine', 'at least 50')\n"
    )
    (tmp_path / "s.toml").write_text('extends = "quickstart"\nweighting.kind = "mine.py:Mine"\n')
    with pytest.raises(ScenarioError, match="cohort_goal: too few for Mine; expected at least 50"):
        Scenario.load(tmp_path / "s.toml")


@pytest.mark.parametrize(
    ("changes", "keys"),
    [
        ([], []),
        (["selection.kind=oort"], ["selection_without_privacy"]),
        (["selection.kind=power_of_choice", "selection.d=40"], ["selection_without_privacy"]),
        (["selection.kind=by_samples"], []),
        (["merge.delta=0.01"], ["delta_of_a_client"]),
        (["population.clients=200000"], ["delta_of_a_client"]),
        (["population.clients=200000", "merge.delta=1e-7"], []),
    ],
)
def test_dp_says_what_its_epsilon_does_not_cover(changes, keys):
    scenario = Scenario.load("quickstart", ["algorithm=dp_fedavg", *changes])
    found = list(scenario.merge.caveats(scenario))
    assert [caveat.key for caveat in found] == keys
    assert all(caveat.remedy for caveat in found)
