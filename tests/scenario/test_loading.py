"""Scenario files: what they mean, how they are layered, and that they survive being written."""

from __future__ import annotations

import sys
import textwrap
import tomllib
from dataclasses import MISSING, fields, is_dataclass, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evsim.aggregation.pacing import QuantileDeadline
from evsim.aggregation.synchronous import Synchronous
from evsim.algorithms.fedprox import FedProx
from evsim.algorithms.mean import Mean
from evsim.algorithms.sgd import Sgd
from evsim.base import registry
from evsim.base.bundled import bundled
from evsim.base.errors import ScenarioError
from evsim.base.units import MS_PER_DAY, MS_PER_HOUR, MS_PER_MINUTE, parse_duration
from evsim.scenario import Scenario, Stop
from evsim.scenario.hints import Every, describe, fields_of, format_exact, hints_of
from evsim.traces.population import Listed, Modulo, Paired, RankJoin, Sample
from evsim.training.executors.auto import Auto
from evsim.training.models.factory import Factory

DRY = """
    training = "none"
    [stop]
    rounds = 3
    [population]
    clients = 30
    availability = "always"
    speed = { compute_ms_per_sample = 1, download_kbps = 8, upload_kbps = 8 }
    [cost]
    model_bytes = 1000
    [aggregation]
    kind = "synchronous"
    cohort_goal = 10
"""


@pytest.fixture
def write(tmp_path):
    def write(text: str, name: str = "study.toml") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text), encoding="utf-8")
        return path

    return write


# -- what a file means -------------------------------------------------------------------------------------------------


def test_quickstart_says_what_its_comments_say():
    scenario = Scenario.load("quickstart")
    assert (scenario.name, scenario.seed, scenario.start) == ("quickstart", 0, 18 * MS_PER_HOUR)
    assert scenario.population.join is None
    assert scenario.client_rule == Sgd(learning_rate=0.05, batch_size=5, epochs=1)
    assert scenario.evaluation.every_ms == 10 * MS_PER_MINUTE
    assert scenario.evaluation.every_steps is None
    assert scenario.stop.virtual_time == 7 * MS_PER_DAY


@pytest.mark.parametrize("path", bundled("scenarios"), ids=lambda path: path.stem)
def test_a_bundled_scenario_begins_with_its_question_and_survives_being_written(path, tmp_path):
    assert path.read_text(encoding="utf-8").startswith("# ")
    scenario = Scenario.load(path)
    copy = tmp_path / "copy.toml"
    copy.write_text(scenario.to_toml(), encoding="utf-8")
    assert Scenario.load(copy) == scenario


def test_a_small_dry_scenario_gets_its_defaults(write):
    scenario = Scenario.load(write(DRY))
    assert scenario.name == "study"
    assert scenario.client_rule == Sgd(learning_rate=0.1, batch_size=20)
    assert scenario.upload == ()
    assert scenario.executor == Auto()
    assert scenario.aggregation == Synchronous(cohort_goal=10)
    assert scenario.evaluation.every == Every(ms=10 * MS_PER_MINUTE)
    assert scenario.folder == write(DRY).parent


@pytest.mark.parametrize(
    ("text", "every"),
    [("5", Every(steps=5)), ("'90s'", Every(ms=90_000)), ("2h", Every(ms=2 * MS_PER_HOUR))],
)
def test_evaluation_every_takes_steps_or_a_duration(write, text, every):
    assert Scenario.load(write(DRY), [f"evaluation.every={text}"]).evaluation.every == every


@pytest.mark.parametrize(
    ("value", "join"),
    [
        ('"modulo"', Modulo()),
        ('{ kind = "sample" }', Sample()),
        ('{ kind = "rank", correlation = 1, with = "availability" }', RankJoin(correlation=1, with_="availability")),
        ("paired", Paired()),
        ('{ kind = "listed", file = "pairs.csv" }', Listed(file="pairs.csv")),
        ('{ kind = "listed", devices_of = ["b", "a"] }', Listed(devices_of=("b", "a"))),
    ],
)
def test_a_policy_is_its_kind_or_a_table_with_its_kind(write, value, join):
    scenario = Scenario.load(write(DRY), [f"population.join={value}"])
    assert scenario.population.join == join
    assert Scenario.from_dict(_tables(scenario)).population.join == join


def test_uploads_are_an_array_of_tables_in_order(write):
    text = DRY + '\n    [[upload]]\n    kind = "clip"\n    max_norm = 2.0\n    [[upload]]\n    kind = "int8"\n'
    scenario = Scenario.load(write(text))
    assert [type(each).__name__ for each in scenario.upload] == ["Clip", "Int8"]
    assert Scenario.from_dict(_tables(scenario)) == scenario


def test_a_file_and_its_tables_mean_the_same(write):
    from_file = Scenario.load(write(DRY))
    assert Scenario.from_dict({"name": "study", **_tables(from_file)}) == from_file


def test_a_run_folder_stands_for_its_scenario(write):
    path = write(DRY, "runs/first/scenario.toml")
    assert Scenario.load(path.parent) == Scenario.load(path)


def test_a_changed_copy_is_checked_again(write):
    scenario = Scenario.load(write(DRY))
    assert replace(scenario, seed=7).seed == 7
    with pytest.raises(ScenarioError, match="seed: -1; expected an integer >= 0"):
        replace(scenario, seed=-1)


# -- layers ------------------------------------------------------------------------------------------------------------


def test_extends_takes_over_all_but_the_name_and_merges_tables_deeply(write):
    write(DRY + '\n    [client_rule]\n    kind = "sgd"\n    learning_rate = 0.5\n    batch_size = 7\n', "base.toml")
    scenario = Scenario.load(write('extends = "../base.toml"\n[client_rule]\nbatch_size = 9\n', "sub/top.toml"))
    assert scenario.name == "top"
    assert scenario.client_rule == Sgd(learning_rate=0.5, batch_size=9)


def test_a_policy_whose_kind_changes_is_replaced(write):
    write(DRY + '\n    [client_rule]\n    kind = "sgd"\n    learning_rate = 0.5\n    batch_size = 7\n', "base.toml")
    top = write('extends = "base.toml"\nclient_rule = { kind = "fedprox", learning_rate = 0.2, mu = 1 }\n', "top.toml")
    assert Scenario.load(top).client_rule == FedProx(learning_rate=0.2, mu=1)


def test_a_bundled_scenario_can_be_extended_by_its_name(write):
    scenario = Scenario.load(write('extends = "replay"\nseed = 3\n'))
    assert replace(scenario, seed=0, name="replay") == Scenario.load("replay")


def test_an_override_is_toml_and_a_bare_word_is_text(write):
    path = write(DRY)
    overrides = ["seed=4", "aggregation.reporting_deadline=90s", "start=18:30", "name=x", "stop.virtual_time='1d'"]
    scenario = Scenario.load(path, overrides)
    assert (scenario.seed, scenario.start, scenario.name) == (4, 18 * MS_PER_HOUR + 30 * MS_PER_MINUTE, "x")
    assert scenario.aggregation == Synchronous(cohort_goal=10, reporting_deadline=90_000)
    assert scenario.stop == Stop(rounds=3, virtual_time=MS_PER_DAY)


def test_an_override_without_value_returns_to_the_default(write):
    scenario = Scenario.load("quickstart", ["client_rule.epochs=", "client_rule.steps=4"])
    assert scenario.client_rule == Sgd(learning_rate=0.05, batch_size=5, steps=4)


def test_a_file_unsets_what_it_takes_over_before_its_own_tables_are_laid_on_top(write):
    write('extends = "quickstart"\nseed = 4\n', "base.toml")
    text = """
        extends = "base.toml"
        unset = ["seed", "aggregation.reporting_deadline", "client_rule"]
        [aggregation]
        pacing = { kind = "quantile", share = 0.9 }
        [client_rule]
        kind = "sgd"
        learning_rate = 0.2
    """
    scenario = Scenario.load(write(text))
    assert scenario.seed == 0
    assert scenario.aggregation.reporting_deadline is None
    assert scenario.aggregation.pacing == QuantileDeadline(share=0.9)
    assert scenario.aggregation.cohort_goal == Scenario.load("quickstart").aggregation.cohort_goal
    assert scenario.client_rule == Sgd(learning_rate=0.2)  # batch_size 5 of the quickstart is gone
    assert Scenario.load(write(scenario.to_toml(), "dumped/study.toml")) == scenario


def test_unset_reaches_through_every_file_and_into_a_policy_that_is_its_kind_alone(write):
    write('extends = "replay"\npopulation.join = "modulo"\nrecord.availability_every = "7min"\n', "base.toml")
    write('extends = "base.toml"\nunset = ["population.join", "record.availability_every"]\n', "middle.toml")
    scenario = Scenario.load(write('extends = "middle.toml"\nunset = ["stop.virtual_time"]\nstop.rounds = 2\n'))
    assert scenario.population.join is None
    assert scenario.record.availability_every == 5 * MS_PER_MINUTE
    assert scenario.stop == Stop(rounds=2)


def test_unsetting_an_algorithm_takes_its_kinds_along_and_a_kind_of_it_can_be_unset(write):
    write('extends = "quickstart"\nalgorithm = "fedbuff"\n', "base.toml")
    plain = Scenario.load(write('extends = "base.toml"\nunset = ["algorithm"]\n', "quickstart.toml"))
    assert plain == Scenario.load("quickstart")
    assert Scenario.load(write('extends = "base.toml"\nunset = ["merge"]\n')).merge == Mean()
    assert Scenario.load(write('extends = "base.toml"\n'), ["algorithm="]).merge == Mean()


def test_an_algorithm_lies_under_the_tables_of_its_file(write):
    text = 'algorithm = "fedprox"\n' + textwrap.dedent(DRY) + "\n[client_rule]\nlearning_rate = 0.3\nmu = 2.0\n"
    assert Scenario.load(write(text)).client_rule == FedProx(learning_rate=0.3, mu=2.0)


def test_an_algorithm_named_later_wins_and_keeps_the_local_work(write):
    path = write(DRY + '\n    [client_rule]\n    kind = "sgd"\n    learning_rate = 0.5\n    batch_size = 7\n')
    scenario = Scenario.load(path, ["algorithm=fedprox", "client_rule.mu=0.5"])
    assert scenario.client_rule == FedProx(learning_rate=0.5, batch_size=7, mu=0.5)
    assert Scenario.load(path, ["algorithm=fedprox", "algorithm=fedavg"]).client_rule == Sgd(
        learning_rate=0.5, batch_size=7
    )


def test_a_rule_of_the_users_own_is_found_beside_the_scenario(write):
    write(
        """
        from dataclasses import dataclass
        from evsim.selection.uniform import Uniform
        from evsim.selection.base import Selector

        @dataclass(frozen=True, kw_only=True)
        class Mine(Selector[None]):
            share: float = 0.5

            def init(self, n_clients): return None
            def select(self, state, view, n, key): return Uniform().select(state, view, n, key)
            def feedback(self, state, reports): return None
        """,
        "own_rule.py",
    )
    text = textwrap.dedent(DRY) + '\n[selection]\nkind = "own_rule.py:Mine"\nshare = 1\n'
    scenario = Scenario.load(write(text))
    assert type(scenario.selection).__name__ == "Mine"
    copy = write(scenario.to_toml(), "elsewhere/copy.toml")
    for name in [each for each in sys.modules if each.startswith(registry.FILE_MODULE)]:
        del sys.modules[name]
    assert repr(Scenario.load(copy).selection) == repr(scenario.selection)


def test_any_factory_of_a_torch_module_is_a_model(write):
    write("from torch import nn\ndef make(width: int, n_classes: int): return nn.Linear(width, n_classes)\n", "net.py")
    scenario = Scenario.load("quickstart", ["model.kind=torch.nn:Linear", "model.hidden=", "model.in_features=2"])
    assert scenario.model == Factory(target="torch.nn:Linear", options={"in_features": 2})
    assert Scenario.from_dict(_tables(scenario)) == scenario
    path = write('extends = "quickstart"\nmodel = { kind = "net.py:make", width = 4 }\n')
    scenario = Scenario.load(path)
    assert Scenario.from_dict({"name": "study", **_tables(scenario)}) == scenario
    with pytest.raises(ScenarioError, match=r"model\.widht: unknown key, given 5; did you mean 'width'"):
        Scenario.load(path, ["model.widht=5"])
    built = scenario.model.build(shape=(4,), n_classes=3, n_tokens=None, seed=0)
    assert built.weight.shape == (3, 4)


# -- every policy there is ---------------------------------------------------------------------------------------------

PLAIN = ("listener", "trace_format", "data_format", "rate_format")  # classes and functions that are no policies
POLICIES = [(slot, kind) for slot in registry.slots() if slot not in PLAIN for kind in registry.built_in(slot)]


@pytest.mark.parametrize(("slot", "kind"), POLICIES, ids=lambda name: name)
def test_a_policy_can_be_written_in_a_file(slot, kind):
    cls = registry.load(slot, kind)
    assert is_dataclass(cls)
    hints = hints_of(cls)
    for field in fields_of(cls).values():
        assert describe(hints[field.name])


def test_none_is_written_where_leaving_out_means_something_else():
    scenario = Scenario.load("quickstart", ["selection={ kind = 'power_of_choice', d = 30, query_timeout = 'none' }"])
    assert scenario.selection.query_timeout is None
    assert Scenario.from_dict(_tables(scenario)).selection == scenario.selection
    default = Scenario.load("quickstart", ["selection={ kind = 'power_of_choice', d = 30 }"]).selection
    assert default.query_timeout == 5 * MS_PER_MINUTE


def test_every_field_of_a_scenario_has_a_place_in_its_file():
    left_out = {field.name for field in fields(Scenario)} - {field.name for field in fields_of(Scenario).values()}
    assert left_out == {"folder", "notes"}
    assert all(
        field.default is MISSING
        for field in fields(Scenario)
        if field.name in registry.slots()
        if field.name not in ("upload", "model", "listener", "network", "actor", "work")
    )


@settings(derandomize=True, max_examples=50)
@given(st.integers(0, 10**12))
def test_a_duration_reads_back_exactly(ms):
    assert parse_duration(format_exact(ms)) == ms


def _tables(scenario: Scenario) -> dict:
    return tomllib.loads(scenario.to_toml())
