"""Upload transforms: what arrives, what the client remembers, and the bytes of every one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from evsim.algorithms.attacks import SignFlip
from evsim.algorithms.base import ReportMeta, Wire, total_bytes
from evsim.algorithms.clip import Clip
from evsim.algorithms.int8 import Int8
from evsim.algorithms.local_dp import LocalDpNoise
from evsim.algorithms.malicious import malicious_clients
from evsim.algorithms.top_k import TopK
from evsim.base import rng
from evsim.base.errors import PolicyError

BUFFERS = {"n": torch.tensor([5.0])}
WIRES = {"model": {"a": Wire(600, 600), "b": Wire(401, 401)}, "buffers": {"n": Wire(3, 3)}}


def _update(seed=0):
    draw = np.random.default_rng(seed)
    return {
        "model": {"a": torch.tensor(draw.normal(size=(30, 20))), "b": torch.tensor(draw.normal(size=401))},
        "buffers": BUFFERS,
    }


def _meta(client=0, version=0):
    return ReportMeta(client, 0, 10, 1, version, 0, seed=0, n_clients=50)


def _flat(payload):
    return np.concatenate([leaf.numpy().ravel() for leaf in payload["model"].values()])


def _encode(transform, update, meta=None, key=1):
    return transform.encode(update, transform.init_client(update), meta or _meta(), key)


# -- top-k -------------------------------------------------------------------------------------------------------------


def test_top_k_sends_the_largest_entries_and_remembers_the_rest():
    rule = TopK(share=0.1)
    state, residual = rule.init_client(_update()), np.zeros(1001)
    for step in range(5):
        update = _update(step)
        sent, state = rule.encode(update, state, _meta(version=step), 1)
        p = _flat(update) + residual
        expected = np.zeros(1001)
        top = np.argsort(-np.abs(p), kind="stable")[:101]  # ceil(0.1 x 1001)
        expected[top] = p[top]
        residual = p - expected
        np.testing.assert_allclose(_flat(sent), expected, rtol=0, atol=1e-14)
        assert sent["buffers"] is BUFFERS


def test_what_top_k_sends_and_keeps_adds_up_to_everything_there_was():
    rule, total, arrived = TopK(share=0.05), np.zeros(1001), np.zeros(1001)
    state = rule.init_client(_update())
    for step in range(20):
        total += _flat(_update(step))
        sent, state = rule.encode(_update(step), state, _meta(version=step), 1)
        arrived += _flat(sent)
    np.testing.assert_allclose(arrived + _flat(state), total, rtol=0, atol=1e-12)


def test_without_error_feedback_nothing_is_remembered():
    sent, state = _encode(TopK(share=0.01, error_feedback=False), _update())
    assert state == {}
    assert np.count_nonzero(_flat(sent)) == 11


def test_a_residual_older_than_the_limit_is_forgotten():
    rule = TopK(share=0.01, reset_after=3)
    _, state = rule.encode(_update(0), rule.init_client(_update()), _meta(version=10), 1)
    fresh, _ = rule.encode(_update(1), state, _meta(version=13), 1)
    forgotten, _ = rule.encode(_update(1), state, _meta(version=14), 1)
    np.testing.assert_array_equal(_flat(forgotten), _flat(_encode(rule, _update(1))[0]))
    assert not np.array_equal(_flat(fresh), _flat(forgotten))


def test_the_control_of_scaffold_is_compressed_with_a_residual_of_its_own():
    update = {**_update(0), "control": _update(1)["model"]}
    sent, state = _encode(TopK(share=0.01), update)
    np.testing.assert_array_equal(_flat({"model": sent["control"]}), _flat(_encode(TopK(share=0.01), _update(1))[0]))
    assert set(state) == {"model", "control", "since"}


# -- int8, clipping, noise ---------------------------------------------------------------------------------------------


def test_int8_rounds_to_127_levels_per_leaf():
    update = _update()
    sent, _ = _encode(Int8(), update)
    for name, leaf in update["model"].items():
        v = leaf.numpy()
        scale = np.abs(v).max() / 127
        np.testing.assert_allclose(sent["model"][name], np.round(v / scale) * scale, rtol=1e-14)
    zeros = {"model": {"a": torch.zeros(3, dtype=torch.float64)}, "buffers": {}}
    assert not _encode(Int8(), zeros)[0]["model"]["a"].any()


def test_clip_bounds_the_norm_of_the_whole_update():
    update = _update()
    length = np.linalg.norm(_flat(update))
    short, _ = _encode(Clip(max_norm=length / 4), update)
    np.testing.assert_allclose(_flat(short), _flat(update) / 4, rtol=1e-13)
    same, _ = _encode(Clip(max_norm=length * 1.01), update)
    np.testing.assert_array_equal(_flat(same), _flat(update))
    assert short["buffers"] is BUFFERS


def test_local_noise_has_the_stated_scale_and_is_named_by_the_task():
    rule, update = LocalDpNoise(max_norm=0.5, noise_multiplier=2.0), _update()
    short = _flat(_encode(Clip(max_norm=0.5), update)[0])
    noise = np.concatenate([_flat(_encode(rule, update, key=key)[0]) - short for key in range(40)])
    assert abs(noise.std() - 1.0) < 4.5 / np.sqrt(2 * len(noise))  # false alarms below 1e-5
    np.testing.assert_array_equal(_flat(_encode(rule, update, key=3)[0]), _flat(_encode(rule, update, key=3)[0]))
    assert _encode(rule, update)[0]["buffers"] is BUFFERS


# -- attacks -----------------------------------------------------------------------------------------------------------


def test_exactly_the_stated_share_of_clients_is_malicious_and_a_larger_share_adds_to_it():
    few, many = malicious_clients(7, 200, 0.1), malicious_clients(7, 200, 0.35)
    assert (len(few), len(many)) == (20, 70)
    assert few < many
    assert few != malicious_clients(8, 200, 0.1)


def test_sign_flip_turns_the_updates_of_malicious_clients_only():
    rule, update = SignFlip(share=0.3, scale=2.0), _update()
    bad = malicious_clients(0, 50, 0.3)
    for client in range(50):
        sent, _ = _encode(rule, update, _meta(client))
        factor = -2.0 if client in bad else 1.0
        np.testing.assert_array_equal(_flat(sent), factor * _flat(update))
        assert sent["buffers"] is BUFFERS


# -- bytes -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("chain", "expected"),
    [
        ((), 4 * 1001 + 12),
        ((TopK(share=0.1),), 8 * 101 + 12),
        ((TopK(share=1.0),), 8 * 1001 + 12),
        ((Int8(),), 1001 + 2 * 4 + 12),
        ((TopK(share=0.1), Int8()), 5 * 101 + 2 * 4 + 12),
        ((Clip(max_norm=1.0), SignFlip(share=0.5), LocalDpNoise(max_norm=1.0, noise_multiplier=1.0)), 4 * 1001 + 12),
    ],
)
def test_every_chain_is_charged_what_it_really_sends(chain, expected):
    wires = WIRES
    for transform in chain:
        wires = transform.wires(wires)
    assert total_bytes(wires) == expected


def test_a_chain_of_top_k_and_int8_sends_as_many_values_as_it_is_charged_for():
    update, wires = _update(), WIRES
    for transform in (TopK(share=0.1), Int8()):
        update, _ = _encode(transform, update)
        wires = transform.wires(wires)
    assert np.count_nonzero(_flat(update)) <= sum(wire.sent for wire in wires["model"].values()) == 101


@pytest.mark.parametrize(
    ("policy", "options"),
    [
        (TopK, {"share": 0.0}),
        (TopK, {"share": float("nan")}),
        (TopK, {"share": 0.1, "reset_after": 0}),
        (Clip, {"max_norm": -1.0}),
        (LocalDpNoise, {"max_norm": 1.0, "noise_multiplier": float("nan")}),
        (SignFlip, {"share": 1.1}),
        (SignFlip, {"share": 0.1, "scale": 0.0}),
    ],
)
def test_impossible_values_are_refused(policy, options):
    with pytest.raises(PolicyError, match="but got"):
        policy(**options)


def test_transforms_draw_from_the_stream_of_their_own_task():
    keys = {rng.key(0, "upload", 0, client, nth) for client in range(30) for nth in range(30)}
    assert len(keys) == 900
