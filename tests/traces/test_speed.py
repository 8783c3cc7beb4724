"""Device speeds: what is kept, what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from evsim.base.errors import TraceError
from evsim.traces.speed import DeviceSpeed


def speed(**changes):
    columns = {
        "compute_ms_per_sample": [15.0, 199.0],
        "download_kbps": [5000.0, 1000.0],
        "upload_kbps": [3500.0, 700.0],
    }
    return DeviceSpeed(**(columns | changes))


def test_take_reorders_and_repeats_and_keeps_jitter():
    taken = speed(compute_jitter=0.1, network_jitter=0.35).take([1, 1, 0])
    assert taken.compute_ms_per_sample.tolist() == [199.0, 199.0, 15.0]
    assert taken.upload_kbps.tolist() == [700.0, 700.0, 3500.0]
    assert (taken.compute_jitter, taken.network_jitter) == (0.1, 0.35)


@pytest.mark.parametrize(
    ("column", "value", "expected"),
    [
        ("compute_ms_per_sample", -1.0, ">= 0"),
        ("compute_ms_per_sample", float("nan"), ">= 0"),
        ("download_kbps", 0.0, "> 0"),
        ("download_kbps", float("inf"), "> 0"),
        ("upload_kbps", float("nan"), "> 0"),
    ],
)
def test_impossible_speed_names_the_device(column, value, expected):
    with pytest.raises(TraceError, match=f"device 1: {column} is {value}; expected a finite number {expected}"):
        speed(**{column: [10.0, value]})


def test_unequal_columns_and_negative_jitter_are_refused():
    with pytest.raises(TraceError, match=r"unequal length \[1, 2\]"):
        speed(upload_kbps=[1.0])
    with pytest.raises(TraceError, match=r"network_jitter is -0\.1"):
        speed(network_jitter=-0.1)


def test_reference_task_is_compute_plus_both_transfers():
    # 1,200 sample passes of 15 ms; 80,000 kbit at 5,000 and at 3,500 kbit/s
    assert speed().reference_ms()[0] == pytest.approx(18_000 + 16_000 + 80_000_000 / 3_500)


def test_columns_are_read_only_copies():
    given = np.array([1.0, 2.0])
    kept = speed(download_kbps=given).download_kbps
    given[0] = 9.0
    assert kept.tolist() == [1.0, 2.0]
    with pytest.raises(ValueError, match="read-only"):
        kept[0] = 3.0
