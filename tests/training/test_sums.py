"""Sums over stacked updates, and which updates they leave out."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from evsim.algorithms.sums import WeightedSums
from evsim.training.executors.sums import stacked_sums

WEIGHTS = {"": np.array([1.0, 2.0, 0.5]), "control": np.ones(3)}


def stacked(dtype: torch.dtype = torch.float64) -> dict[str, dict[str, torch.Tensor]]:
    rows = torch.arange(12.0, dtype=dtype).reshape(3, 2, 2) - 5
    counter, shared = torch.tensor([3, 1, 2]), torch.tensor([7.0, 1.0], dtype=dtype).expand(3, 2)
    return {"model": {"w": rows, "b": shared}, "buffers": {"n": counter}, "control": {"w": rows.flip(0)}, "none": {}}


def by_hand(payload: dict, name: str, leaf: str, places: tuple[int, ...]) -> np.ndarray:
    values, column = payload[name][leaf].double().numpy(), WEIGHTS.get(name, WEIGHTS[""])
    return sum(column[k] * values[k] for k in places)


@pytest.mark.parametrize("spoilt", [(), (1,), (0, 2)])
@pytest.mark.parametrize("by", [float("nan"), float("inf"), float("-inf")])
def test_sums_by_hand_without_what_is_not_finite(spoilt: tuple[int, ...], by: float) -> None:
    payload = stacked()
    for k in spoilt:
        payload["model"]["w"][k, 0, 1] = by
    sums, finite = stacked_sums(payload, WEIGHTS, 3)
    kept = tuple(k for k in range(3) if k not in spoilt)
    assert tuple(np.flatnonzero(finite)) == kept
    for name, leaf in (("model", "w"), ("model", "b"), ("buffers", "n"), ("control", "w")):
        found = sums.totals[name][leaf].double().numpy()
        np.testing.assert_allclose(found, by_hand(payload, name, leaf, kept), rtol=0, atol=1e-12)
    assert sums.totals["none"] == {}
    assert sums.weights["control"] == len(kept)
    assert sums.weights["model"] == sums.weights["none"] == sum(WEIGHTS[""][list(kept)])


def test_nothing_finite_sums_to_nothing() -> None:
    payload = {"model": {"w": torch.full((3, 2), float("nan"))}}
    sums, finite = stacked_sums(payload, WEIGHTS, 3)
    assert not finite.any()
    assert sums.totals == {}


def test_a_sum_that_overflows_single_precision_is_taken_in_double() -> None:
    payload = {"model": {"w": torch.full((3, 2), 2e38)}}
    sums, finite = stacked_sums(payload, WEIGHTS, 3)
    assert finite.all()
    np.testing.assert_allclose(sums.totals["model"]["w"].numpy(), 3.5 * 2e38, rtol=1e-7)


def test_joined_sums_are_sums_of_all() -> None:
    payload = stacked()
    total, one_by_one = WeightedSums(), WeightedSums()
    for k in range(3):
        own = {name: {leaf: v[k] for leaf, v in leaves.items()} for name, leaves in payload.items()}
        weight = {name: float(column[k]) for name, column in WEIGHTS.items()}
        one = WeightedSums()
        one.add(own, weight, exact=False)
        total.join(one)
        one_by_one.add(own, weight)
    sums, _ = stacked_sums(payload, WEIGHTS, 3)
    for name, leaves in sums.totals.items():
        for leaf, value in leaves.items():
            for other in (total, one_by_one):
                assert other.totals[name][leaf].dtype == torch.float64
                assert torch.allclose(other.totals[name][leaf], value.double(), rtol=0, atol=1e-12)
    assert total.means()["model"]["b"].tolist() == pytest.approx([7.0, 1.0], rel=1e-15)
