"""Objectives against their contract, and losses and metrics against brute force."""

from __future__ import annotations

import pytest

from evsim.base import registry
from evsim.testing.objectives import ObjectiveContract
from evsim.training.objectives.base import Objective
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
from evsim.training.objectives.metrics.ranking import Auc
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
