"""Metrics by hand on a tiny run, and as laws on random ones."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evsim.base.errors import EvsimError, PolicyError, RunFolderError
from evsim.base.metrics import Target
from evsim.base.vocabulary import Outcome
from evsim.results import metrics
from evsim.results.curves import Curve, first_crossing
from tests.results.hand_made import write


def ms(value):
    return pd.Timedelta(milliseconds=value)


def test_time_to_accuracy_first_interpolated_and_of_the_running_mean(tiny):
    assert metrics.time_to_accuracy(tiny, 0.8) == {"first": ms(400), "interpolated": ms(350), "running_mean": None}
    assert metrics.time_to_accuracy(tiny, 0.6)["running_mean"] == ms(800)  # (0.1 + 0.5 + 0.9 + 0.7 + 0.8) / 5
    assert metrics.headline_ms(tiny, 0.61) is None
    assert tiny.time_to_accuracy(0.79, running_mean=3) == ms(800)
    assert tiny.time_to_accuracy(0.1, interpolate=True) == ms(0)
    assert tiny.time_to_accuracy(0.95) is None


def test_rounds_to_accuracy_count_applied_steps(tiny):
    assert metrics.rounds_to_accuracy(tiny, 0.8) == 2
    assert metrics.rounds_to_accuracy(tiny, 0.95) is None


def test_accuracy_at_a_time_is_the_newest_value_known(tiny):
    assert metrics.accuracy_at(tiny, 399) == 0.5
    assert metrics.accuracy_at(tiny, 400) == 0.9
    assert math.isnan(metrics.accuracy_at(tiny, 1_001))


def test_device_time_by_outcome(tiny):
    spent = metrics.device_time(tiny)
    assert spent[spent > 0].to_dict() == {
        "aggregated": 400,
        "dropped": 60,
        "late": 500,
        "surplus": 50,
        "round_failed": 70,
        "in_flight": 100,
    }
    wasted = metrics.wasted_time(tiny)
    assert wasted.sum() == 60 + 500 + 50 + 70
    assert list(wasted.index) == ["surplus", "late", "stale", "dropped", "round_failed", "invalid", "aborted"]
    shares = metrics.device_time_shares(tiny)
    assert shares == {"used": 400 / 1180, "wasted": 680 / 1180, "open": 100 / 1180}


def test_traffic_by_outcome(tiny):
    assert metrics.traffic(tiny).loc["aggregated"].to_dict() == {"bytes_down": 3_000, "bytes_up": 300}
    assert metrics.traffic(tiny)["bytes_up"].sum() == 800


def test_participation_counts_clients_that_were_never_asked(tiny):
    assert metrics.tasks_per_client(tiny).tolist() == [3, 2, 1, 1, 1, 0]
    found = metrics.participation(tiny)
    assert found.loc["asked", "unique"] == 5
    assert found.loc["asked", "jain"] == pytest.approx(8**2 / (6 * 16), rel=1e-12)
    # sorted 0 1 1 1 2 3: 2 (0 + 2 + 3 + 4 + 10 + 18) / (6 * 8) - 7/6
    assert found.loc["asked", "gini"] == pytest.approx(74 / 48 - 7 / 6, rel=1e-12)
    assert found.loc["merged"].to_dict() == pytest.approx(
        {"unique": 2, "share": 2 / 6, "jain": 9 / (6 * 5), "gini": 2 * (5 + 12) / 18 - 7 / 6}
    )


def test_staleness_counts_merged_updates(tiny):
    assert metrics.staleness(tiny).to_dict() == {0: 2, 2: 1}


def test_rates_of_drop_outs_and_failed_rounds(tiny):
    assert metrics.rates(tiny) == {"drop_out": 1 / 7, "round_failure": 1 / 3}


def test_concurrency_over_time_by_hand(tiny):
    steps = metrics.concurrency(tiny)
    assert list(zip(steps["at"], steps["running"], strict=True)) == [
        (0, 4),
        (60, 3),
        (100, 2),
        (200, 2),
        (250, 1),
        (300, 2),
        (400, 2),
        (470, 1),
        (500, 0),
        (900, 1),
    ]
    assert metrics.mean_concurrency(tiny) * tiny.end_ms == pytest.approx(1180, abs=1e-9)


def test_client_spread_by_time(tiny):
    spread = metrics.client_spread(tiny)
    assert list(spread.columns) == ["mean", "p10", "p90", "std"]
    assert spread.loc[400, "p10"] == pytest.approx(0.8, abs=1e-12)


def test_client_spread_of_a_run_without_says_what_to_set(tmp_path):
    with pytest.raises(RunFolderError, match=r"per client; set evaluation.per_client = true"):
        metrics.client_spread(write(tmp_path / "run"))


def test_an_outcome_that_is_none_is_refused_with_the_ones_there_are(tiny):
    with pytest.raises(PolicyError, match=r"outcome must be one of in_flight, aggregated"):
        metrics.tasks_per_client(tiny, outcome="lost")


def test_a_metric_that_is_not_there_names_those_that_are(tiny):
    with pytest.raises(RunFolderError, match=r"no metric 'acuracy'.*did you mean 'accuracy'"):
        tiny.time_to_accuracy(0.5, metric="acuracy")


def test_metrics_of_a_run_in_which_nothing_happened(tmp_path):
    run = write(tmp_path / "run", rows=(), end=0)
    assert metrics.device_time(run).sum() == 0
    assert metrics.device_time_shares(run) == {"used": 0, "wasted": 0, "open": 0}
    assert metrics.participation(run).loc["asked", "unique"] == 0
    assert math.isnan(metrics.rates(run)["drop_out"])
    assert (len(metrics.concurrency(run)), metrics.mean_concurrency(run)) == (0, 0.0)


@st.composite
def task_rows(draw):
    rows = []
    for _ in range(draw(st.integers(0, 12))):
        outcome = draw(st.sampled_from([each.name for each in Outcome]))
        begin = draw(st.integers(0, 900))
        phases = [draw(st.integers(0, 30)) for _ in range(3)]
        if outcome == "IN_FLIGHT":  # runs to the end
            phases[1] = 1_000 - begin - phases[0] - phases[2]
        end = -1 if outcome == "IN_FLIGHT" else begin + sum(phases)
        stale = draw(st.integers(0, 3)) if outcome == "AGGREGATED" else -1
        rows.append((outcome, draw(st.integers(0, 5)), begin, end, *phases, stale))
    return tuple(rows)


@given(rows=task_rows())
@settings(derandomize=True, deadline=None, max_examples=25)
def test_used_wasted_and_open_time_make_the_total_which_is_littles_law(rows):
    with tempfile.TemporaryDirectory() as place:
        run = write(Path(place) / "run", rows=rows)
        total = sum(sum(row[4:7]) for row in rows)
        spent = metrics.device_time(run)
        assert spent.sum() == total
        used = int(spent[[*metrics.USED, *metrics.OPEN]].sum())
        assert used + metrics.wasted_time(run).sum() == total
        assert round(metrics.mean_concurrency(run) * run.end_ms) == total
        assert sum(metrics.device_time_shares(run).values()) == pytest.approx(1.0 if total else 0.0, abs=1e-12)


@given(counts=st.lists(st.integers(0, 50), min_size=1, max_size=20))
@settings(derandomize=True, max_examples=50)
def test_jain_and_gini_stay_within_their_bounds(counts):
    n, array = len(counts), np.array(counts)
    if not any(counts):
        assert math.isnan(metrics.jain(array))
        assert math.isnan(metrics.gini(array))
        return
    assert 1 / n - 1e-12 <= metrics.jain(array) <= 1 + 1e-12
    assert -1e-12 <= metrics.gini(array) <= 1 - 1 / n + 1e-12
    mean_difference = np.abs(array[:, None] - array[None, :]).mean()
    assert metrics.gini(array) == pytest.approx(mean_difference / (2 * array.mean()), abs=1e-12)


def test_jain_and_gini_at_their_ends():
    assert (metrics.jain(np.full(4, 3)), metrics.gini(np.full(4, 3))) == (1.0, 0.0)
    assert metrics.jain(np.array([7, 0, 0, 0])) == 0.25
    assert metrics.gini(np.array([7, 0, 0, 0])) == 0.75


@given(values=st.lists(st.floats(0, 1), min_size=1, max_size=20), target=st.floats(0.01, 1))
@settings(derandomize=True, max_examples=50)
def test_interpolated_is_never_later_than_the_first_crossing_and_later_than_the_one_before(values, target):
    at = np.arange(len(values)) * 100
    curve = Curve(at, np.array(values), at)
    first = first_crossing(curve, Target(at_least=target))
    between = first_crossing(curve, Target(at_least=target), interpolate=True)
    assert (first is None) == (between is None) == (max(values) < target)
    if first is not None and between is not None:
        assert max(first - 100, 0) <= between <= first


@given(values=st.lists(st.floats(0, 1), min_size=0, max_size=15), window=st.integers(1, 6))
@settings(derandomize=True, max_examples=50)
def test_running_mean_is_the_mean_of_the_newest_values(values, window):
    at = np.arange(len(values)) * 100
    smooth = Curve(at, np.array(values, float), at).smooth(window)
    expected = [np.mean(values[i - window + 1 : i + 1]) for i in range(window - 1, len(values))]
    np.testing.assert_allclose(smooth.value, expected, rtol=0, atol=1e-12)
    assert smooth.at.tolist() == at[window - 1 :].tolist()


def test_a_window_of_nothing_is_refused(tiny):
    with pytest.raises(EvsimError, match="running_mean must be >= 1"):
        tiny.time_to_accuracy(0.5, running_mean=0)
