"""Merges against NumPy, their breaking points, and their refusals."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from evsim.algorithms.base import ReportMeta, StepInfo
from evsim.algorithms.dp import DpMean
from evsim.algorithms.mean import Mean
from evsim.algorithms.norm_clip import NormClip
from evsim.algorithms.robust import Krum, Median, MultiKrum, TrimmedMean, krum_scores
from evsim.base.errors import PolicyError, TrainingError

SERVER = {
    "model": {"a": torch.zeros(3, 2, dtype=torch.float64), "b": torch.zeros(4, dtype=torch.float64)},
    "buffers": {},
}
VECTORS = np.random.default_rng(1).normal(size=(9, 10))
WEIGHTS = np.arange(1.0, 10.0)


def _update(vector):
    return {"model": {"a": torch.tensor(vector[:6].reshape(3, 2)), "b": torch.tensor(vector[6:])}, "buffers": {}}


def _merge(rule, vectors, weights=None, server=SERVER, version=0, goal=9):
    info = StepInfo(version, 100, goal, len(vectors), 0)
    acc = rule.init(server, info)
    for k, vector in enumerate(vectors):
        weight = {"": 1.0 if weights is None else float(weights[k])}
        acc = rule.add(acc, _update(vector), weight, ReportMeta(k, k, 1, 1, 0, 0))
    merged = rule.finish(acc, server, info)
    return np.concatenate([merged["model"]["a"].numpy().ravel(), merged["model"]["b"].numpy()]), acc


def test_mean_is_the_weighted_mean():
    found, _ = _merge(Mean(), VECTORS, WEIGHTS)
    np.testing.assert_allclose(found, np.average(VECTORS, axis=0, weights=WEIGHTS), rtol=1e-13)


@pytest.mark.parametrize("n", [1, 2, 5, 8])
def test_median_and_trimmed_mean_equal_numpy_and_scipy(n):
    from scipy.stats import trim_mean

    np.testing.assert_allclose(_merge(Median(), VECTORS[:n])[0], np.median(VECTORS[:n], axis=0), rtol=1e-13)
    found, _ = _merge(TrimmedMean(share=0.3), VECTORS[:n])
    np.testing.assert_allclose(found, trim_mean(VECTORS[:n], 0.3, axis=0), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(("share", "n", "cut"), [(0.29, 100, 29), (0.07, 100, 7), (0.49999999999999, 2, 0)])
def test_the_trimmed_share_is_that_of_the_decimals_and_never_everything(share, n, cut):
    """0.29 x 100 is 28.999999999999996 in binary."""
    values = np.random.default_rng(0).exponential(size=n)
    vectors = np.repeat(values[:, None], 10, axis=1)
    found, _ = _merge(TrimmedMean(share=share), vectors)
    np.testing.assert_allclose(found, np.sort(values)[cut : n - cut].mean(), rtol=1e-12)


def _scores(vectors, f):
    """Blanchard et al. 2017, section 4: the sum over the n - f - 2 closest others."""
    n, found = len(vectors), []
    for i in range(n):
        others = sorted(((vectors[i] - vectors[j]) ** 2).sum() for j in range(n) if j != i)
        found.append(sum(others[: n - f - 2]))
    return np.array(found)


@pytest.mark.parametrize("f", [0, 1, 3])
def test_krum_takes_the_lowest_score_and_multi_krum_averages_the_lowest(f):
    scores = _scores(VECTORS, f)
    np.testing.assert_allclose(krum_scores(torch.tensor(VECTORS), f), scores, rtol=1e-12)
    np.testing.assert_allclose(_merge(Krum(attackers=f), VECTORS)[0], VECTORS[scores.argmin()], rtol=1e-14)
    for keep in (2, None):
        best = np.argsort(scores)[: keep or 9 - f]
        found, _ = _merge(MultiKrum(attackers=f, keep=keep), VECTORS, WEIGHTS)
        np.testing.assert_allclose(found, VECTORS[best].mean(0), rtol=1e-12)


def test_krum_scores_keep_their_digits_for_updates_that_are_close_and_long():
    close = 1e6 + 1e-6 * VECTORS
    np.testing.assert_allclose(krum_scores(torch.tensor(close), 2), _scores(close, 2), rtol=1e-12)


@pytest.mark.parametrize("rule", [Median(), TrimmedMean(share=0.25), Krum(attackers=2), MultiKrum(attackers=2)])
def test_two_wild_updates_of_nine_do_not_move_a_robust_merge_far(rule):
    wild = VECTORS.copy()
    wild[[3, 7]] = 1e9
    assert np.abs(_merge(rule, wild)[0]).max() < np.abs(VECTORS).max()
    assert np.abs(_merge(Mean(), wild)[0]).max() > 1e8


def test_reports_of_weight_zero_are_left_out_of_robust_merges():
    weights = np.ones(9)
    weights[[0, 4]] = 0
    expected = np.median(np.delete(VECTORS, [0, 4], axis=0), axis=0)
    np.testing.assert_allclose(_merge(Median(), VECTORS, weights)[0], expected, rtol=1e-14)


@pytest.mark.parametrize("rule", [Krum(attackers=2), MultiKrum(attackers=2)])
def test_krum_says_how_many_updates_it_needs_and_what_to_do(rule):
    assert rule.minimum_updates == 7
    with pytest.raises(TrainingError, match=r"6 usable updates arrived.*needs at least 7; raise minimum_reports"):
        _merge(rule, VECTORS[:6])
    _merge(rule, VECTORS[:7])


def test_a_robust_merge_of_no_usable_report_merges_nothing():
    for rule in (Median(), TrimmedMean(), Krum(attackers=1)):
        assert rule.finish(rule.init(SERVER, StepInfo(0, 1, 1, 0, 0)), SERVER, StepInfo(0, 1, 1, 0, 0)) == {}


def test_norm_clip_shortens_long_updates_only_and_keeps_the_weights():
    lengths = np.linalg.norm(VECTORS, axis=1, keepdims=True)
    bound = float(np.median(lengths))
    clipped = VECTORS * np.minimum(1, bound / lengths)
    found, _ = _merge(NormClip(max_norm=bound), VECTORS, WEIGHTS)
    np.testing.assert_allclose(found, np.average(clipped, axis=0, weights=WEIGHTS), rtol=1e-12)


# -- differential privacy ----------------------------------------------------------------------------------------------


def _private(rule):
    return {**SERVER, **rule.init_state(SERVER["model"])}


def test_dp_divides_the_clipped_sum_by_the_expected_cohort_never_by_arrivals():
    rule = DpMean(max_norm=2.0, noise_multiplier=0.0, cohort=20)
    lengths = np.linalg.norm(VECTORS, axis=1, keepdims=True)
    expected = (VECTORS * np.minimum(1, 2.0 / lengths)).sum(0) / 20
    for weights in (None, WEIGHTS):  # every report weighs the same
        np.testing.assert_allclose(_merge(rule, VECTORS, weights, _private(rule))[0], expected, rtol=1e-12)


def test_dp_noise_has_the_stated_scale_and_differs_between_versions():
    rule = DpMean(max_norm=2.0, noise_multiplier=1.5, cohort=4)
    zeros, server = np.zeros((1, 10)), _private(rule)
    draws = np.concatenate([_merge(rule, zeros, server=server, version=v)[0] for v in range(2000)])
    # sd of the sample sd is sd / sqrt(2n): 4.5 of those, false alarms below 1e-5
    sd = 1.5 * 2.0 / 4
    assert abs(draws.std() - sd) < 4.5 * sd / np.sqrt(2 * len(draws))
    assert abs(draws.mean()) < 4.5 * sd / np.sqrt(len(draws))
    np.testing.assert_array_equal(_merge(rule, zeros, server=server)[0], _merge(rule, zeros, server=server)[0])


def test_adaptive_clipping_follows_the_quantile():
    rule = DpMean(max_norm=0.1, noise_multiplier=0.0, cohort=9, adaptive=True, count_noise=0.0, target_quantile=0.5)
    server, info = _private(rule), StepInfo(0, 100, 9, 9, 0)
    bound, lengths = 0.1, np.linalg.norm(VECTORS, axis=1)
    for _ in range(150):
        _, acc = _merge(rule, VECTORS, server=server)
        server = {**server, **rule.next_state(acc, server, info)}
        bound = bound * np.exp(-0.2 * ((lengths <= bound).mean() - 0.5))  # Andrew et al. 2021, equation 1
        assert float(server["dp"]["max_norm"]) == pytest.approx(bound, rel=1e-12)
    low, high = np.sort(lengths)[[3, 5]]
    assert low * 0.95 < bound < high * 1.05


def test_adaptive_clipping_spends_part_of_the_noise_on_the_count():
    rule = DpMean(max_norm=1.0, noise_multiplier=1.0, cohort=100, adaptive=True)  # sigma_b = 5
    assert rule.sum_multiplier(100) == pytest.approx((1 - 0.01) ** -0.5, rel=1e-14)
    with pytest.raises(PolicyError, match=r"count_noise must be > noise_multiplier / 2 = 0.5"):
        DpMean(max_norm=1.0, noise_multiplier=1.0, adaptive=True, count_noise=0.5).sum_multiplier(100)


def test_dp_refuses_model_buffers_and_a_cohort_that_nobody_named():
    rule = DpMean(max_norm=1.0, noise_multiplier=1.0)
    server = {**_private(rule), "buffers": {"running_mean": torch.zeros(2)}}
    with pytest.raises(TrainingError, match=r"running_mean.*without BatchNorm"):
        rule.init(server, StepInfo(0, 10, 5, 5, 0))
    with pytest.raises(PolicyError, match="cohort is not given"):
        _merge(rule, VECTORS, server=_private(rule), goal=0)


@pytest.mark.parametrize(
    ("policy", "options"),
    [
        (TrimmedMean, {"share": 0.5}),
        (Krum, {"attackers": -1}),
        (MultiKrum, {"attackers": 1, "keep": 0}),
        (NormClip, {"max_norm": 0.0}),
        (DpMean, {"max_norm": float("nan"), "noise_multiplier": 1.0}),
        (DpMean, {"max_norm": 1.0, "noise_multiplier": -1.0}),
        (DpMean, {"max_norm": 1.0, "noise_multiplier": 1.0, "cohort": 0}),
        (DpMean, {"max_norm": 1.0, "noise_multiplier": 1.0, "target_quantile": 1.5}),
    ],
)
def test_impossible_values_are_refused(policy, options):
    with pytest.raises(PolicyError, match="but got"):
        policy(**options)
