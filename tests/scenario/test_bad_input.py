"""What a wrong scenario says: where, what was given, what was expected, what to do; all of it at once."""

from __future__ import annotations

from dataclasses import replace

import pytest

from evsim.base.errors import EvsimError, ScenarioError
from evsim.run.assembly import open_all
from evsim.scenario import Scenario

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
def complaint(tmp_path, monkeypatch):
    """The lines of the error that a file raises, without its count."""
    monkeypatch.chdir(tmp_path)

    def complaint(text: str, *overrides: str, name: str = "s.toml") -> list[str]:
        (tmp_path / name).write_text(text, encoding="utf-8")
        with pytest.raises(ScenarioError) as caught:
            Scenario.load(name, overrides)
        return [line.strip() for line in str(caught.value).splitlines()[1:]]

    return complaint


def test_a_missing_file_is_named_with_the_nearest_bundled_scenario():
    with pytest.raises(ScenarioError, match=r"quikstart.toml: no such file; .* did you mean 'quickstart'\?"):
        Scenario.load("quikstart.toml")


@pytest.mark.parametrize("more", ["seeds = 3", "[arms]\na = []", '[grid]\n"seed" = [1, 2]'])
def test_a_study_is_told_from_a_scenario(complaint, more):
    (line,) = complaint(f'scenario = "replay"\n{more}\n')
    assert line == "s.toml: a study: it names a scenario and arms; expected a scenario; evsim sweep s.toml runs it"


def test_a_toml_syntax_error_says_line_and_column(complaint):
    assert complaint("[stop]\nrounds = = 3\n") == ["s.toml: line 2, column 10: Invalid value; expected TOML"]


def test_a_file_that_is_no_text_says_so(tmp_path):
    path = tmp_path / "binary.toml"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ScenarioError, match="UTF-16; expected a scenario file: a text file in UTF-8"):
        Scenario.load(path)


def test_an_unknown_key_gets_the_nearest_valid_name(complaint):
    (line,) = complaint(DRY + "over_comitment = 1.2\n")
    assert line.startswith(
        "s.toml: aggregation.over_comitment: unknown key, given 1.2; did you mean 'over_commitment'?"
    )


def test_an_unknown_table_gets_the_nearest_valid_name(complaint):
    (line,) = complaint(DRY + "[evaluate]\nevery = 5\n")
    assert line.startswith("s.toml: evaluate: unknown key, given {'every': 5}; did you mean 'evaluation'?")


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("aggregation.cohort_goal='10'", "aggregation.cohort_goal: '10'; expected an integer"),
        ("aggregation.cohort_goal=1.5", "aggregation.cohort_goal: 1.5; expected an integer"),
        ("aggregation.cohort_goal=true", "aggregation.cohort_goal: True; expected an integer"),
        ("cost.sample_scale='2'", "cost.sample_scale: '2'; expected a number"),
        ("record.sessions=1", "record.sessions: 1; expected true or false"),
        ("training=maybe", "training: 'maybe'; expected 'real' or 'none'"),
        ("stop=5", "stop: 5; expected a table"),
        ("upload=clip", "upload: 'clip'; expected a list of tables"),
        ("selection=[1]", "selection: [1]; expected a kind or a table with a kind"),
        ("selection={a=1}", "selection.a: unknown key, given 1"),
        ("population.clients=many", "population.clients: 'many'; expected an integer"),
        ("start=25:00", "start: '25:00'; expected a time of day such as \"18:00\""),
        ("evaluation.every=0", "evaluation.every: 0; expected a duration such as"),
        ("evaluation.every=true", "evaluation.every: True; expected a duration such as"),
        ("aggregation.reporting_deadline=soon", "aggregation.reporting_deadline: 'soon'; expected a duration"),
    ],
)
def test_a_wrong_type_says_what_was_expected(complaint, override, expected):
    lines = complaint(DRY, override)
    assert any(line.startswith(f"-o {expected}") for line in lines), lines


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("cost.sample_scale=-1", "cost.sample_scale: sample_scale must be > 0, but got sample_scale=-1.0"),
        ("aggregation.reporting_deadline=-5", "aggregation.reporting_deadline: -5; expected a duration"),
        ("cost.model_bytes=-5", "cost.model_bytes: model_bytes must be > 0, but got model_bytes=-5"),
        ("record.availability_every=1ms", "record.availability_every: availability_every must be at least 1 s"),
        ("aggregation.over_commitment=1e300", "aggregation.over_commitment: over_commitment is a factor on"),
        ("population.availability={scale=1e9}", "population.availability: scale must be <= 1000"),
        ("stop.rounds=-1", "stop.rounds: rounds must be > 0, but got rounds=-1"),
        ("stop.target_accuracy=1.5", "stop.target_accuracy: target_accuracy must lie in (0, 1], but got"),
        ("population.clients=0", "population.clients: clients must be >= 1, but got clients=0"),
        ("population.speed.upload_kbps=-8", "population.speed: "),
        ("seed=-1", "seed: -1; expected an integer >= 0 and < 2^63"),
        ("name='a/b'", "name: 'a/b'; expected 1 to 100 characters without slashes"),
    ],
)
def test_an_impossible_value_says_what_would_be_possible(complaint, override, expected):
    (line,) = complaint(DRY, override)
    assert line.startswith(f"-o {expected}")


INTEGERS = (
    *("aggregation.cohort_goal", "stop.rounds", "evaluation.batch_size", "client_rule.batch_size", "cost.model_bytes"),
    *("aggregation.max_staleness", "cost.samples_per_client", "population.availability.days"),
)


@pytest.mark.parametrize("key", INTEGERS)
def test_integers_whose_products_overflow_are_refused_where_they_are_written(complaint, key):
    assert complaint(DRY, f"{key}={2**62}") == [
        f"-o {key}: {2**62}; expected an integer of at most 1_000_000_000_000_000"
    ]


def test_a_number_that_nobody_wrote_out_is_not_suggested(complaint):
    assert complaint(DRY, "cost.model_bytes=1e300") == ["-o cost.model_bytes: 1e+300; expected an integer"]


@pytest.mark.parametrize("value", ["nan", "-nan", "inf", "-inf"])
@pytest.mark.parametrize("key", ["cost.sample_scale", "population.speed.upload_kbps", "aggregation.over_commitment"])
def test_nan_and_infinity_are_no_numbers_here(complaint, key, value):
    (line,) = complaint(DRY, f"{key}={value}")
    assert line == f"-o {key}: {float(value)}; expected a finite number"


def test_an_unknown_kind_lists_the_kinds(complaint):
    (line,) = complaint(DRY, "selection.kind=unifrom")
    assert line.startswith("-o selection.kind: unknown kind 'unifrom'; did you mean 'uniform'? (known: ")


def test_a_kind_that_cannot_be_imported_says_why(complaint):
    (line,) = complaint(DRY, "selection.kind=nowhere:Mine")
    assert line == "-o selection.kind: cannot load 'nowhere:Mine': No module named 'nowhere'"


def test_a_kind_of_another_slot_is_refused(complaint):
    (line,) = complaint(DRY, "selection.kind=evsim.algorithms.sgd:Sgd")
    assert line.endswith("expected a frozen dataclass derived from Selector")


def test_a_policy_that_is_no_dataclass_is_told_what_to_write(complaint, tmp_path):
    code = "from evsim.selection.per_client import PerClient\nclass Mine(PerClient):\n    score = None\n"
    (tmp_path / "mine.py").write_text(code, encoding="utf-8")
    (line,) = complaint(DRY, "selection.kind=mine.py:Mine")
    assert line.endswith("expected a frozen dataclass: write @dataclass(frozen=True, kw_only=True) above class Mine")


def test_a_missing_kind_lists_the_kinds(complaint):
    (line,) = complaint(DRY.replace('kind = "synchronous"\n', ""))
    assert line.startswith("s.toml: aggregation.kind: missing; expected one of synchronous, buffered")


def test_minimum_reports_above_minimum_cohort_is_refused(complaint):
    (line,) = complaint(DRY + "minimum_cohort = 5\nminimum_reports = 6\n")
    assert line == (
        "s.toml: aggregation: 1 <= minimum_reports <= minimum_cohort <= cohort_goal must hold, "
        "but got minimum_reports=6, minimum_cohort=5, cohort_goal=10"
    )


def test_several_problems_are_reported_at_once(complaint):
    lines = complaint(DRY + 'cohort_gaol = 3\n[record]\nsessions = "yes"\n[selection]\nkind = "oert"\n', "seed=x")
    assert [line.split(": ")[0] for line in lines].count("s.toml") == 3
    assert any(line.startswith("-o seed: 'x'; expected an integer") for line in lines)
    assert len(lines) == 4


def test_a_problem_in_a_base_file_names_the_base_file(complaint, tmp_path):
    (tmp_path / "base.toml").write_text(DRY + "cohort_gaol = 3\n", encoding="utf-8")
    (line,) = complaint('extends = "base.toml"\n')
    assert line.startswith("base.toml: aggregation.cohort_gaol: unknown key")


def test_files_that_extend_each_other_are_named_in_order(complaint, tmp_path):
    (tmp_path / "b.toml").write_text('extends = "s.toml"\n', encoding="utf-8")
    (line,) = complaint('extends = "b.toml"\n')
    assert "the files extend each other: s.toml -> b.toml -> s.toml" in line


@pytest.mark.parametrize("base", ['"/etc/hostname"', '"nowhere.toml"', "3"])
def test_extends_names_a_file_nearby(complaint, base):
    (line,) = complaint(f"extends = {base}\n")
    assert line.startswith("s.toml: extends: ")


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        (
            '["aggregation.reporting_dedline"]',
            "'aggregation.reporting_dedline' is not set; expected a key that the extended files set; did you mean 'agg",
        ),
        ('["agregation.kind"]', "'agregation.kind' is not set; expected a key that the extended files set; "),
        ('["seed.x"]', "'seed.x' is not set; "),
        ('["cost.samples_per_client"]', "'cost.samples_per_client' is not set; "),  # a key of [cost], but nobody set it
        ('["model", "model.kind"]', "'model.kind' is not set; "),
        ('"seed"', "'seed'; expected a list of dotted keys, such as ["),
        ('["seed", 3]', "['seed', 3]; expected a list of dotted keys, such as ["),
        ('["a..b"]', "['a..b']; expected a list of dotted keys, such as ["),
    ],
)
def test_unset_names_keys_that_are_there(complaint, keys, said):
    (line,) = complaint(f'extends = "quickstart"\nunset = {keys}\n')
    assert line.startswith(f"s.toml: unset: {said}")


def test_every_key_that_is_not_there_is_reported(complaint):
    assert len(complaint('extends = "quickstart"\nunset = ["a", "seed", "b"]\n')) == 2


def test_a_file_that_extends_nothing_unsets_nothing(complaint):
    (line,) = complaint('unset = ["seed"]\n' + DRY)
    assert line == (
        "s.toml: unset: ['seed']; expected extends = ... beside it; a file that extends nothing inherits nothing"
    )


def test_what_is_missing_because_it_was_unset_names_the_file_that_unset_it(complaint, tmp_path):
    (tmp_path / "base.toml").write_text('extends = "quickstart"\nunset = ["data"]\n', encoding="utf-8")
    (line,) = complaint('extends = "base.toml"\n')
    assert line.startswith("base.toml: data: missing; expected a [data] table")


@pytest.mark.parametrize(
    ("below", "said"),
    [
        (
            'unset = ["seed"]',
            "weighting.unset: unknown key, given ['seed']; it belongs to the top level: write it above",
        ),
        ('extends = "replay"', "weighting.extends: unknown key, given 'replay'; it belongs to the top level: write it"),
        (
            "seed = 3",
            "weighting.seed: unknown key, given 3; it belongs to the top level: write it above the first [table]",
        ),
        (
            'merge = { kind = "refl" }',
            "weighting.merge: unknown key, given {'kind': 'refl'}; it belongs to the top level: write it as a table [m",
        ),
    ],
)
def test_a_key_of_the_top_level_below_a_header_is_sent_up(complaint, below, said):
    (line,) = complaint(f'{DRY}[weighting]\nkind = "uniform"\n{below}\n')
    assert line.startswith(f"s.toml: {said}")


@pytest.mark.parametrize("override", ["seed", "=3", "a b=3", "seed 3", "a..b=1", "client_rule.learning_rate=[1,"])
def test_a_bad_override_says_how_to_write_one(complaint, override):
    (line,) = complaint(DRY, override)
    assert line.startswith(f"-o {override}: ")
    assert "expected" in line


def test_an_override_cannot_smuggle_in_a_second_key(complaint):
    (line,) = complaint(DRY, "seed=1\nname='x'")
    assert "more than one value" in line


def test_an_unknown_algorithm_lists_the_algorithms(complaint):
    (line,) = complaint(DRY, "algorithm=fedprx")
    assert line.startswith("-o algorithm: unknown algorithm 'fedprx'; did you mean 'fedprox'?")


def test_real_training_needs_data_a_model_and_a_client_rule(complaint):
    lines = complaint(DRY.replace('training = "none"', 'training = "real"'))
    assert [line.split("; ")[0] for line in lines] == [
        "s.toml: client_rule: missing",
        "s.toml: data: missing",
        "s.toml: model: missing",
    ]


def test_a_dry_run_needs_the_size_of_the_model_and_the_number_of_clients(complaint):
    lines = complaint(DRY.replace("model_bytes = 1000", "").replace("clients = 30", ""))
    assert [line.split("; ")[0] for line in lines] == [
        "s.toml: cost.model_bytes: missing",
        "s.toml: population.clients: missing",
    ]


def test_a_dry_run_that_waits_for_an_accuracy_would_never_end(complaint):
    (line,) = complaint(DRY.replace("rounds = 3", "target_accuracy = 0.5"))
    assert line.startswith("s.toml: stop: only target_accuracy; expected server_steps, rounds or virtual_time")


def test_a_stop_without_any_condition_is_refused(complaint):
    (line,) = complaint(DRY.replace("rounds = 3", ""))
    assert "at least one of target_accuracy, target, server_steps, rounds, virtual_time is needed" in line


def test_fewer_clients_than_a_round_needs_is_refused(complaint):
    (line,) = complaint(DRY, "population.clients=9")
    assert line.startswith("-o population.clients: 9; expected at least 10, the clients that [aggregation] needs")


def test_an_unknown_trace_and_generator_keys_are_reported_with_the_rest(complaint):
    lines = complaint(DRY, "population.availability=phone", "population.speed={rank_corelation=0.5}", "zzz=1")
    assert len(lines) == 3
    assert any("did you mean 'phones'?" in line for line in lines)
    assert any(line.startswith("-o population.speed.rank_corelation: unknown key") for line in lines)


def test_a_broken_part_does_not_hide_the_others(complaint):
    lines = complaint(DRY, "upload=[{kind='int8'}, {kind='clip'}]", "merge.kind=krun", "seed=-1")
    assert any(line.startswith("-o upload[1].max_norm: missing; expected a number") for line in lines)
    assert any(line.startswith("-o merge.kind: unknown kind 'krun'; did you mean 'krum'?") for line in lines)
    assert any(line.startswith("-o seed: -1") for line in lines)
    assert len(lines) == 3


def test_a_data_size_for_clients_that_have_data_is_refused():
    with pytest.raises(
        ScenarioError, match=r"cost.samples_per_client: 5; expected nothing here; \[data\] already says"
    ):
        Scenario.load("quickstart", ["cost.samples_per_client=5"])


def test_a_combination_that_cannot_work_is_refused(complaint):
    lines = complaint(DRY, "algorithm=scaffold", "broadcast=full", "client_rule.learning_rate=0.1")
    assert lines
    assert all(line.startswith(("s.toml: ", "-o ")) for line in lines)


def test_start_is_a_whole_second_of_a_day():
    with pytest.raises(ScenarioError, match="start: 1 ms; expected a whole second of the day"):
        replace(Scenario.load("replay"), start=1)


@pytest.mark.parametrize(
    ("availability", "said"),
    [
        ('{ path = "availability.csv", slot = "xx" }', "population.availability.slot: 'xx' is not a duration"),
        ('{ path = "availability.csv", slot = 0 }', "population.availability.slot: 0; expected more than 0 ms"),
        (
            '{ path = "availability.csv", slt = 3 }',
            "1 problem\n  population.availability.slt: unknown key; did you mean 'slot'? (known: format, path, slot)",
        ),
        ('{ path = "availability.csv", format = "x" }', "population.availability.format: unknown kind 'x'"),
        ('{ path = "times.csv", period = "x" }', "population.availability.period: 'x' is not a duration"),
        ('{ path = "times.csv", origin = "x" }', "population.availability.origin: "),
        ('{ path = "times.csv", timezone = "x" }', "population.availability.timezone: "),
        ('"availability.csv"', "availability.csv: line 2, 1: '5'; expected 0 or 1"),
    ],
)
def test_an_option_of_a_file_of_traces_is_called_as_the_scenario_calls_it(tmp_path, monkeypatch, availability, said):
    monkeypatch.chdir(tmp_path)
    bad = availability.startswith('"')
    (tmp_path / "availability.csv").write_text("0,1,1\n1,5,0\n" if bad else "0,1,1\n1,0,0\n")
    (tmp_path / "times.csv").write_text("device,start,stop\na,2024-03-01T00:10:00,2024-03-01T00:20:00\n")
    (tmp_path / "s.toml").write_text(DRY.replace('"always"', availability))
    with pytest.raises(EvsimError) as caught:
        open_all(Scenario.load("s.toml"), "cpu")
    assert str(caught.value).startswith(said)
