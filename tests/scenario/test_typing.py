"""Kind to the hand that types: where a path begins, what went with a kind, where a key came from, what was meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from evsim.base.errors import ScenarioError
from evsim.scenario import Scenario

TRACE = "device,start_s,stop_s\nann,0,10\n"


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working directory beside the folder ``there`` of a scenario; both hold a trace and a rule of that name."""
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    (tmp_path / "there/s.toml").write_text('extends = "quickstart"\n', encoding="utf-8")
    for folder in ("here", "there"):
        (tmp_path / folder / "t.csv").write_text(TRACE, encoding="utf-8")
        (tmp_path / folder / "rule.py").write_text(
            "from evsim.selection.uniform import Uniform\n\nclass Mine(Uniform): ...\n", encoding="utf-8"
        )
    monkeypatch.chdir(tmp_path / "here")
    return Path("../there/s.toml")


def _load(file: object, *overrides: str, **named: object) -> Scenario:
    return Scenario.load(file, overrides, **named)


def _complaint(*overrides: str, file: object = "quickstart") -> str:
    with pytest.raises(ScenarioError) as caught:
        _load(file, *overrides)
    return str(caught.value)


# -- paths -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("override", ["population.availability=t.csv", "population={availability='t.csv'}"])
def test_a_path_of_an_override_begins_in_the_working_directory(here, override):
    assert _load(here, override).population.availability == str(Path.cwd() / "t.csv")


def test_so_does_a_path_in_a_table(here):
    source = _load(here, "population.availability={path='./t.csv', period='1d'}").population.availability
    assert source == {"path": str(Path.cwd() / "t.csv"), "period": "1d"}


def test_a_path_of_a_file_begins_beside_it(here):
    here.write_text('extends = "quickstart"\npopulation.availability = "t.csv"\n', encoding="utf-8")
    scenario = _load(here, "seed=1")
    assert scenario.population.availability == "t.csv"
    assert scenario.folder == here.parent


def test_what_is_not_in_the_working_directory_may_lie_beside_the_file_or_be_a_name(here):
    Path("t.csv").unlink()
    assert _load(here, "population.availability=t.csv").population.availability == "t.csv"
    Path("phones").write_text(TRACE, encoding="utf-8")
    assert _load(here, "population.availability=phones").population.availability == "phones"


@pytest.mark.parametrize("override", ["selection=rule.py:Mine", "selection={kind='rule.py:Mine'}"])
def test_code_of_an_override_begins_in_the_working_directory(here, override):
    assert f'kind = "{Path.cwd() / "rule.py"}:Mine"' in _load(here, override).to_toml()
    here.write_text('extends = "quickstart"\nselection = "rule.py:Mine"\n', encoding="utf-8")
    assert f'kind = "{here.parent.resolve() / "rule.py"}:Mine"' in _load(here).to_toml()


def test_two_files_of_one_name_are_two_modules(here):
    here.write_text('extends = "quickstart"\nselection = "rule.py:Mine"\n', encoding="utf-8")
    theirs, ours = _load(here), _load(here, "selection=rule.py:Mine")
    assert str(here.parent.resolve()) in theirs.to_toml()
    assert str(Path.cwd()) in ours.to_toml()
    assert type(theirs.selection) is not type(ours.selection)


def test_a_class_that_is_not_in_the_file_is_suggested(here):
    assert "rule.py has no attribute 'Mien'; did you mean 'Mine'?" in _complaint("selection=rule.py:Mien", file=here)


def test_overrides_that_a_file_holds_begin_beside_that_file(here):
    scenario = _load("quickstart", "population.availability=t.csv", paths_from=here.parent)
    assert scenario.population.availability == str((here.parent / "t.csv").absolute())


@pytest.mark.parametrize(
    ("override", "place"),
    [
        ("population.availability=no/t.csv", "here/no/t.csv and {there}/no/t.csv"),
        ("selection=no.py:Mine", "{there}/no.py"),
    ],
)
def test_a_missing_file_says_where_it_was_looked_for(here, override, place):
    said = _complaint(override, file=here)
    assert "looked for " in said
    assert place.format(there=here.parent.resolve()) in said


def test_a_missing_scenario_says_where_it_was_looked_for(here):
    assert f"looked for {Path.cwd()}/nowhere.toml" in _complaint(file="nowhere.toml")
    here.write_text('extends = "nowhere.toml"\n', encoding="utf-8")
    assert f"looked for {here.parent.absolute()}/nowhere.toml" in _complaint(file=here)


# -- kinds that change -------------------------------------------------------------------------------------------------


def test_a_missing_key_says_that_it_went_with_the_old_kind():
    said = _complaint("client_rule.kind=adam")
    assert (
        "-o client_rule.learning_rate: missing; expected a number; the options of kind 'sgd' were dropped with it"
        in said
    )
    assert "learning_rate = 0.05" in said


def test_a_dropped_option_is_said_only_if_the_new_kind_has_it_with_another_value():
    def keys(*overrides: str) -> list[str]:
        return [f"{each.key}: {each.measure}" for each in _load("quickstart", *overrides).notes]

    assert keys("client_rule={kind='adam', learning_rate=1}") == [
        "dropped_option: 5 was inherited, kind 'adam' runs with 20"
    ]
    assert keys("client_rule={kind='adam', learning_rate=1, batch_size=20}") == []
    assert keys("client_rule.kind=sgd") == []  # the same kind again changes nothing
    assert keys("aggregation={kind='buffered', concurrency=10, buffer_size=5}") == []
    assert keys("data.partition={kind='iid'}") == ["dropped_option: 20 was inherited, kind 'iid' runs with None"]
    assert keys("data.partition={kind='iid'}", "data.partition.samples_per_client=20") == []


# -- keys that are inherited -------------------------------------------------------------------------------------------


def test_an_error_names_the_file_that_an_inherited_key_comes_from(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text('extends = "quickstart"\n[client_rule]\nsteps = 3\n', encoding="utf-8")
    assert "`epochs` is inherited from quickstart.toml" in _complaint(file=file)
    file.write_text(
        'extends = "quickstart"\n[aggregation]\ncohort_goal = 500\nminimum_cohort = 400\n', encoding="utf-8"
    )
    assert "`clients` is inherited from quickstart.toml" in _complaint(file=file)


def test_a_key_of_the_file_itself_is_not_called_inherited(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text('extends = "quickstart"\n[client_rule]\nsteps = 3\nepochs = 2\n', encoding="utf-8")
    assert "inherited" not in _complaint(file=file)
    assert "inherited" not in _complaint("stop.rounds=-1", file=file)


# -- what was meant ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "meant"),
    [
        ("stop.target_accuracy=93", "did you mean 0.93?"),
        ("stop.target_accuracy='93 %'", "did you mean 0.93?"),
        ("stop.target_accuracy=93%", "did you mean 0.93?"),
        ("data.test_fraction=20", "did you mean 0.2?"),
        ("client_rule.learning_rate='0.05'", "did you mean 0.05, without quotes?"),
        ("aggregation.cohort_goal='20'", "did you mean 20, without quotes?"),
        ("record.sessions='true'", "did you mean true, without quotes?"),
        ("record.sessions=yes", "did you mean true?"),
        ("aggregation.cohort_goal=20.0", "did you mean 20?"),
        ("client_rule.learning_rate=0,05", "did you mean 0.05?"),
        ("cost.model_bytes=40MB", "did you mean 40000000?"),
        ("stop.virtual_time=7days", 'did you mean "7d"?'),
        ("model.hidden=32", "did you mean [32]?"),
        ("upload.kind=clip", "did you mean a list of one?"),
        ("client_rule.kind=SGD", "did you mean 'sgd'?"),
    ],
)
def test_a_value_that_is_nearly_right_is_recognized(override, meant):
    assert meant in _complaint(override)


@pytest.mark.parametrize(
    "override", ["stop.target_accuracy=930", "stop.target_accuracy=-1", "aggregation.cohort_goal='x'"]
)
def test_a_value_that_is_far_off_gets_no_guess(override):
    assert "did you mean" not in _complaint(override)
