"""Objectives against their contract, and losses and metrics against brute force."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import sklearn.metrics as sk
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evsim.base import registry
from evsim.testing.objectives import ObjectiveContract, labels_of, width_of
from evsim.training.objectives.base import Groups, Objective
from evsim.training.objectives.binary import Binary
from evsim.training.objectives.classification import Classification
from evsim.training.objectives.metrics.counting import (
    F1,
    Accuracy,
    BalancedAccuracy,
    MacroF1,
    Precision,
    Recall,
    TopK,
)
from evsim.training.objectives.metrics.errors import R2, Mae, Mse, Rmse
from evsim.training.objectives.metrics.library import LibraryMetric
from evsim.training.objectives.metrics.ranking import Auc, area
from evsim.training.objectives.metrics.text import Perplexity
from evsim.training.objectives.multi_label import MultiLabel
from evsim.training.objectives.next_token import NextToken
from evsim.training.objectives.regression import Regression

#: Every objective with every metric that serves it.
FULL: dict[str, Objective] = {
    "classification": Classification(
        metrics=(Accuracy(), TopK(k=2), MacroF1(), BalancedAccuracy(), Perplexity()),
    ),
    "next_token": NextToken(metrics=(Perplexity(), Accuracy(), TopK(k=2))),
    "multi_label": MultiLabel(metrics=(F1(), Auc(), MacroF1(), Precision(), Recall(), Accuracy())),
    "binary": Binary(metrics=(Auc(), Accuracy(), F1(), Precision(), Recall())),
    "regression": Regression(metrics=(Rmse(), Mae(), R2(), Mse())),
    "huber": Regression(error="huber", delta=0.5),
}


@pytest.mark.parametrize("kind", sorted(FULL))
class TestObjectives(ObjectiveContract):
    @pytest.fixture(autouse=True)
    def chosen(self, kind):
        self.kind = kind

    def make(self):
        return FULL[self.kind]


def test_all_of_the_registry_are_tried():
    assert set(registry.entries("objective")) <= set(FULL)
    told = {metric.name for objective in FULL.values() for metric in objective.metrics}
    assert set(registry.entries("metric")) - {"top_k"} <= told


# -- losses, written out -----------------------------------------------------------------------------------------------

DRAW = np.random.default_rng(11)


def logits(*shape):
    return torch.from_numpy(DRAW.normal(size=shape))


def nll(row, label):
    return float(np.log(np.exp(row - row.max()).sum()) - (row[label] - row.max()))


def test_classification_is_cross_entropy():
    outputs, y = logits(9, 4), torch.arange(9) % 4
    expected = [nll(row, label) for row, label in zip(outputs.numpy(), y.tolist(), strict=True)]
    np.testing.assert_allclose(Classification().loss(outputs, y), expected, rtol=1e-12)


def test_next_token_is_the_mean_over_the_steps_that_have_a_label():
    outputs = logits(4, 3, 5)
    y = torch.tensor([[0, 1, 2], [4, -1, -1], [-1, 3, -1], [-1, -1, -1]], dtype=torch.int8)
    expected = []
    for rows, labels in zip(outputs.numpy(), y.tolist(), strict=True):
        each = [nll(row, label) for row, label in zip(rows, labels, strict=True) if label >= 0]
        expected.append(np.mean(each) if each else 0.0)
    np.testing.assert_allclose(NextToken().loss(outputs, y), expected, rtol=1e-12)


def test_padding_pulls_at_nothing_whatever_the_outputs_there():
    outputs = logits(2, 3, 5).requires_grad_()
    y = torch.tensor([[0, 1, -1], [2, -1, -1]])
    (grad,) = torch.autograd.grad(NextToken().loss(outputs, y).sum(), outputs)
    assert not grad[y < 0].any()
    assert grad[y >= 0].any(1).all()


def test_multi_label_is_the_mean_of_binary_cross_entropies():
    outputs, y = logits(7, 3), torch.from_numpy(DRAW.integers(0, 2, (7, 3)).astype(np.uint8))
    p = 1 / (1 + np.exp(-outputs.numpy()))
    expected = -(y.numpy() * np.log(p) + (1 - y.numpy()) * np.log(1 - p)).mean(1)
    np.testing.assert_allclose(MultiLabel().loss(outputs, y), expected, rtol=1e-12)


@pytest.mark.parametrize("shape", [(7,), (7, 1)])
def test_binary_is_binary_cross_entropy_of_one_logit(shape):
    outputs, y = logits(*shape), torch.arange(7) % 2
    p = 1 / (1 + np.exp(-outputs.numpy().reshape(-1)))
    np.testing.assert_allclose(Binary().loss(outputs, y), -np.log(np.where(y == 1, p, 1 - p)), rtol=1e-12)


@pytest.mark.parametrize("shape", [(6,), (6, 2)])
def test_regression_is_the_mean_of_squares_or_of_hubers_loss(shape):
    outputs, y = 2 * logits(*shape), logits(*shape)
    error = (outputs - y).numpy()
    huber = np.where(np.abs(error) <= 0.7, error**2 / 2, 0.7 * (np.abs(error) - 0.35))
    assert (np.abs(error) > 0.7).any()
    assert (np.abs(error) < 0.7).any()
    for objective, each in ((Regression(), error**2), (Regression(error="huber", delta=0.7), huber)):
        np.testing.assert_allclose(objective.loss(outputs, y), each.reshape(6, -1).mean(1), rtol=1e-12)


def test_one_number_may_have_an_axis_or_none():
    outputs, y = logits(6, 1), logits(6)
    assert torch.equal(Regression().loss(outputs, y), Regression().loss(outputs[:, 0], y))
    kept = [FULL["regression"].keep(each, y) for each in (outputs, outputs[:, 0])]
    one, other = (FULL["regression"].measure(each, Groups.whole(6)) for each in kept)
    assert {name: value.tolist() for name, value in one.items()} == {n: value.tolist() for n, value in other.items()}


# -- metrics, against scikit-learn and by hand -------------------------------------------------------------------------


def measured(objective, outputs, y):
    found = objective.measure(objective.keep(outputs, y), Groups.whole(len(y)))
    return {name: float(value[0]) for name, value in found.items()}


def test_metrics_of_classes_are_scikit_learns():
    outputs, y = logits(200, 6), torch.from_numpy(DRAW.integers(0, 5, 200))  # class 5 is guessed, and no label
    guess, labels = outputs.argmax(1).numpy(), y.numpy()
    found = measured(FULL["classification"], outputs, y)
    assert found["accuracy"] == pytest.approx(sk.accuracy_score(labels, guess), rel=1e-12)
    assert found["macro_f1"] == pytest.approx(sk.f1_score(labels, guess, average="macro"), rel=1e-12)
    assert found["balanced_accuracy"] == pytest.approx(sk.recall_score(labels, guess, average="macro", labels=range(5)))
    assert found["top2_accuracy"] == sk.top_k_accuracy_score(labels, outputs.numpy(), k=2, labels=range(6))
    assert found["perplexity"] == pytest.approx(np.exp(found["loss"]), rel=1e-12)


def test_metrics_of_flags_are_scikit_learns():
    outputs, y = logits(150, 4), torch.from_numpy((DRAW.random((150, 4)) < 0.3).astype(np.uint8))
    guess, labels = (outputs > 0).numpy(), y.numpy()
    found = measured(FULL["multi_label"], outputs, y)
    assert found["f1"] == pytest.approx(sk.f1_score(labels, guess, average="micro"), rel=1e-12)
    assert found["macro_f1"] == pytest.approx(sk.f1_score(labels, guess, average="macro"), rel=1e-12)
    assert found["precision"] == pytest.approx(sk.precision_score(labels, guess, average="micro"), rel=1e-12)
    assert found["recall"] == pytest.approx(sk.recall_score(labels, guess, average="micro"), rel=1e-12)
    assert found["auc"] == pytest.approx(sk.roc_auc_score(labels, outputs.numpy(), average="macro"), rel=1e-12)
    assert found["accuracy"] == pytest.approx(1 - sk.hamming_loss(labels, guess), rel=1e-12)


def test_metrics_of_numbers_are_scikit_learns():
    outputs, y = logits(80, 3), 1 + logits(80, 3)
    found = measured(FULL["regression"], outputs, y)
    assert found["rmse"] == pytest.approx(sk.mean_squared_error(y, outputs) ** 0.5, rel=1e-12)
    assert found["mse"] == pytest.approx(sk.mean_squared_error(y, outputs), rel=1e-12)
    assert found["mae"] == pytest.approx(sk.mean_absolute_error(y, outputs), rel=1e-12)
    assert found["r2"] == pytest.approx(sk.r2_score(y, outputs), rel=1e-12)


def test_perplexity_and_accuracy_count_every_step_alike():
    outputs = logits(2, 3, 5)
    y = torch.tensor([[0, 1, 2], [4, -1, -1]])
    told = [(outputs[i, t].numpy(), int(y[i, t])) for i, t in np.argwhere(y.numpy() >= 0)]
    found = measured(FULL["next_token"], outputs, y)
    assert found["perplexity"] == pytest.approx(np.exp(np.mean([nll(*each) for each in told])), rel=1e-12)
    assert found["accuracy"] == np.mean([row.argmax() == label for row, label in told])
    assert found["top2_accuracy"] == np.mean([label in np.argsort(row)[-2:] for row, label in told])
    assert found["loss"] != pytest.approx(np.log(found["perplexity"]))  # a short sample counts as a long one there


def pairs(score, y):
    """The area under the curve, pair by pair."""
    wins = [(a > b) + (a == b) / 2 for a in score[y] for b in score[~y]]
    return np.mean(wins) if wins else np.nan


@given(
    st.lists(st.tuples(st.integers(0, 3), st.sampled_from([-1.0, 0.0, 0.5, 2.0]), st.booleans()), max_size=40),
)
@settings(max_examples=60, deadline=None)
def test_areas_of_groups_are_counted_pair_by_pair(rows):
    rows = sorted(rows, key=lambda row: row[0])
    owner, score, y = (np.array([row[k] for row in rows], dtype) for k, dtype in enumerate((np.int64, float, bool)))
    expected = [pairs(score[owner == k], y[owner == k]) for k in range(4)]
    np.testing.assert_allclose(area(score, y, owner, 4), expected, rtol=1e-12)


def test_a_diverged_model_has_metrics_that_say_so():
    outputs, y = torch.full((6, 3), torch.nan, dtype=torch.float64), torch.arange(6) % 3
    found = measured(FULL["classification"], outputs, y)
    assert np.isnan(found["loss"])
    assert np.isnan(found["perplexity"])
    assert found["top2_accuracy"] == 0.0
    assert np.isnan(measured(Binary(), outputs[:, 0], y.clamp(max=1))["auc"])


# -- metrics of a library, and of one's own ----------------------------------------------------------------------------

MINE = """
def spread(outputs, y, scale=1.0):
    return scale * float(outputs.max() - outputs.min())
"""


def test_a_function_of_outputs_and_labels_is_a_metric(tmp_path):
    (tmp_path / "mine.py").write_text(MINE)
    metric = LibraryMetric(target=f"{tmp_path / 'mine.py'}:spread", options={"scale": 2.0})
    objective = Classification(metrics=(Accuracy(), metric))
    outputs, y = logits(12, 3), torch.arange(12) % 3
    groups = Groups(np.arange(12), np.array([0, 5, 5, 12]))
    found = objective.measure(objective.keep(outputs, y), groups)["spread"]
    np.testing.assert_allclose(
        found, [2 * float(np.ptp(outputs.numpy()[:5])), np.nan, 2 * float(np.ptp(outputs.numpy()[5:]))]
    )
    assert metric.direction is None


CASES = {
    "MulticlassAccuracy": (Classification(), {"num_classes": 3, "average": "micro"}, "accuracy"),
    "MulticlassF1Score": (FULL["classification"], {"num_classes": 3, "average": "macro"}, "macro_f1"),
    "BinaryAUROC": (Binary(), {}, "auc"),
    "MultilabelF1Score": (MultiLabel(), {"num_labels": 3, "average": "micro"}, "f1"),
}


@pytest.mark.parametrize("name", CASES)
def test_torchmetrics_may_be_named_and_agree(name):
    pytest.importorskip("torchmetrics")
    objective, options, own = CASES[name]
    metric = LibraryMetric(target=f"torchmetrics.classification:{name}", options=options)
    both = replace(objective, metrics=(*objective.metrics, metric))
    y = labels_of(objective, 60)
    outputs = logits(60, *objective.output_shape(y.shape[1:], width_of(objective)))
    found = measured(both, outputs, y)
    assert found[metric.name] == pytest.approx(found[own], rel=1e-6)
    assert metric.direction.larger_is_better


def test_torchmetrics_says_which_way_is_better():
    pytest.importorskip("torchmetrics")
    metric = LibraryMetric(target="torchmetrics.classification:MulticlassCalibrationError", options={"num_classes": 3})
    assert metric.name == "multiclass_calibration_error"
    assert not metric.direction.larger_is_better
