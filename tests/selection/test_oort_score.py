"""Oort's formulas, by hand."""

from __future__ import annotations

from math import log, sqrt

import numpy as np
import pytest

from evsim.base.errors import PolicyError
from evsim.selection import oort_score as score
from evsim.selection.oort import Oort
from evsim.selection.oort_rules import FEDSCALE, PAPER
from evsim.selection.oort_state import Achieved


def test_statistical_utility_is_samples_times_the_root_mean_square_of_all_losses() -> None:
    losses = np.array([1.0, 2.0, 2.0, 0.5])
    rms = sqrt(float((losses**2).mean()))
    by_the_paper = len(losses) * sqrt(float((losses**2).sum()) / len(losses))
    assert score.statistical_utility(np.array([4]), np.array([rms]))[0] == pytest.approx(by_the_paper, rel=1e-15)


@pytest.mark.parametrize(
    ("n", "quantile", "paper", "fedscale"),
    [(20, 0.95, 18, 19), (100, 0.95, 94, 95), (10, 0.9, 8, 9), (1, 0.95, 0, 0), (3, 0.98, 2, 2), (10, 1.0, 9, 9)],
)
def test_the_clip_index_is_the_nearest_rank(n: int, quantile: float, paper: int, fedscale: int) -> None:
    utilities = np.random.default_rng(0).permutation(n).astype(np.float64)
    assert score.clip_level(utilities, quantile, truncate=False) == paper
    assert score.clip_level(utilities, quantile, truncate=True) == fedscale


def test_fedscale_scales_by_the_range_above_almost_the_minimum() -> None:
    among = np.array([2.0, 4.0, 10.0])
    low = 0.999 * 2.0
    expected = [(2.0 - low) / (10.0 - low), (6.0 - low) / (10.0 - low)]
    assert score.in_range(np.array([2.0, 8.0]), among, clip=6.0).tolist() == pytest.approx(expected, rel=1e-12)


def test_equal_utilities_have_a_range_that_is_not_zero() -> None:
    assert score.in_range(np.zeros(3), np.full(3, 1e-9), 1.0).tolist() == pytest.approx([-9.99e-6] * 3, rel=1e-9)


def test_uncertainty_grows_with_selections_and_with_the_age_of_the_last_feedback() -> None:
    got = score.uncertainty(8, np.array([1, 4, 8]), 0.1)
    assert got.tolist() == pytest.approx([sqrt(0.1 * log(8) / last) for last in (1, 4, 8)], rel=1e-15)


def test_feedback_before_the_first_selection_divides_by_one_not_by_zero() -> None:
    assert score.uncertainty(2, np.array([0]), 0.1)[0] == pytest.approx(sqrt(0.1 * log(2)))


@pytest.mark.parametrize(("duration", "factor"), [(5.0, 1.0), (10.0, 1.0), (40.0, 1 / 16), (np.nan, 1.0)])
def test_only_clients_slower_than_the_preferred_duration_are_penalized(duration: float, factor: float) -> None:
    assert score.system_penalty(np.array([duration]), 10.0, 2.0)[0] == pytest.approx(factor)


def test_no_preferred_duration_means_no_penalty() -> None:
    assert score.system_penalty(np.array([1e9]), np.inf, 2.0)[0] == 1.0


def test_fairness_one_orders_by_how_seldom_a_client_was_selected() -> None:
    value = score.with_fairness(np.array([8.0, 2.0, 4.0]), np.array([3, 0, 1]), 1.0)
    assert value.tolist() == pytest.approx([0.0, 8.0, 8.0 * 2 / 3])


def test_half_fairness_is_the_mean_of_utility_and_fairness() -> None:
    utility, selected = np.array([8.0, 2.0]), np.array([4, 1])
    expected = [0.5 * 8.0, 0.5 * 2.0 + 0.5 * 8.0 * 3 / 4]
    assert score.with_fairness(utility, selected, 0.5).tolist() == pytest.approx(expected)


def test_no_fairness_leaves_the_scores_alone_even_where_nobody_was_selected() -> None:
    scores = np.array([1.0, 2.0])
    assert score.with_fairness(scores, np.zeros(2, np.int64), 0.0) is scores
    assert np.isfinite(score.with_fairness(scores, np.zeros(2, np.int64), 0.4)).all()


@pytest.mark.parametrize(
    ("n", "cut_off", "keep", "expected"),
    [
        (2, 0.95, 1.0, [10.0, 9.0, 8.6]),  # 0.95 x 9 = 8.55
        (1, 0.95, 1.0, [10.0]),
        (2, 1.0, 1.0, [10.0, 9.0]),
        (1, 0.05, 2.0, [10.0, 9.0, 8.6, 4.0, 1.0]),  # 0.05 x 9, the score after the first
        (1, 1.0, 2.0, [10.0, 9.0, 8.6]),  # 2 x 1 + 1 in any case
        (5, 0.95, 1.0, [10.0, 9.0, 8.6, 4.0, 1.0, 0.1]),
        (6, 0.95, 1.0, [10.0, 9.0, 8.6, 4.0, 1.0, 0.1]),
    ],
)
def test_the_cut_off_admits_by_the_cut_off_utility(n: int, cut_off: float, keep: float, expected: list[float]) -> None:
    scores = np.array([9.0, 0.1, 10.0, 1.0, 8.6, 4.0])
    enters = score.admitted(scores, n, cut_off, keep)
    if n == 5:  # 0.95 x 1.0 shuts the last one out
        expected = expected[:5]
    assert sorted(scores[enters].tolist(), reverse=True) == expected


def test_scores_of_zero_admit_everybody() -> None:
    assert score.admitted(np.zeros(4), 2, 0.95, 1.0).all()


def test_the_preferred_duration_by_percentile_counts_from_the_fastest() -> None:
    durations = np.random.default_rng(0).permutation(10) + 1.0
    assert score.preferred_at_percentile(durations, 30.0) == 4.0  # FedScale: index int(10 x 30 / 100)
    assert score.preferred_at_percentile(durations, 99.0) == 10.0
    assert score.preferred_at_percentile(durations, 100.0) == np.inf
    assert score.preferred_at_percentile(np.empty(0), 30.0) == np.inf


def test_the_preferred_duration_by_cover_is_that_of_the_last_client_covered() -> None:
    durations = np.array([4.0, 2.0, 9.0])
    assert [score.preferred_to_cover(durations, k) for k in (1, 2, 3, 7)] == [2.0, 4.0, np.inf, np.inf]


def test_the_share_of_explorers_decays_to_its_minimum() -> None:
    shares = [PAPER.exploration_at(selection) for selection in (1, 2, 3, 500)]
    assert shares == pytest.approx([0.9, 0.9 * 0.98, 0.9 * 0.98**2, 0.2], rel=1e-15)
    assert FEDSCALE.exploration_at(2) == pytest.approx(0.9 * 0.98)  # the first round that it is asked for
    assert (FEDSCALE.counted(2), PAPER.counted(2)) == (1, 2)
    assert FEDSCALE.exploration_at(500) == 0.3


def test_the_ring_of_utilities_forgets_what_is_older_than_its_windows() -> None:
    ring = Achieved.empty(3)
    for selection in range(1, 8):
        ring.advance(selection - 1, selection)
        ring.add(np.array([selection, selection]), np.array([1.0, 10.0 * selection]), np.array([False, True]))
    assert ring.total(5, 8) == 3 + 50 + 60 + 70
    assert ring.exploited_means(6, 8) == pytest.approx((60 + 70) / 1.0001)
    assert ring.means(np.array([7])).tolist() == [35.5]
    ring.advance(7, 20)
    assert ring.total(17, 20) == 0.0
    assert np.isnan(ring.means(np.array([20]))[0])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("exploration", 1.5),
        ("exploration_decay", 0.0),
        ("clip", -0.1),
        ("penalty", float("nan")),
        ("noise", -1.0),
        ("pacer_window", 0),
        ("participation_cap", 0),
        ("preferred_percentile", 101.0),
        ("exploration_window", 0.5),
        ("fairness", 2.0),
        ("preset", "flower"),
    ],
)
def test_impossible_values_are_refused_when_the_policy_is_made(field: str, value: object) -> None:
    with pytest.raises(PolicyError, match=str(value)):
        Oort(**{field: value})
