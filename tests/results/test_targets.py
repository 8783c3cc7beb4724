"""Direction times target times censoring: one answer however the question is put, against a loop by hand."""

from __future__ import annotations

from itertools import product

import numpy as np
import pandas as pd
import pytest

from evsim.base.errors import PolicyError
from evsim.base.metrics import Target
from evsim.results import metrics
from evsim.results.arms import load_arms
from evsim.results.comparison import compare
from evsim.results.curves import Curve, crossing, first_crossing, version_at_crossing
from tests.results.hand_made import write

RISING = {  # by what becomes of it: values of six evaluations
    "arrives": (0.1, 0.3, 0.55, 0.5, 0.8, 0.9),
    "at once": (0.9, 0.2, 0.2, 0.2, 0.2, 0.9),
    "never": (0.1, 0.2, 0.3, 0.2, 0.3, 0.4),
    "diverges": (0.1, 0.6, float("nan"), float("nan"), float("nan"), float("nan")),
}
TARGETS = (0.35, 0.55, 0.85, 0.95)
WAYS = (("accuracy", 1), ("loss", -1), ("up", 1), ("down", -1))  # known and unknown, larger and smaller better


def curve_of(values, sign):
    """A falling metric is the mirror image within 0 and 1."""
    shown = np.array(values) if sign > 0 else 1 - np.array(values)
    at = np.arange(len(values)) * 100
    return Curve(at, shown, at // 100)


def target_of(metric, value, sign):
    return Target(metric=metric, at_least=value) if sign > 0 else Target(metric=metric, at_most=1 - value)


def by_hand(values, target, window):
    for i in range(window - 1, len(values)):
        if np.mean(values[i - window + 1 : i + 1]) >= target - 1e-12:
            return i
    return None


@pytest.mark.parametrize(("fate", "target", "way", "window"), list(product(RISING, TARGETS, WAYS, (1, 2, 5))), ids=str)
def test_a_crossing_is_that_of_a_loop_in_every_direction(fate, target, way, window):
    metric, sign = way
    curve, goal = curve_of(RISING[fate], sign), target_of(metric, target - 1e-9, sign)
    expected = by_hand(RISING[fate], target, window)
    found = crossing(curve, goal, window)
    assert (None if found is None else found.at) == (None if expected is None else expected * 100)
    assert first_crossing(curve.smooth(window), goal) == (None if found is None else found.at)
    assert version_at_crossing(curve.smooth(window), goal) == expected
    if found is not None and expected:
        between = first_crossing(curve.smooth(window), goal, interpolate=True)
        assert found.after == found.at - 100
        assert found.at - 100 <= between <= found.at
        assert found.window_ms == 100 * min(window, expected)


def test_a_falling_loss_is_not_there_at_time_zero(tmp_path):
    run = write(tmp_path / "run", curve=((0, 0, -2.0), (200, 1, -0.8), (400, 2, 0.1)))  # loss 3, 1.8, 0.9
    assert run.time_to_accuracy(1.5, metric="loss") == pd.Timedelta(milliseconds=400)
    assert run.time_to("loss", at_most=1.8, interpolate=True) == pd.Timedelta(milliseconds=200)
    assert run.time_to("loss", at_most=0.5) is None
    assert metrics.time_to(run, "loss", at_most=1.5)["first"] == pd.Timedelta(milliseconds=400)
    assert metrics.rounds_to_accuracy(run, 1.5, metric="loss") == 2
    assert metrics.headline_ms(run, 1.5, metric="loss", running_mean=1) == 400
    with pytest.raises(PolicyError, match="of loss smaller is better, so a target of it is never at_least"):
        run.time_to("loss", at_least=1.5)


def test_arms_are_compared_by_a_loss(tmp_path):
    paths = []
    for kind, hours in (("uniform", 4), ("oort", 2)):
        curve = tuple((hour * 3_600_000, hour, 0.9 if hour >= hours else 0.2) for hour in range(11))
        text = f'name = "tiny"\n[selection]\nkind = "{kind}"\n'
        write(tmp_path / kind, rows=(), curve=curve, end=36_000_000, scenario=text)
        paths.append(tmp_path / kind)
    arms = load_arms(paths, running_mean=1, metric="loss", target=0.5)
    assert compare(arms)["median_h"].tolist() == [4.0, 2.0]
    assert compare(load_arms(paths, running_mean=1, target=0.5))["median_h"].tolist() == [4.0, 2.0]
    assert str(arms.goal) == "loss 0.5"


def test_arms_are_compared_by_f1_in_its_direction_and_by_the_loss_beside_it_in_its_own(tmp_path):
    paths = []
    for kind, hours, low in (("uniform", 4, 0.2), ("oort", 2, 0.3)):
        curve = tuple((hour * 3_600_000, hour, 0.9 if hour >= hours else low) for hour in range(11))
        text = f'name = "tiny"\n[selection]\nkind = "{kind}"\n'
        write(tmp_path / kind, rows=(), curve=curve, end=36_000_000, scenario=text, metric="f1")
        paths.append(tmp_path / kind)
    rising = compare(load_arms(paths, running_mean=1, metric="f1", target=0.5))
    falling = compare(load_arms(paths, running_mean=1, metric="loss", target=0.5))
    assert rising["median_h"].tolist() == falling["median_h"].tolist() == [4.0, 2.0]
    assert rising["speedup"].iloc[1] == falling["speedup"].iloc[1] == pytest.approx(2.0, rel=1e-12)
    assert compare(load_arms(paths, running_mean=1, metric="f1", target=0.25))["median_h"].tolist() == [4.0, 0.0]
    run = write(tmp_path / "falls", curve=((0, 0, 0.2), (200, 1, 0.6), (400, 2, 0.3)), metric="f1")
    assert run.time_to("f1", at_least=0.6) == pd.Timedelta(milliseconds=200)
    assert run.time_to("f1", at_least=0.7) is None
    with pytest.raises(PolicyError, match="of f1 larger is better, so a target of it is never at_most"):
        run.time_to("f1", at_most=0.5)
