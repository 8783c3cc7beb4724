"""Study files: arms, grids, seeds, and everything that is wrong at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from evsim.base.errors import ScenarioError
from evsim.base.metrics import Target
from evsim.study import Study


def load(tmp_path, text):
    (tmp_path / "s.toml").write_text(text)
    return Study.load(tmp_path / "s.toml")


def test_arms_and_a_number_of_seeds(tmp_path):
    study = load(tmp_path, 'scenario = "quickstart"\nseeds = 2\n[arms]\na = []\nb = ["aggregation.cohort_goal=29"]\n')
    assert (study.name, study.seeds, list(study.arms)) == ("s", (0, 1), ["a", "b"])
    found = study.scenarios()
    assert list(found) == [("a", 0), ("a", 1), ("b", 0), ("b", 1)]
    assert found["b", 1].seed == 1
    assert found["b", 1].aggregation.cohort_goal == 29
    assert found["a", 0].aggregation.cohort_goal == 20


def test_runs_of_a_study_do_not_stop_at_the_target_that_it_asks_for(tmp_path):
    study = load(tmp_path, 'scenario = "quickstart"\n[arms]\na = []\n')
    assert study.target() == Target.of("accuracy", 0.93)
    assert study.scenarios()["a", 0].stop.target_accuracy is None
    assert load(tmp_path, 'scenario = "quickstart"\ntarget_accuracy = 0.5\n[arms]\na = []\n').target() == Target.of(
        "accuracy", 0.5
    )


def test_a_grid_is_the_product_of_its_values_times_the_arms(tmp_path):
    text = 'scenario = "quickstart"\n[grid]\n"client_rule.learning_rate" = [0.1, 0.2]\n"selection.kind" = ["uniform"]\n'
    assert dict(load(tmp_path, text).arms) == {
        "learning_rate=0.1, kind=uniform": ("client_rule.learning_rate=0.1", "selection.kind=uniform"),
        "learning_rate=0.2, kind=uniform": ("client_rule.learning_rate=0.2", "selection.kind=uniform"),
    }
    both = load(tmp_path, text + '[arms]\nx = ["aggregation.cohort_goal=29"]\n')
    assert list(both.arms) == ["x, learning_rate=0.1, kind=uniform", "x, learning_rate=0.2, kind=uniform"]
    assert next(iter(both.arms.values()))[0] == "aggregation.cohort_goal=29"


def test_a_scenario_beside_the_study_is_found(tmp_path):
    (tmp_path / "mine.toml").write_text('extends = "quickstart"\n')
    assert load(tmp_path, 'scenario = "mine.toml"\n[arms]\na = []\n').scenarios()["a", 0].name == "mine"


def test_a_study_may_ask_for_another_metric(tmp_path):
    text = 'scenario = "quickstart"\ntarget = { metric = "loss", at_most = 0.5 }\n[arms]\na = []\n'
    assert load(tmp_path, text).target() == Target(metric="loss", at_most=0.5)


@pytest.mark.parametrize(
    ("target", "told"),
    [
        ('{ metric = "loss", at_least = 0.5 }', "smaller is better, so a target of it is never at_least"),
        ('{ metric = "loss" }', "either at_least or at_most"),
        ('{ metric = "loss", at_most = "0.5" }', "expected a table such as"),
        ('{ metric = "loss", most = 0.5 }', "expected a table such as"),
        ("0.5", "expected a table such as"),
        ('{ metric = "accuracy", at_least = 93 }', r"did you mean 0.93\?"),
        ('{ metric = "loss", at_most = 0.5 }\ntarget_accuracy = 0.5', "given beside target_accuracy"),
    ],
)
def test_a_target_that_cannot_be_is_told(tmp_path, target, told):
    with pytest.raises(ScenarioError, match=rf"s.toml: target: .*{told}"):
        load(tmp_path, f'scenario = "quickstart"\ntarget = {target}\n[arms]\na = []\n')


def test_a_scenario_is_not_taken_for_a_study(tmp_path):
    with pytest.raises(
        ScenarioError, match=r"s\.toml: a scenario, not a study; expected a study: .*; evsim run .* runs it"
    ):
        load(tmp_path, 'name = "x"\nseed = 1\nextends = "quickstart"\n[stop]\nrounds = 2\n')


def test_every_problem_is_told_at_once(tmp_path):
    with pytest.raises(ScenarioError) as caught:
        load(tmp_path, "seed = 1\nseeds = [1, 1]\ntarget_accuracy = 2\n[grid]\nx = []\n")
    text = str(caught.value)
    assert text.startswith("5 problems")
    assert "seed: unknown key; did you mean 'seeds'?" in text
    for key in ("scenario", "seeds", "target_accuracy", "grid"):
        assert f"s.toml: {key}: " in text


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("scenario = ", "s.toml: "),
        ('scenario = "quickstart"', "arms: no arms"),
        ('scenario = "quickstart"\n[arms]\n"a b" = []\n"a/b" = []\n', "names that differ in their letters"),
        ('scenario = "quickstart"\n[arms]\na = "x=1"\n', "lists of overrides by the arm's name"),
        ('scenario = "quickstart"\nseeds = 0\n[arms]\na = []\n', "a number of seeds"),
        ('scenario = "quickstart"\nseeds = true\n[arms]\na = []\n', "a number of seeds"),
    ],
)
def test_what_is_wrong_is_told(tmp_path, text, told):
    with pytest.raises(ScenarioError, match=told):
        load(tmp_path, text)


def test_an_arm_with_a_wrong_override_is_named(tmp_path):
    study = load(tmp_path, 'scenario = "quickstart"\n[arms]\na = []\nb = ["selection.kind=ort"]\n')
    with pytest.raises(ScenarioError, match=r"(?s)arm 'b': .*did you mean 'oort'"):
        study.scenarios()


def test_a_missing_study_file_is_told(tmp_path):
    with pytest.raises(ScenarioError, match="no such file; expected a study file"):
        Study.load(tmp_path / "none.toml")


def test_a_path_of_an_arm_begins_beside_the_study_file(tmp_path, monkeypatch):
    (tmp_path / "studies").mkdir()
    (tmp_path / "studies/t.csv").write_text("device,start_s,stop_s\nann,0,10\n", encoding="utf-8")
    (tmp_path / "t.csv").write_text("another", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    text = 'scenario = "quickstart"\nseeds = 1\n[arms]\na = ["population.availability=t.csv"]\n'
    (tmp_path / "studies/mine.toml").write_text(text, encoding="utf-8")
    (scenario,) = Study.load("studies/mine.toml").scenarios().values()
    assert Path(scenario.population.availability).resolve() == tmp_path / "studies/t.csv"


def test_a_target_that_no_run_would_tell_is_refused_before_anything_runs(tmp_path):
    study = load(tmp_path, 'scenario = "quickstart"\ntarget = { metric = "perplexity", at_most = 3 }\n[arms]\na = []\n')
    with pytest.raises(ScenarioError, match=r"target\.metric: the objective of arm 'a' does not tell 'perplexity'"):
        study.scenarios()


def test_the_target_of_a_scenario_may_be_of_any_metric(tmp_path):
    own = '"stop.target_accuracy=", "stop.target={metric=\'loss\',at_most=0.5}"'
    study = load(tmp_path, f'scenario = "quickstart"\noverrides = [{own}]\n[arms]\na = []\n')
    assert study.target() == Target(metric="loss", at_most=0.5)
    assert study.scenarios()["a", 0].stop.goal is None
