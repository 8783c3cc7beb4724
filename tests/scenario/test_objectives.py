"""What does not fit an objective is refused by name: labels, outputs, metrics, targets."""

from __future__ import annotations

import re
import sys

import numpy as np
import pytest

from evsim import Scenario
from evsim.base.errors import EvsimError, ScenarioError
from evsim.run.assembly import open_all
from evsim.run.trial import try_out

NO_TARGET = ["stop.target_accuracy="]
CALIBRATION = "{kind='torchmetrics.classification:MulticlassCalibrationError',num_classes=10}"


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["objective='clasification'"], "did you mean 'classification'?"),
        (["objective.metrics=['acuracy']"], "unknown kind 'acuracy'; did you mean 'accuracy'?"),
        (["objective.metrics=['accuracy','rmse']"], "rmse is no metric of classification"),
        (
            ["objective={kind='binary',metrics=['accuracy','macro_f1']}"],
            "(known: accuracy, auc, f1, precision, recall)",
        ),
        (["objective.metrics=['accuracy','accuracy']"], "accuracy is told more than once"),
        (["objective.metrics=[{kind='top_k',k=0}]"], "k must be >= 1"),
        (["objective={kind='regression',delta=0}"], "delta must be > 0"),
        (["objective='regression'"], "does not tell accuracy; (known: loss, mae, r2, rmse); say stop.target instead"),
        (
            [*NO_TARGET, "stop.target={metric='loss',at_least=0.3}"],
            "of loss smaller is better, so a target of it is never",
        ),
        ([*NO_TARGET, "stop.target={metric='acuracy',at_least=0.3}"], "did you mean 'accuracy'?"),
        ([*NO_TARGET, "stop.target={metric='accuracy',at_least=93}"], "did you mean 0.93?"),
        ([*NO_TARGET, "stop.target={metric='loss'}"], "either at_least or at_most"),
        ([*NO_TARGET, "stop.target={metric='perplexity',at_most=3}"], "does not tell perplexity"),
        ([*NO_TARGET, "stop.target={metrik='loss',at_most=3}"], "did you mean 'metric'?"),
        (["stop.target={metric='loss',at_most=0.3}"], "beside target_accuracy"),
        (["evaluation.client_sample=3"], "client_sample needs per_client = true"),
        (["evaluation.per_client=true", "evaluation.client_sample=0"], "client_sample must be >= 1"),
        (["objective.metrics=['no_such_library.parts:Thing']"], "No module named 'no_such_library'"),
    ],
)
def test_it_is_refused_by_name(overrides, told):
    with pytest.raises(ScenarioError, match=re.escape(told)):
        Scenario.load("quickstart", overrides)


def test_a_library_that_is_not_installed_comes_with_its_install_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchmetrics", None)
    monkeypatch.delitem(sys.modules, "torchmetrics.classification", raising=False)
    with pytest.raises(ScenarioError, match=r"pip install 'evsim\[metrics\]'"):
        Scenario.load("quickstart", [f"objective.metrics=['accuracy',{CALIBRATION}]"])


def test_a_target_goes_the_way_of_the_librarys_metric():
    pytest.importorskip("torchmetrics")
    metrics = f"objective.metrics=['accuracy',{CALIBRATION}]"
    told = (
        "multiclass_calibration_error at least 0.3; expected at_most: of multiclass_calibration_error smaller is better"
    )
    with pytest.raises(ScenarioError, match=told):
        Scenario.load(
            "quickstart", [metrics, *NO_TARGET, "stop.target={metric='multiclass_calibration_error',at_least=0.3}"]
        )
    goal = "stop.target={metric='multiclass_calibration_error',at_most=0.3}"
    assert Scenario.load("quickstart", [metrics, *NO_TARGET, goal]).stop.goal.value == 0.3


def test_a_scenario_with_objectives_and_metrics_is_written_as_it_is_read(tmp_path):
    objective = "objective={kind='classification',metrics=['accuracy',{kind='top_k',k=3},'macro_f1','mine.py:spread']}"
    (tmp_path / "mine.py").write_text("def spread(outputs, y):\n    return float(outputs.max())\n")
    (tmp_path / "s.toml").write_text('extends = "quickstart"\n')
    scenario = Scenario.load(
        tmp_path / "s.toml", [objective, *NO_TARGET, "stop.target={metric='loss',at_most=0.3}"], paths_from=tmp_path
    )
    (tmp_path / "again.toml").write_text(scenario.to_toml())
    again = Scenario.load(tmp_path / "again.toml")
    assert again.objective == scenario.objective
    assert again.objective.names == ("loss", "accuracy", "top3_accuracy", "macro_f1", "spread")
    assert again.stop == scenario.stop


def opened(overrides, **where):
    scenario = Scenario.load("quickstart", overrides, **where)
    return scenario, open_all(scenario, "cpu")


@pytest.mark.parametrize(
    ("objective", "told"),
    [
        ("next_token", "labels of 'digits' are a class per sample.*expected a class per time step"),
        ("multi_label", "labels of 'digits' are a class per sample.*expected zeros and ones"),
        ("regression", "labels of 'digits' are a class per sample.*expected floats"),
        ("binary", "labels of 'digits' are 0 to 9; expected 0 and 1"),
    ],
)
def test_labels_that_are_not_what_is_learnt_are_refused(objective, told):
    with pytest.raises(EvsimError, match=f"objective.kind: {objective}: .*{told}"):
        opened([*NO_TARGET, f"objective='{objective}'"])


def test_outputs_that_do_not_fit_are_refused_with_both_shapes(tmp_path):
    text = {"window": 10, "stride": 10, "labels": "every", "most_test_samples": 50}
    inline = ",".join(f"{key}={value!r}" for key, value in text.items())
    data = [f"data.dataset={{kind='shakespeare',{inline}}}", "data.partition={kind='natural',max_samples=5}"]
    with pytest.raises(
        EvsimError, match=r"it gave \(2, 80\); expected \(2, 10, 80\) \(batch, time, tokens\); the model must"
    ):
        opened([*NO_TARGET, *data, "objective='next_token'", "model={kind='gru'}"])
    opened([*NO_TARGET, *data, "objective='next_token'", "model={kind='gru',predicts='every'}"])


@pytest.mark.parametrize(
    ("y", "labels", "objective", "shape"),
    [
        (np.arange(40) / 7, "numbers", "regression", (1,)),
        (np.arange(80).reshape(40, 2) / 7, "auto", "regression", (2,)),
        (np.arange(120).reshape(40, 3) % 2, "auto", "multi_label", (3,)),
        (np.arange(40) % 2, "auto", "binary", (1,)),
        (np.arange(40) % 4, "auto", "classification", (4,)),
    ],
)
def test_a_model_is_built_as_wide_as_the_objective_wants(tmp_path, y, labels, objective, shape):
    np.savez(tmp_path / "a.npz", x=np.ones((40, 5), np.float32), y=y)
    data = [f"data.dataset={{kind='arrays',path={str(tmp_path)!r},labels='{labels}'}}", "data.partition='iid'"]
    few = ["population.clients=30", "model='softmax'"]
    scenario, found = opened([*NO_TARGET, *data, *few, f"objective='{objective}'"])
    assert found.model[1].weight.shape == (*shape, 5)
    try_out(scenario, found)


@pytest.mark.parametrize("partition", ["dirichlet", "shards", "classes", "similarity"])
def test_labels_without_classes_are_not_dealt_by_class(tmp_path, partition):
    np.savez(tmp_path / "a.npz", x=np.ones((40, 5), np.float32), y=np.arange(80).reshape(40, 2) / 7)
    needed = {"dirichlet": ",alpha=0.5", "classes": ",classes_per_client=1", "similarity": ",iid_share=0.5"}
    data = [
        f"data.dataset={{kind='arrays',path={str(tmp_path)!r}}}",
        f"data.partition={{kind='{partition}'{needed.get(partition, '')}}}",
    ]
    with pytest.raises(EvsimError, match=f"data.partition: {partition} deals samples by their class; .*such as iid"):
        opened([*NO_TARGET, *data, "model='softmax'", "objective='regression'"])


@pytest.mark.parametrize(
    ("y", "labels", "told"),
    [
        (np.array([0.5, 1.0]), "auto", 'y holds 0.5 at sample 0; expected whole numbers .* say labels = "numbers"'),
        (np.array([[0.5, np.nan], [0, 1]]), "auto", "label nan of sample 0 is not finite"),
        (np.array([[0, 2], [0, 1]]), "flags", "y holds 2; expected zeros and ones"),
        (np.array([[0, -2], [0, 1]]), "auto", "y holds -2; expected classes from 0, or -1"),
        (np.array([0, 1]), "steps", r"y holds int64 of shape \(2,\); expected a class per time step"),
        (np.array([[0, 1], [1, 0]]), "classes", r"y holds int64 of shape \(2, 2\); expected a class per sample"),
        (np.array([[0], [1]]), "auto", r"shape \(2, 1\); .* y\[:, 0\] if these are classes"),
    ],
)
def test_labels_that_are_not_what_they_are_said_to_be_are_refused(tmp_path, y, labels, told):
    np.savez(tmp_path / "a.npz", x=np.ones((2, 5), np.float32), y=y)
    data = f"data.dataset={{kind='arrays',path={str(tmp_path)!r},labels='{labels}'}}"
    with pytest.raises(EvsimError, match=told):
        opened([*NO_TARGET, data, "data.partition='iid'"])


def test_a_metric_that_fails_is_found_before_the_run():
    pytest.importorskip("torchmetrics")
    scenario, found = opened(["objective.metrics=['accuracy'," + CALIBRATION.replace("=10", "=7") + "]"])
    with pytest.raises(
        EvsimError, match=r"metric torchmetrics\.classification:MulticlassCalibrationError.*while a model is judged"
    ):
        try_out(scenario, found)
