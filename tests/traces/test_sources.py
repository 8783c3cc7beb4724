"""From what a scenario says to a trace."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from evsim.base.errors import TraceError
from evsim.base.units import MS_PER_DAY
from evsim.traces.formats import columnar
from evsim.traces.sources import load_availability, load_speed
from evsim.traces.synthetic import SyntheticAvailability, SyntheticSpeed

HERE = Path()


def availability(spec, folder=HERE, n_devices=20, seed=3):
    return load_availability(spec, n_devices=n_devices, seed=seed, folder=folder)


def speed(spec, folder=HERE, n_devices=20, seed=3):
    return load_speed(spec, n_devices=n_devices, seed=seed, folder=folder)


def test_always_has_as_many_devices_as_asked():
    assert availability("always").online_share().tolist() == [1.0] * 20


def test_a_bundled_trace_is_found_by_name():
    assert availability("phones").n_devices == 2_000
    assert speed("phones").n_devices == 2_000


def test_a_path_is_relative_to_the_folder_and_its_format_recognized(tmp_path):
    (tmp_path / "mine.csv").write_text("device,start_s,stop_s\na,1,2\n")
    assert availability("mine.csv", tmp_path).starts.tolist() == [1_000]
    columnar.write(tmp_path / "own", speed=SyntheticSpeed().generate(4, seed=0))
    assert speed("./own", tmp_path).n_devices == 4
    assert speed(str(tmp_path / "own")).n_devices == 4


def test_a_table_may_name_format_and_options(tmp_path):
    (tmp_path / "mine.csv").write_text("device,start_s,stop_s\na,1,2\n")
    table = {"path": "mine.csv", "format": "csv", "period": "7d"}
    assert availability(table, tmp_path).period.tolist() == [7 * MS_PER_DAY]
    assert table == {"path": "mine.csv", "format": "csv", "period": "7d"}


def test_a_table_of_parameters_generates():
    made = availability({"days": 2, "scale": 2, "hourly_weights": [1] * 24})
    expected = SyntheticAvailability(days=2, scale=2.0, hourly_weights=(1.0,) * 24).generate(20, seed=3)
    assert made.fingerprint() == expected.fingerprint()
    assert availability({"devices": 5, "seed": 9}).fingerprint() == SyntheticAvailability().generate(5, 9).fingerprint()
    assert availability({"preset": "charging_only"}).fingerprint() == (
        SyntheticAvailability.charging_only().generate(20, 3).fingerprint()
    )
    found = speed({"kind": "synthetic", "rank_correlation": 0.5, "devices": 7})
    assert found.fingerprint() == SyntheticSpeed(rank_correlation=0.5).generate(7, 3).fingerprint()


def test_equal_devices_by_three_numbers():
    found = speed({"compute_ms_per_sample": 20, "download_kbps": 5000, "upload_kbps": 2000.0, "network_jitter": 0.2})
    assert found.compute_ms_per_sample.tolist() == [20.0] * 20
    assert (found.upload_kbps[7], found.compute_jitter, found.network_jitter) == (2000.0, 0.0, 0.2)


def test_every_mistake_of_a_table_is_listed_with_the_nearest_name():
    with pytest.raises(TraceError) as caught:
        availability({"dayz": 3, "days": "7", "scale": True, "hourly_weights": [1, "x"], "devices": 0, "kind": "magic"})
    text = str(caught.value)
    assert text.startswith("6 problems")
    for line in (
        "availability.dayz: unknown key; did you mean 'days'?",
        "availability.days: '7'; expected a whole number",
        "availability.scale: True; expected a number",
        "availability.hourly_weights: [1, 'x']; expected a list of numbers",
        "availability.devices: 0; expected a whole number >= 1 and <= 100000000",
        "availability.kind: 'magic'; expected 'synthetic'",
    ):
        assert line in text


def test_every_mistake_about_equal_devices_is_listed():
    with pytest.raises(TraceError) as caught:
        speed({"compute_ms_per_sample": "fast", "download_kbs": 1})
    for line in ("speed.download_kbs: unknown key; did you mean 'download_kbps'?", "speed.upload_kbps: missing"):
        assert line in str(caught.value)
    assert "speed.compute_ms_per_sample: 'fast'; expected a number" in str(caught.value)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("phone", "'phone' is neither a path below .* did you mean 'phones'"),
        ({"scale": float("nan")}, "scale must be finite, but got scale=nan"),
        ({"scale": -1}, "scale must be >= 0"),
        ({"preset": "tablets"}, r"availability\.preset: 'tablets'; \(known: charging_only, phones\)"),
        ({"path": "phones", "rule": "charging"}, r"availability\.rule: unknown key"),
        ({"path": "phones", "format": "parquet"}, "unknown kind 'parquet'"),
        ({"path": 3}, r"availability\.path: 3; expected text"),
        ({"path": "a" * 5_000}, "is neither a path below"),
        ({"path": "~nobody-here/a.csv"}, "is neither a path below"),
        ({"path": "a\0b"}, "is neither a path below"),
        ({"path": "/dev/null", "format": "csv"}, "not a file"),
        ({"path": "phones", "format": "json:"}, "has no read_availability"),
        ({"path": "phones", "format": "json:dumps"}, "format 'json:dumps' failed: TypeError: .* in dumps"),
    ],
)
def test_an_availability_that_cannot_be_used_is_refused(spec, message):
    with pytest.raises(TraceError, match=message):
        availability(spec)


@pytest.mark.parametrize("value", [-20, float("nan")])
def test_impossible_speeds_are_refused(value):
    with pytest.raises(TraceError, match="device 0: download_kbps"):
        speed({"compute_ms_per_sample": 20, "download_kbps": value, "upload_kbps": 2000})
    with pytest.raises(TraceError, match="upload_ratio must be"):
        speed({"upload_ratio": value})


def test_a_pickle_of_fedscale_is_recognized_whatever_its_name(tmp_path):
    record = {"active": [1], "inactive": [5], "finish_time": 86_400}
    (tmp_path / "client_behave_trace").write_bytes(pickle.dumps({1: record, 2: record}))
    assert np.diff(availability("client_behave_trace", tmp_path).offsets).tolist() == [1, 1]


FORMAT = '''
"""Hours of the day, a line per device."""
from evsim.traces.availability import AvailabilityTrace

def read_availability(path, length=1):
    hours = [int(line) for line in path.read_text().split()]
    begin = [hour * 3_600_000 for hour in hours]
    stop = [at + length * 3_600_000 for at in begin]
    return AvailabilityTrace.from_intervals(range(len(hours)), begin, stop, n_devices=len(hours), period=86_400_000)

def twice(path):
    return read_availability(path, length=2)

def broken(path):
    return {}["nothing"]

def other(path):
    return 3
'''


@pytest.fixture
def own_format(tmp_path):
    (tmp_path / "hours.py").write_text(FORMAT)
    (tmp_path / "mine.txt").write_text("3\n7\n")
    return tmp_path


@pytest.mark.parametrize("absolute", [False, True])
@pytest.mark.parametrize(
    ("suffix", "hours", "options"),
    [("", 1, {}), (":", 1, {}), ("", 3, {"length": 3}), (":read_availability", 1, {}), (":twice", 2, {})],
)
def test_a_format_of_ones_own_is_a_file_or_a_function_in_it(own_format, absolute, suffix, hours, options):
    place = f"{own_format}/" if absolute else ""
    spec = {"path": f"{place}mine.txt", "format": f"{place}hours.py{suffix}", **options}
    assert availability(spec, own_format).stops.tolist() == [(3 + hours) * 3_600_000, (7 + hours) * 3_600_000]


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("hours.py:broken", r"'hours\.py:broken' failed: KeyError: 'nothing' \(line 15 of hours\.py, in b"),
        ("hours.py:other", r"'hours\.py:other' gave a int; expected a AvailabilityTrace"),
        ("hours.py:nothing", "has no attribute 'nothing'"),
        ("hour.py", r"no such file: hour\.py"),
    ],
)  # fmt: skip
def test_a_format_of_ones_own_that_fails_says_where(own_format, kind, message):
    with pytest.raises(TraceError, match=message):
        availability({"path": "mine.txt", "format": kind}, own_format)
    with pytest.raises(TraceError, match="has no read_speed"):
        speed({"path": "mine.txt", "format": "hours.py"}, own_format)


def test_equal_devices_may_have_a_latency():
    found = speed({"compute_ms_per_sample": 20, "download_kbps": 5000, "upload_kbps": 2000, "latency_ms": 30})
    assert found.latency_ms.tolist() == [30.0] * 20
    with pytest.raises(TraceError, match=r"device 0: latency_ms is -1\.0"):
        speed({"compute_ms_per_sample": 20, "download_kbps": 5000, "upload_kbps": 2000, "latency_ms": -1})
    with pytest.raises(TraceError, match="device 0: download_kbps is inf"):
        speed({"compute_ms_per_sample": 20, "download_kbps": 10**400, "upload_kbps": 2000})


def test_utf_16_is_named_where_a_format_is_looked_for(tmp_path):
    (tmp_path / "a.csv").write_text("device,start_s,stop_s\na,1,2\n", encoding="utf-16")
    with pytest.raises(TraceError, match="UTF-16; expected text in UTF-8"):
        availability("a.csv", tmp_path)
