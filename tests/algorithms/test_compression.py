"""QSGD, rand-k and signs: what arrives against the printed rules, how it scatters, and every byte."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from evsim.algorithms.base import ReportMeta, StepInfo, Wire, total_bytes
from evsim.algorithms.qsgd import Qsgd
from evsim.algorithms.rand_k import RandK
from evsim.algorithms.signs import EfSign, Majority, Sign
from evsim.algorithms.top_k import TopK
from evsim.base.errors import PolicyError

BUFFERS = {"n": torch.tensor([5.0])}
WIRES = {"model": {"a": Wire(600, 600), "b": Wire(401, 401)}, "buffers": {"n": Wire(3, 3)}}
SIZE = 1001


def _update(seed=0):
    draw = np.random.default_rng(seed)
    return {
        "model": {"a": torch.tensor(draw.normal(size=(30, 20))), "b": torch.tensor(draw.normal(size=401))},
        "buffers": BUFFERS,
    }


def _flat(payload, name="model"):
    return np.concatenate([leaf.numpy().ravel() for leaf in payload[name].values()])


def _encode(transform, update, key=1, *, client=0, version=0, state=None):
    meta = ReportMeta(client, 0, 10, 1, version, 0, seed=0, n_clients=50)
    return transform.encode(update, transform.init_client(update) if state is None else state, meta, key)


# -- QSGD --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bucket", [None, 100, 7])
@pytest.mark.parametrize("levels", [1, 4, 255])
def test_qsgd_sends_whole_levels_next_to_the_number_and_keeps_its_sign(levels, bucket):
    update = _update()
    sent, state = _encode(Qsgd(levels=levels, bucket=bucket), update)
    v, got = _flat(update), _flat(sent)
    size = bucket or SIZE
    for start in range(0, SIZE, size):
        part, back = v[start : start + size], got[start : start + size]
        scaled, level = levels * np.abs(part) / np.linalg.norm(part), levels * np.abs(back) / np.linalg.norm(part)
        np.testing.assert_allclose(level, level.round(), atol=1e-9)
        assert (np.abs(level - scaled) < 1 + 1e-9).all()
        assert (back[level > 0.5] * part[level > 0.5] > 0).all()
    assert state == {}
    assert sent["buffers"] is BUFFERS


@pytest.mark.parametrize(("levels", "variance"), [(1, 24.0), (4, 5.3), (16, 0.65), (31, 0.17)])
def test_qsgd_is_unbiased_and_scatters_as_its_formula_says(levels, variance):
    """E |Q(v) - v|^2 = sum_i (||v||/s)^2 f_i (1 - f_i), f the fraction of a; for d = 1,000 normal numbers as stated."""
    update = {"model": {"a": torch.tensor(np.random.default_rng(3).normal(size=1000))}, "buffers": {}}
    v = _flat(update)
    a = levels * np.abs(v) / np.linalg.norm(v)
    exact = ((a % 1) * (1 - a % 1)).sum() / levels**2
    assert exact == pytest.approx(variance, rel=0.06)
    assert exact <= min(1000 / levels**2, 1000**0.5 / levels)
    draws = np.array([_flat(_encode(Qsgd(levels=levels), update, key)[0]) for key in range(400)])
    errors = draws.mean(0) - v
    spread = np.linalg.norm(v) / levels * np.sqrt((a % 1) * (1 - a % 1) / 400)
    assert (np.abs(errors) / spread).max() < 6  # of 1,000; beyond it below 1e-5
    assert ((draws - v) ** 2).sum(1).mean() / (v @ v) == pytest.approx(exact, rel=0.03)


def test_qsgd_keeps_zeros_and_whole_levels_as_they_are():
    zeros = {"model": {"a": torch.zeros(9, dtype=torch.float64)}, "buffers": {}}
    assert not _flat(_encode(Qsgd(levels=3), zeros)[0]).any()
    one = {"model": {"a": torch.tensor([0.0, -2.0, 0.0], dtype=torch.float64)}, "buffers": {}}
    assert _flat(_encode(Qsgd(levels=5), one)[0]).tolist() == [0.0, -2.0, 0.0]


# -- rand-k ------------------------------------------------------------------------------------------------------------


def test_rand_k_sends_so_many_entries_scaled_up():
    update = _update()
    sent, _ = _encode(RandK(share=0.1), update)
    v, got = _flat(update), _flat(sent)
    assert np.count_nonzero(got) == 101  # ceil(0.1 x 1001)
    np.testing.assert_allclose(got[got != 0], v[got != 0] * SIZE / 101, rtol=1e-14)
    assert sent["buffers"] is BUFFERS
    np.testing.assert_allclose(_flat(_encode(RandK(share=1.0), update)[0]), v, rtol=1e-14)


def test_errors_of_own_places_average_out_over_clients_and_those_of_common_ones_do_not():
    """Relative variance d/k - 1 for one client; over m clients with equal updates a m-th of it, or all of it."""
    update = _update()
    v = _flat(update)
    error = {False: [], True: []}
    for version in range(60):
        for common, errors in error.items():
            rule = RandK(share=0.1, common=common)
            got = [_flat(_encode(rule, update, 100 * version + k, client=k, version=version)[0]) for k in range(10)]
            errors.append(((np.mean(got, 0) - v) ** 2).sum() / (v @ v))
    ratio = SIZE / 101 - 1
    assert np.mean(error[True]) == pytest.approx(ratio, rel=0.1)
    assert np.mean(error[False]) == pytest.approx(ratio / 10, rel=0.1)


def test_every_entry_has_the_same_chance():
    update = {"model": {"a": torch.ones(20, dtype=torch.float64)}, "buffers": {}}
    counts = sum((_flat(_encode(RandK(share=0.25), update, key)[0]) > 0).astype(int) for key in range(2000))
    assert (np.abs(counts - 500) < 5 * np.sqrt(2000 * 0.25 * 0.75)).all()  # of 20; beyond it below 1e-4


# -- signs -------------------------------------------------------------------------------------------------------------


def _vote(*vectors, weights=None):
    rule, info = Majority(), StepInfo(0, 100, 3, len(vectors), 0)
    acc = rule.init({}, info)
    for k, vector in enumerate(vectors):
        payload = {
            "model": {"a": torch.tensor(vector, dtype=torch.float64)},
            "buffers": {"n": torch.tensor([float(k)])},
        }
        acc = rule.add(acc, payload, {"": 1.0 if weights is None else weights[k]}, ReportMeta(k, k, 1, 1, 0, 0))
    return rule.finish(acc, {}, info)


def test_the_majority_decides_every_number_whatever_the_sizes():
    merged = _vote([1.0, 1.0, -3.0], [1.0, -1.0, 0.0], [-10.0, 0.0, -1.0])
    assert merged["model"]["a"].tolist() == [1.0, 0.0, -1.0]
    assert merged["buffers"]["n"].tolist() == [1.0]


def test_votes_are_not_weighted_but_a_report_without_weight_has_none():
    assert _vote([1.0], [1.0], [-1.0], weights=[1.0, 1.0, 50.0])["model"]["a"].tolist() == [1.0]
    assert _vote([1.0], [-1.0], [-1.0], weights=[2.0, 1.0, 0.0])["model"]["a"].tolist() == [0.0]


def test_a_sign_is_one_or_minus_one_and_what_did_not_change_is_drawn():
    update = {"model": {"a": torch.tensor([0.0] * 400 + [2.0, -0.1], dtype=torch.float64)}, "buffers": BUFFERS}
    sent = _flat(_encode(Sign(), update)[0])
    assert set(sent) == {1.0, -1.0}
    assert sent[-2:].tolist() == [1.0, -1.0]
    assert abs(sent[:400].sum()) < 100  # five standard deviations
    assert not np.array_equal(sent, _flat(_encode(Sign(), update, key=2)[0]))


def test_ef_sign_follows_its_algorithm_and_loses_nothing():
    rule, state, residual = EfSign(), None, {"a": np.zeros(600), "b": np.zeros(401)}
    total, arrived = np.zeros(SIZE), np.zeros(SIZE)
    for step in range(6):
        update = _update(step)
        sent, state = _encode(rule, update, state=state)
        for name, leaf in update["model"].items():
            p = leaf.numpy().ravel() + residual[name]
            expected = np.abs(p).sum() / len(p) * np.where(p < 0, -1.0, 1.0)
            residual[name] = p - expected
            np.testing.assert_allclose(sent["model"][name].numpy().ravel(), expected, rtol=1e-13)
        total, arrived = total + _flat(update), arrived + _flat(sent)
    np.testing.assert_allclose(arrived + _flat(state), total, rtol=0, atol=1e-12)


# -- bytes and refusals ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("chain", "expected"),
    [
        ((Qsgd(levels=127),), 1001 + 4 + 12),
        ((Qsgd(levels=1),), -(-600 * 2 // 8) + -(-401 * 2 // 8) + 4 + 12),
        ((Qsgd(levels=15, bucket=100),), -(-600 * 5 // 8) + -(-401 * 5 // 8) + 11 * 4 + 12),
        ((TopK(share=0.1), Qsgd(levels=127)), 5 * 101 + 4 + 12),
        ((RandK(share=0.1),), 4 * 101 + 8 + 12),
        ((Sign(),), 75 + 51 + 12),
        ((EfSign(),), 75 + 51 + 8 + 12),
    ],
)
def test_every_chain_is_charged_what_it_really_sends(chain, expected):
    wires = WIRES
    for transform in chain:
        wires = transform.wires(wires)
    assert total_bytes(wires) == expected


@pytest.mark.parametrize(
    ("policy", "options"),
    [(Qsgd, {"levels": 0}), (Qsgd, {"levels": 3, "bucket": 0}), (RandK, {"share": 0.0}), (RandK, {"share": 1.5})],
)
def test_impossible_values_are_refused(policy, options):
    with pytest.raises(PolicyError, match="but got"):
        policy(**options)
