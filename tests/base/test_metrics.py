"""Directions and bounds of metrics, and targets that fit them."""

from __future__ import annotations

import math

import numpy as np
import pytest

from evsim.base.errors import PolicyError
from evsim.base.metrics import METRICS, Target, metric_of


@pytest.mark.parametrize("name", METRICS)
def test_a_target_goes_in_the_metrics_own_direction_and_never_in_the_other(name):
    metric = METRICS[name]
    middle = (max(metric.low, 0.0) + min(metric.high, 3.0)) / 2
    goal = Target.of(name, middle)
    assert goal.rising is metric.larger_is_better
    better, worse = middle + 0.1, middle - 0.1
    if not metric.larger_is_better:
        better, worse = worse, better
    assert goal.reached(np.array([better, middle, worse, math.nan])).tolist() == [True, True, False, False]
    wrong = {"at_most": middle} if goal.rising else {"at_least": middle}
    with pytest.raises(PolicyError, match=rf"of {name} .* is better, so a target of it is never {next(iter(wrong))}"):
        Target(metric=name, **wrong)


@pytest.mark.parametrize("name", METRICS)
def test_a_target_that_everything_or_nothing_reaches_is_refused(name):
    metric = METRICS[name]
    worst = metric.low if metric.larger_is_better else metric.high
    for value in (metric.low - 1, metric.high + 1, worst, math.nan):
        with pytest.raises(PolicyError, match=r"must lie in|must be finite"):
            Target.of(name, value)


def test_percents_are_the_usual_slip():
    with pytest.raises(PolicyError, match=r"must lie in \(0, 1\], but got target=93; did you mean 0.93\?"):
        Target.of("accuracy", 93)


def test_a_metric_of_unknown_direction_needs_to_be_told():
    assert metric_of("churn") is None
    with pytest.raises(PolicyError, match="which way churn is better is not known: say at_least or at_most"):
        Target.of("churn", 0.1)
    assert str(Target(metric="churn", at_least=0.1)) == "churn at least 0.1"
    for both in ({}, {"at_least": 1.0, "at_most": 2.0}):
        with pytest.raises(PolicyError, match="either at_least or at_most"):
            Target(metric="churn", **both)


def test_the_spread_over_clients_has_the_direction_of_its_metric():
    assert metric_of("accuracy_p10") == metric_of("accuracy")
    assert metric_of("accuracy_std") is None
