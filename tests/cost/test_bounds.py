"""Prices lie within their bounds or an error names the key: over all magnitudes, one task or many."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evsim.algorithms.schedule import Schedule
from evsim.base.casts import EXACT, whole
from evsim.base.errors import EvsimError, PolicyError, TraceError
from evsim.base.units import LONGEST_PHASE
from evsim.cost.model import CostModel
from evsim.cost.network import alone_ms
from evsim.cost.pricing import Price, Pricing, SinglePrices
from evsim.cost.work import Work
from evsim.traces.speed import DeviceSpeed

USUAL = {
    "compute_ms_per_sample": 20.0,
    "download_kbps": 5_000.0,
    "upload_kbps": 2_000.0,
    "latency_ms": 50.0,
    "compute_jitter": 0.1,
    "network_jitter": 0.35,
    "sample_scale": 1.0,
    "training_factor": 3.0,
    "model_bytes": 10_000_000,
}
COST = ("sample_scale", "training_factor", "model_bytes")
MAGNITUDES = st.builds(
    lambda digits, exponent: digits * 10.0**exponent, st.floats(1, 9.99), st.integers(-300, 299)
) | st.sampled_from([1e-300, 1e300, 5e-324, 1.7e308, 1e9, 1e10, 1e11, 1e15])


def pricing_of(values):
    cost = CostModel(**{name: values[name] for name in COST})
    columns = {name: value if name.endswith("jitter") else [value] * 2 for name, value in values.items()}
    return Pricing(cost, DeviceSpeed(**{name: columns[name] for name in columns if name not in COST}), seed=3)


def priced(values, samples, forward=1):
    """The prices of the first tasks of two clients, priced together; or the error."""
    clients, work = np.arange(2), Work(np.full(2, samples), np.full(2, forward))
    try:
        pricing = pricing_of(values)
        size = pricing.cost.wire_bytes(40, 40)
        sizes = np.full(2, size), np.full(2, size)
        return pricing.price(clients, np.zeros(2, np.int64), work, sizes, 7)
    except EvsimError as error:
        return error


def priced_one_by_one(values, samples, forward=1):
    try:
        pricing = pricing_of(values)
        size = pricing.cost.wire_bytes(40, 40)
        prices = SinglePrices(pricing, Work(np.full(2, samples), np.full(2, forward)), (size, size))
        return [prices.of(client, 0) for client in range(2)]
    except EvsimError as error:
        return error


@settings(max_examples=400, deadline=None, derandomize=True)
@given(st.dictionaries(st.sampled_from(sorted(USUAL)), MAGNITUDES, min_size=1, max_size=3), st.sampled_from([0, 1, 60]))
def test_every_phase_is_within_its_bounds_or_a_key_that_was_changed_is_named(changed, samples):
    if "model_bytes" in changed:
        changed["model_bytes"] = max(1, int(changed["model_bytes"]))
    values = USUAL | changed
    bulk, single = priced(values, samples), priced_one_by_one(values, samples)
    if isinstance(bulk, EvsimError):
        assert isinstance(single, EvsimError)
        for error in (bulk, single):
            blamed = str(error).rsplit("; change ", 1)[-1]  # other messages are about one key alone
            assert any(name in blamed for name in changed), str(error)
        return
    assert isinstance(bulk, Price)
    columns = (bulk.download_ms, bulk.compute_ms, bulk.upload_ms, bulk.charged_samples)
    assert all(0 <= int(column.min()) <= int(column.max()) <= LONGEST_PHASE for column in columns[:3])
    assert 0 <= int(bulk.charged_samples.min()) <= int(bulk.charged_samples.max()) <= EXACT
    assert int(bulk.total_ms.min()) >= 1
    assert single == list(zip(*(column.tolist() for column in columns), strict=True))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("compute_ms_per_sample", 1e300),
        ("download_kbps", 1e-300),
        ("upload_kbps", 1e-300),
        ("latency_ms", 1e300),
        ("training_factor", 1e300),
        ("sample_scale", 1e300),
        ("sample_scale", 1e12),
        ("model_bytes", 4611686018427387904),
        ("model_bytes", 10**400),
        ("model_bytes", 10**15),
        ("network_jitter", 1e300),
    ],
)
def test_one_impossible_key_is_named_as_the_one_to_change(key, value):
    for error in (priced(USUAL | {key: value}, 60), priced_one_by_one(USUAL | {key: value}, 60)):
        assert isinstance(error, TraceError | PolicyError)
        text = str(error).rsplit("; ", 1)[-1] if "change" in str(error) else str(error)
        assert key in text
        assert "nan" not in text


@pytest.mark.parametrize("most", [{"epochs": 10**6}, {"steps": 10**12}])
def test_the_most_work_a_scenario_can_ask_for_is_counted_without_wrapping(most):
    samples = np.array([10**12])
    (count,) = most.values()
    expected = count * (10**12 if "epochs" in most else 1)
    assert Schedule(1, **most).n_processed(samples).tolist() == [expected]
    for name in most:
        with pytest.raises(PolicyError, match=f"{name} must be <= {count}"):
            Schedule(1, **{name: count + 1})
    with pytest.raises(PolicyError, match="samples_per_client must be > 0 and <= 1000000000000"):
        CostModel(samples_per_client=10**12 + 1)


def test_the_error_names_client_and_phase():
    speed = DeviceSpeed([20.0, 1e300], [5e3, 5e3], [2e3, 2e3])
    pricing, work = Pricing(CostModel(), speed, 0), Work(np.full(2, 60), np.zeros(2, np.int64))
    sizes = np.full(2, 9), np.full(2, 9)
    with pytest.raises(
        TraceError, match=r"the computation of client 1 would last longer than ten years .* change popul"
    ):
        pricing.price(np.arange(2), np.zeros(2, np.int64), work, sizes, 0)
    alone = pricing.price(np.array([0]), np.zeros(1, np.int64), Work(work.samples[:1], work.forward_samples[:1]),
                          (sizes[0][:1], sizes[1][:1]), 0)  # fmt: skip
    assert alone.compute_ms.tolist() == [3_600]
    with pytest.raises(TraceError, match="client 1"):
        SinglePrices(pricing, work, (9, 9))


def test_a_drawn_jitter_may_be_what_makes_a_phase_too_long():
    values = USUAL | {"compute_ms_per_sample": 1e8, "compute_jitter": 5.0, "model_bytes": 1}
    pricing = pricing_of(values)
    prices = SinglePrices(pricing, Work(np.full(2, 60), np.zeros(2, np.int64)), (1, 1))
    outcomes = set()
    for nth in range(60):
        try:
            outcomes.add(str(prices.of(1, nth)[1] <= LONGEST_PHASE))
        except TraceError as error:
            outcomes.add(str(error)[:27])
    assert outcomes == {"True", "the computation of client 1"}


def test_three_phases_that_fit_are_fine_though_their_sum_is_longer():
    most = LONGEST_PHASE - 1.0
    values = USUAL | {"compute_jitter": 0.0, "network_jitter": 0.0, "latency_ms": 0.0, "training_factor": 1.0}
    values |= {"compute_ms_per_sample": most, "model_bytes": 10**9}
    values |= dict.fromkeys(("download_kbps", "upload_kbps"), 8e9 / most)
    bulk = priced(values, 1, 0)
    assert isinstance(bulk, Price)
    assert bulk.compute_ms.tolist() == [LONGEST_PHASE - 1] * 2
    assert priced_one_by_one(values, 1, 0)[0][:3] == (bulk.download_ms[0], LONGEST_PHASE - 1, bulk.upload_ms[0])


def test_latency_is_added_to_each_transfer_and_not_jittered():
    still, far = USUAL | {"latency_ms": 0.0}, USUAL | {"latency_ms": 70.0}
    near, late = priced(still, 60), priced(far, 60)
    assert (late.download_ms - near.download_ms).tolist() == [70, 70]
    assert (late.upload_ms - near.upload_ms).tolist() == [70, 70]
    assert late.compute_ms.tolist() == near.compute_ms.tolist()
    work, size = Work(np.full(2, 60), np.zeros(2, np.int64)), (10, 10)
    promised = pricing_of(far).declared_ms(work, size) - pricing_of(still).declared_ms(work, size)
    assert promised == pytest.approx(140, rel=1e-12)


def test_bytes_beyond_an_eighth_of_64_bits_still_take_their_time():
    took = alone_ms(np.array([2**62]), np.array([1e6]))
    assert took == pytest.approx(2**65 / 1e6, rel=1e-12)


def test_samples_that_fit_are_whole_whatever_the_budget():
    pricing, work = pricing_of(USUAL | {"training_factor": 1e-300}), Work(np.full(1, 60), np.zeros(1, np.int64))
    price = Price(*(np.ones(1, np.int64) for _ in range(4)))
    assert pricing.samples_within(price, work, np.array([2**61])).tolist() == [EXACT]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 2.0**63, -(2.0**63), 1e300, 11.0, -1.0])
def test_no_cast_passes_what_is_out_of_bounds(value):
    with pytest.raises(ValueError, match="row 2"):
        whole([1.0, 2.0, value, value], lambda row: ValueError(f"row {row}"), most=10)


@given(st.lists(st.integers(0, EXACT)))
def test_a_cast_keeps_whole_numbers(numbers):
    assert whole(np.array(numbers, dtype=np.float64), ValueError).tolist() == numbers
