"""Every format: what goes in comes out, and what is broken is refused with its place."""

from __future__ import annotations

import codecs
import contextlib
import gzip
import hashlib
import itertools
import json
import os
import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as arrow_csv
import pyarrow.parquet as pq
import pytest

from evsim.base.bundled import bundled_trace
from evsim.base.errors import TraceError
from evsim.base.units import MS_PER_DAY, MS_PER_HOUR
from evsim.traces.availability import AvailabilityTrace
from evsim.traces.formats import columnar, csv, fedscale, flash
from evsim.traces.formats.unpickle import loads_plain
from evsim.traces.sources import recognize
from evsim.traces.speed import DeviceSpeed
from evsim.traces.synthetic import SyntheticAvailability, SyntheticSpeed

DATA = Path(__file__).parents[3] / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the measured traces are not part of the project")


def write_json(path, content):
    path.write_text(json.dumps(content))
    return path


# --- evsim's own -----------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    availability, speed = SyntheticAvailability(days=2).generate(30, seed=1), SyntheticSpeed().generate(30, seed=1)
    columnar.write(tmp_path / "made", availability=availability, speed=speed, about={"source": "a test"})
    return tmp_path / "made"


def test_a_written_trace_is_read_back_exactly(folder):
    assert (
        columnar.read_availability(folder).fingerprint() == SyntheticAvailability(days=2).generate(30, 1).fingerprint()
    )
    assert columnar.read_speed(folder).fingerprint() == SyntheticSpeed().generate(30, seed=1).fingerprint()
    manifest = json.loads((folder / "manifest.json").read_text())
    assert (manifest["source"], manifest["devices"], manifest["format"]) == ("a test", 30, "evsim-trace")
    assert sorted(path.name for path in folder.iterdir()) == [
        "availability.parquet",
        "devices.parquet",
        "manifest.json",
    ]


def test_cleaning_counts_and_wrapping_intervals_and_own_periods_survive(tmp_path):
    trace = AvailabilityTrace.from_intervals([0, 0, 1], [1, 2, 9], [3, 2, 14], n_devices=3, period=[8, 10, 5])
    columnar.write(tmp_path, availability=trace)
    found = columnar.read_availability(tmp_path)
    assert (found.fingerprint(), found.merged, found.dropped) == (trace.fingerprint(), 0, 1)
    with pytest.raises(TraceError, match="lacks compute_ms_per_sample, download_kbps, upload_kbps"):
        columnar.read_speed(tmp_path)


def test_speeds_alone_make_a_trace(tmp_path):
    columnar.write(tmp_path, speed=SyntheticSpeed().generate(3, seed=0))
    assert columnar.read_speed(tmp_path).n_devices == 3
    with pytest.raises(TraceError, match=r"lacks period_ms"):
        columnar.read_availability(tmp_path)


def test_an_existing_trace_is_not_replaced_unless_asked(folder):
    with pytest.raises(TraceError, match="a trace is there already"):
        columnar.write(folder, speed=SyntheticSpeed().generate(3, seed=0))
    columnar.write(folder, speed=SyntheticSpeed().generate(3, seed=0), replace=True)
    assert columnar.read_speed(folder).n_devices == 3


def test_nothing_or_unequal_parts_are_not_written(tmp_path):
    with pytest.raises(TraceError, match="neither availability nor speed"):
        columnar.write(tmp_path)
    with pytest.raises(TraceError, match=r"devices: \[2, 3\]"):
        columnar.write(tmp_path, availability=AvailabilityTrace.always(2), speed=SyntheticSpeed().generate(3, seed=0))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["availability.parquet", "devices.parquet"])
def test_a_truncated_table_is_refused(folder, name):
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(TraceError, match=rf"{name}: sha256 .* truncated or altered"):
        columnar.read_availability(folder)


def test_an_altered_table_is_refused(folder):
    content = bytearray((folder / "availability.parquet").read_bytes())
    content[200] ^= 1
    (folder / "availability.parquet").write_bytes(content)
    with pytest.raises(TraceError, match="truncated or altered"):
        columnar.read_availability(folder)


def test_a_truncated_table_with_a_fitting_checksum_is_no_parquet(folder):
    broken = (folder / "availability.parquet").read_bytes()[:-20]
    (folder / "availability.parquet").write_bytes(broken)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["availability.parquet"]["sha256"] = hashlib.sha256(broken).hexdigest()
    write_json(folder / "manifest.json", manifest)
    with pytest.raises(TraceError, match="not readable as Parquet"):
        columnar.read_availability(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "other"}, "format: 'other'; expected 'evsim-trace'"),
        ({"version": 3}, "version: 3; expected 1 or 2; a newer evsim wrote it"),
        ({"files": {"../secret.parquet": {"sha256": ""}}}, r"'\.\./secret\.parquet'; expected availability\.parquet"),
        ({"files": ["availability.parquet"]}, "a table of file names"),
        ({"files": {}}, "holds no devices.parquet"),
        ({"compute_jitter": "much"}, "compute_jitter is 'much'"),
    ],
)
def test_a_manifest_that_cannot_be_trusted_is_refused(folder, change, message):
    manifest = json.loads((folder / "manifest.json").read_text())
    write_json(folder / "manifest.json", manifest | change)
    with pytest.raises(TraceError, match=message):
        columnar.read_speed(folder)


def replace_devices(folder, table):
    """Put another table and its true checksum in the place of the devices'."""
    pq.write_table(table, folder / "devices.parquet")
    manifest = json.loads((folder / "manifest.json").read_text())
    digest = hashlib.sha256((folder / "devices.parquet").read_bytes()).hexdigest()
    manifest["files"]["devices.parquet"]["sha256"] = digest
    write_json(folder / "manifest.json", manifest)


def test_tables_with_holes_or_devices_out_of_order_are_refused(folder):
    devices = pq.read_table(folder / "devices.parquet")
    replace_devices(folder, devices.take(list(range(29, -1, -1))))
    with pytest.raises(TraceError, match=r"devices are not numbered 0, 1, 2, \.\.\. in order"):
        columnar.read_speed(folder)
    holes = pa.array([None] + [1.0] * 29)
    replace_devices(folder, devices.set_column(devices.schema.get_field_index("upload_kbps"), "upload_kbps", holes))
    with pytest.raises(TraceError, match="empty cells in upload_kbps"):
        columnar.read_speed(folder)
    text = pa.array([str(number) for number in range(30)])
    replace_devices(folder, devices.set_column(devices.schema.get_field_index("upload_kbps"), "upload_kbps", text))
    with pytest.raises(TraceError, match="upload_kbps of string; expected numbers, and text for names"):
        columnar.read_speed(folder)
    replace_devices(folder, devices.append_column("name", pa.array(range(30))))
    with pytest.raises(TraceError, match="name of int64"):
        columnar.read_speed(folder)
    (folder / "devices.parquet").unlink()
    with pytest.raises(TraceError, match=r"devices\.parquet: cannot be read"):
        columnar.read_speed(folder)


def test_a_trace_cannot_be_written_where_a_file_is(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(TraceError, match="cannot be written"):
        columnar.write(tmp_path / "file", availability=AvailabilityTrace.always(2))


def test_missing_and_malformed_manifests_are_refused(folder):
    (folder / "manifest.json").write_text("[]")
    with pytest.raises(TraceError, match=r"a JSON list; expected .*an object"):
        columnar.read_speed(folder)
    (folder / "manifest.json").write_text("{")
    with pytest.raises(TraceError, match="not valid JSON"):
        columnar.read_speed(folder)
    (folder / "manifest.json").unlink()
    with pytest.raises(TraceError, match="no such file; expected a trace folder"):
        columnar.read_speed(folder)


def test_the_bundled_trace_is_what_its_recipe_makes():
    phones = bundled_trace("phones")
    trace, speed = columnar.read_availability(phones), columnar.read_speed(phones)
    assert (trace.n_devices, set(trace.period.tolist())) == (2_000, {7 * MS_PER_DAY})
    first = SyntheticAvailability().generate(40, seed=2020)
    assert trace.take(np.arange(40)).fingerprint() == first.fingerprint()
    expected = SyntheticSpeed().generate(2_000, seed=2020)
    assert np.allclose(speed.download_kbps, expected.download_kbps, rtol=1e-12)
    assert np.allclose(speed.compute_ms_per_sample, expected.compute_ms_per_sample, rtol=1e-12)
    assert (speed.compute_jitter, speed.network_jitter) == (0.1, 0.35)
    manifest = json.loads((phones / "manifest.json").read_text())
    assert manifest["availability_fingerprint"] == trace.fingerprint()
    assert manifest["speed_fingerprint"] == speed.fingerprint()
    assert sum(path.stat().st_size for path in phones.glob("*.parquet")) < 1_500_000


# --- CSV -------------------------------------------------------------------------------------------------------------


def write_csv(path, *lines):
    path.write_text("\n".join(lines) + "\n")
    return path


def test_csv_of_seconds_names_devices_and_repeats_after_whole_days(tmp_path):
    path = write_csv(tmp_path / "a.csv", "device,start_s,stop_s", "b,10,20.5", "a,86400,90000", "b,5,6", "c,,")
    trace = csv.read_availability(path)
    assert trace.offsets.tolist() == [0, 2, 3, 3]
    assert trace.starts.tolist() == [5_000, 10_000, 86_400_000]
    assert trace.stops.tolist() == [6_000, 20_500, 90_000_000]
    assert trace.period.tolist() == [2 * MS_PER_DAY] * 3
    assert csv.read_availability(path, period="7d").period.tolist() == [7 * MS_PER_DAY] * 3


def test_csv_takes_ms_and_a_period_per_device_and_gzip(tmp_path):
    path = tmp_path / "a.csv.gz"
    path.write_bytes(gzip.compress(b"device_id,start_ms,stop_ms,period_ms\n7,1,2,10\n8,3,9,20\n7,4,6,10\n"))
    trace = csv.read_availability(path)
    assert (trace.starts.tolist(), trace.period.tolist()) == ([1, 4, 3], [10, 20])
    assert recognize(path) == "csv"


def test_csv_of_speeds(tmp_path):
    path = write_csv(tmp_path / "s.csv", "device,compute_ms_per_sample,download_kbps,upload_kbps", "x,20,5000,2000")
    speed = csv.read_speed(path)
    assert (speed.compute_ms_per_sample[0], speed.download_kbps[0], speed.upload_kbps[0]) == (20, 5000, 2000)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["device,start_s,stop_s", "a,20,10"], r"device 'a': interval \[20000, 10000\) ms is reversed"),
        (["device,start_s,stop_s", "a,1,2", "a,x,9"], "line 3, start_s: 'x'; expected a number"),
        (["device,start_s,stop_s", "a,1,"], "line 2: one of start and stop is empty"),
        (["device,start_s", "a,1"], "no column 'stop_s'"),
        (["device,start_s,stop_s", "a,,", "a,true,9"], "line 3, start_s: 'true'; expected a number"),
        (["device,start_s,stop_s", "a,1,2", ",3,4"], r"line 3, device: ''; expected a name or number"),
        (["start_s,stop_s", "1,2"], "no column 'device'"),
        (["device,start_s,stop_s,colour", "a,1,2,red"], "unknown column 'colour'"),
        (["device,start_s,stop_s", "a,1,2,3"], "not readable as CSV"),
        (["device,start_ms,stop_ms,period_ms", "a,1,2,9", "a,3,4,8"], "line 2: device 'a' has period 9 ms here"),
    ],
)
def test_broken_csv_of_intervals_names_the_place(tmp_path, lines, message):
    with pytest.raises(TraceError, match=message):
        csv.read_availability(write_csv(tmp_path / "a.csv", *lines))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["a,20,5000,2000", "b,20,-1,2000"], "device 'b': download_kbps is -1.0"),
        (["a,nan,5000,2000"], "device 'a': compute_ms_per_sample is nan"),
        (["a,20,,2000"], "device 'a': download_kbps is nan"),
        (["a,20,5,5", "a,20,5,5"], "line 3: device 'a' again"),
    ],
)
def test_broken_csv_of_speeds_names_the_device(tmp_path, rows, message):
    path = write_csv(tmp_path / "s.csv", "device,compute_ms_per_sample,download_kbps,upload_kbps", *rows)
    with pytest.raises(TraceError, match=message):
        csv.read_speed(path)


def test_no_thread_of_arrow_reads_ahead(tmp_path, monkeypatch):
    """Such a thread may outlive the interpreter of a run that ends in an error; C++ then aborts."""
    given = []
    read = arrow_csv.read_csv
    monkeypatch.setattr(arrow_csv, "read_csv", lambda *data, **options: given.append(options) or read(*data, **options))
    path = write_csv(tmp_path / "a.csv", "device,start_s,stop_s", *["a,1,2"] * 200_000, "a,x,2")
    with pytest.raises(TraceError, match="line 200002, start_s: 'x'"):
        csv.read_availability(path)
    (options,) = (each["read_options"] for each in given)
    assert not options.use_threads
    assert options.block_size > path.stat().st_size


def test_missing_file_and_bad_period_are_refused(tmp_path):
    with pytest.raises(TraceError, match="cannot be read"):
        csv.read_availability(tmp_path / "none.csv")
    path = write_csv(tmp_path / "a.csv", "device,start_s,stop_s", "a,1,2")
    with pytest.raises(TraceError, match="period: 'soon' is not a duration"):
        csv.read_availability(path, period="soon")


# --- FedScale --------------------------------------------------------------------------------------------------------

RECORD = {
    "duration": 211625,
    "inactive": [65881, 133574, 208292, 276575, 295006, 356236, 400906, 475099],
    "finish_time": 518400,
    "active": [12788, 100044, 188992, 271372, 276663, 352625, 356267, 441193],
    "model": "CPH1801",
}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_fedscale_behavior_pickle_gives_its_duration_online(tmp_path, protocol):
    path = tmp_path / "client_behave_trace"
    path.write_bytes(pickle.dumps({3834: RECORD}, protocol=protocol))
    trace = fedscale.read_availability(path)
    assert trace.starts.tolist() == [1_000 * second for second in RECORD["active"]]
    assert int((trace.stops - trace.starts).sum()) == 1_000 * RECORD["duration"]
    assert trace.period.tolist() == [6 * MS_PER_DAY]


@needs_data
def test_fedscale_sample_record_is_read_from_json():
    trace = fedscale.read_availability(DATA / "fedscale_behave_sample.json")
    assert trace.online_share()[0] == pytest.approx(211_625 / 518_400)
    assert recognize(DATA / "fedscale_behave_sample.json") == "fedscale"


def test_fedscale_odd_records_are_cut_as_its_readers_do(tmp_path):
    odd = {
        1: RECORD | {"active": [1, 50, 500, 700], "inactive": [1, 60, 900], "finish_time": 600},
        2: RECORD | {"active": np.array([5, 800]), "inactive": np.array([7, 900]), "finish_time": np.int64(100)},
        3: RECORD | {"active": [], "inactive": [], "finish_time": 86400.0},
    }
    path = tmp_path / "trace.pkl"
    path.write_bytes(pickle.dumps(odd))
    trace = fedscale.read_availability(path)
    assert trace.offsets.tolist() == [0, 2, 3, 3]
    assert (trace.starts.tolist(), trace.stops.tolist()) == ([50_000, 500_000, 5_000], [60_000, 600_000, 7_000])
    assert trace.dropped == 2  # one of length zero, one that is never reached


def test_fedscale_capacity_pickle(tmp_path):
    path = tmp_path / "client_device_capacity"
    path.write_bytes(
        pickle.dumps(
            {1: {"computation": 153, "communication": 2209.6}, 2: {"computation": 39.0, "communication": 18437.3}}
        )
    )
    speed = fedscale.read_speed(path)
    assert speed.compute_ms_per_sample.tolist() == [153, 39]
    assert speed.download_kbps.tolist() == speed.upload_kbps.tolist() == [2209.6, 18437.3]
    assert recognize(path) == "fedscale"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"active": [20], "inactive": [10]}, r"device '7': interval \[20000, 10000\) ms is reversed"),
        ({"active": [-5], "inactive": [10]}, "is negative"),
        ({"active": [float("nan")], "inactive": [10]}, "device 7: active and inactive must be finite"),
        ({"active": ["a"], "inactive": [10]}, "device 7: active and inactive must be lists of seconds"),
        ({"finish_time": 0}, "device 7: finish_time is 0.0"),
        ({"finish_time": "long"}, "device 7: finish_time is 'long'"),
    ],
)
def test_fedscale_impossible_records_name_the_device(tmp_path, change, message):
    path = tmp_path / "trace"
    path.write_bytes(pickle.dumps({7: RECORD | change}))
    with pytest.raises(TraceError, match=message):
        fedscale.read_availability(path)


def test_fedscale_wrong_contents_are_refused(tmp_path):
    path = tmp_path / "trace"
    path.write_bytes(pickle.dumps([1, 2]))
    with pytest.raises(TraceError, match="holds a list"):
        fedscale.read_availability(path)
    path.write_bytes(pickle.dumps({1: {"computation": 1.0}}))
    with pytest.raises(TraceError, match="device 1 lacks communication"):
        fedscale.read_speed(path)
    path.write_bytes(pickle.dumps({1: {"computation": -1.0, "communication": 5.0}}))
    with pytest.raises(TraceError, match=r"device 0: compute_ms_per_sample is -1\.0"):
        fedscale.read_speed(path)


@needs_data
def test_fedscale_capacities_have_the_known_medians():
    speed = csv.read_speed(DATA / "fedscale_capacity_51496.csv.gz")
    assert speed.n_devices == 51_496
    assert np.median(speed.compute_ms_per_sample) == 41
    assert np.median(speed.download_kbps) == pytest.approx(6_075, abs=1)
    assert (speed.download_kbps < 3_000).mean() == pytest.approx(0.269, abs=0.001)


# --- pickles ---------------------------------------------------------------------------------------------------------


class Calls:
    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def with_state(self, state):
        self.call = (*self.call, state)
        return self

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    ("function", "name"), [(os.system, f"{os.name}.system"), (eval, "eval"), (getattr, "getattr"), (np.load, "load")]
)
def test_a_pickle_that_would_run_code_is_refused_by_name_and_runs_nothing(tmp_path, protocol, function, name):
    marker = tmp_path / "ran"
    attack = pickle.dumps({1: RECORD, 2: Calls(function, f"touch {marker}")}, protocol=protocol)
    path = tmp_path / "trace"
    path.write_bytes(attack)
    with pytest.raises(TraceError, match=rf"asks for .*{name}; expected plain containers"):
        fedscale.read_availability(path)
    assert not marker.exists()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_data_and_arrays_come_back_equal(protocol):
    given = {
        "list": [1, -2.5, None, True, "text", b"bytes", 2**70],
        "set": {1, 2},
        "tuple": ((), (1,), (1, 2, 3)),
        "ints": np.arange(6, dtype=np.int32).reshape(2, 3),
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "bool": np.array([True, False]),
        "text": np.array(["a", "bcd"]),
        "big": np.arange(3, dtype=">i8"),
        "scalar": np.float32(1.5),
        "dtype": np.dtype("f8"),
        "empty": np.empty(0),
    }
    found = loads_plain(pickle.dumps(given, protocol=protocol))
    assert found.keys() == given.keys()
    for name, value in given.items():
        if isinstance(value, np.ndarray):
            assert found[name].dtype == value.dtype.newbyteorder("=")
            assert np.array_equal(found[name], value)
        else:
            assert found[name] == value
            assert type(found[name]) is type(value)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (Calls(np.dtype, "f8", False, True).with_state((3, "<", ("a",), None, {}, -1, -1, 0)), "structured NumPy type"),
        (Calls(codecs.encode, "text", "rot13"), "bytes encoded as 'rot13'"),
    ],
)
def test_known_names_are_not_a_way_around(made, message):
    with pytest.raises(TraceError, match=message):
        loads_plain(pickle.dumps(made))


def test_arrays_under_numpy_1_names_are_read():
    content = pickle.dumps(np.arange(3), protocol=2)
    assert b"numpy._core.multiarray" in content
    older = content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    assert loads_plain(older).tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    "array",
    [np.array([{}], dtype=object), np.zeros(2, dtype=[("a", "i4"), ("b", "f8")]), np.array(["2020-01-01"], "M8[D]")],
)
def test_arrays_of_objects_and_structures_are_refused(array):
    with pytest.raises(TraceError, match="expected numbers, booleans or strings"):
        loads_plain(pickle.dumps(array))


@pytest.mark.parametrize("content", [b"", b"\x80", b"\x80\x04K", b"not a pickle", pickle.dumps({1: RECORD})[:-9]])
def test_broken_pickles_are_refused(content):
    with pytest.raises(TraceError, match="not a readable pickle"):
        loads_plain(content)


def test_an_array_whose_bytes_do_not_fit_its_shape_is_refused():
    content = pickle.dumps(np.arange(4, dtype=np.int8), protocol=2)
    with pytest.raises(TraceError, match="not a readable pickle"):
        loads_plain(content.replace(b"K\x04\x85", b"K\x05\x85"))


# --- FLASH -----------------------------------------------------------------------------------------------------------


def log(*events, begin="00:00:00", end="2020-02-03 00:00:00"):
    lines = [f"2020-02-02 {begin}\t50.0%", *(f"2020-02-02 {at}\t{event}" for at, event in events), f"{end}\t51.0%"]
    return "\n".join(lines)


def raw(tmp_path, *messages):
    records = {str(i): {"guid": f"g{i}", "model": "M", "messages": text} for i, text in enumerate(messages)}
    return write_json(tmp_path / "state_traces.json", records)


def hours(trace, device=0):
    rows = slice(trace.offsets[device], trace.offsets[device + 1])
    return [(a / MS_PER_HOUR, b / MS_PER_HOUR) for a, b in zip(trace.starts[rows], trace.stops[rows], strict=True)]


NIGHT = log(
    ("01:00:00", "battery_charged_on"),
    ("02:00:00", "WiFi"),
    ("03:00:00", "screen_off"),
    ("04:00:00", "screen_lock"),
    ("05:00:00", "screen_on"),
    ("06:00:00", "screen_unlock"),
    ("06:30:00", "screen_off"),
    ("07:00:00", "4G"),
    ("08:00:00", "battery_charged_off"),
)


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("locked_charging_wifi", [(4, 6)]),
        ("screen_off_charging_wifi", [(3, 5), (6.5, 7)]),
        ("any_idle", [(3, 6), (6.5, 7)]),
        ("charging", [(1, 8)]),
    ],
)
def test_flash_rule_decides_what_ready_means(tmp_path, rule, expected):
    trace = flash.read_availability(raw(tmp_path, NIGHT), rule=rule)
    assert hours(trace) == expected
    assert trace.period.tolist() == [MS_PER_DAY]
    assert recognize(tmp_path / "state_traces.json") == "flash"


def test_flash_events_out_of_order_or_of_one_second_take_effect_together(tmp_path):
    text = log(
        ("03:00:00", "battery_charged_off"),
        ("01:00:00", "battery_charged_on"),
        ("02:00:00", "battery_charged_off"),
        ("02:00:00", "battery_charged_on"),
        ("02:00:00", "battery_charged_on"),
    )
    assert hours(flash.read_availability(raw(tmp_path, text), rule="charging")) == [(1, 3)]
    as_list = flash.read_availability(raw(tmp_path, text.split("\n")), rule="charging")
    assert hours(as_list) == [(1, 3)]


def test_flash_any_idle_drops_windows_under_a_minute(tmp_path):
    text = log(
        ("01:00:00", "battery_charged_on"),
        ("01:00:00", "wifi"),
        ("02:00:00", "screen_off"),
        ("02:00:59", "screen_on"),
        ("03:00:00", "screen_off"),
        ("03:01:00", "screen_on"),
    )
    trace = flash.read_availability(raw(tmp_path, text), rule="any_idle")
    assert hours(trace) == [(3, 3 + 1 / 60)]


def test_flash_open_interval_lasts_until_the_log_ends_and_wraps_at_local_midnight(tmp_path):
    text = log(("23:00:00", "battery_charged_on"), begin="06:00:00", end="2020-02-03 06:00:00")
    trace = flash.read_availability(raw(tmp_path, text), rule="charging")
    assert hours(trace) == [(23, 30)]
    assert trace.is_online([0, 0, 0], [5 * MS_PER_HOUR, 7 * MS_PER_HOUR, 23 * MS_PER_HOUR]).tolist() == [
        True,
        False,
        True,
    ]


def test_flash_unreadable_short_and_never_ready_logs_are_never_online_or_dropped(tmp_path):
    short = log(("01:00:00", "battery_charged_on"), end="2020-02-02 09:00:00")
    path = raw(tmp_path, NIGHT, "garbage", short, log(("01:00:00", "dancing")), log(), "", log(("25:61:00", "wifi")))
    kept = flash.read_availability(path)
    assert np.diff(kept.offsets).tolist() == [1, 0, 0, 0, 0, 0, 0]
    assert flash.read_availability(path, never_ready="drop").n_devices == 1


def timers(tmp_path, **record):
    whole = {"isSuccess": True, "trace_start": 2_410_196.0, "trace_end": 2_410_196.0 + 86_400}
    return write_json(tmp_path / "cached_timers.json", {"9": whole | record, "10": {"isSuccess": False}})


def test_flash_timers_keep_the_time_of_day_and_the_never_ready(tmp_path):
    # 2,410,196 s after the reference midnight is 21:29:56
    path = timers(
        tmp_path, ready_time=[[2_410_196.0, 2_410_206.0], [2_410_300.0, 2_410_300.0], [2_496_000.0, 2_496_596.0]]
    )
    trace = flash.read_availability(path)
    assert trace.dropped == 1
    evening = (21 * 3_600 + 29 * 60 + 56) * 1_000
    assert trace.starts.tolist() == [evening - 596_000]  # ends where the trace begins: one interval
    assert trace.stops.tolist() == [evening + 10_000]
    assert np.diff(trace.offsets).tolist() == [1, 0]


def test_flash_broken_records_and_options_are_refused(tmp_path):
    with pytest.raises(TraceError, match="rule 'lockd_charging_wifi'; did you mean 'locked_charging_wifi'"):
        flash.read_availability(raw(tmp_path, NIGHT), rule="lockd_charging_wifi")
    with pytest.raises(TraceError, match="rule 'charging' needs raw events"):
        flash.read_availability(timers(tmp_path, ready_time=[]), rule="charging")
    with pytest.raises(TraceError, match="never_ready 'maybe'"):
        flash.read_availability(raw(tmp_path, NIGHT), never_ready="maybe")
    with pytest.raises(TraceError, match="device '9': expected trace_start"):
        flash.read_availability(timers(tmp_path))
    with pytest.raises(TraceError, match=r"device '9': ready interval .* is reversed"):
        flash.read_availability(timers(tmp_path, ready_time=[[2_410_300.0, 2_410_299.0]]))
    with pytest.raises(TraceError, match="device '9': ready_time must be finite"):
        flash.read_availability(timers(tmp_path, ready_time=[[2_410_300.0, float("nan")]]))
    with pytest.raises(TraceError, match="device '1': expected a record"):
        flash.read_availability(write_json(tmp_path / "x.json", {"1": {"guid": "g"}}))
    with pytest.raises(TraceError, match="hold no device speeds"):
        flash.read_speed(tmp_path / "x.json")


ODD = [None, True, -1, 1e300, float("nan"), 2**63, 10**400, "", "x", [], [1], [[1, 2]], [[1, 2, 3]], {}, [None], ["a"]]
ODD += ["NaT\twifi", "99999-01-01 00:00:00\twifi", [10**400], [[1e300, 2e300]], [[[1, 2]]]]
RECORDS = [
    ({"messages": NIGHT}, flash.read_availability),
    ({"isSuccess": True, "trace_start": 0, "trace_end": 90_000, "ready_time": [[3600, 7200]]}, flash.read_availability),
    ({"active": [1, 100], "inactive": [50, 200], "finish_time": 86_400}, fedscale.read_availability),
    ({"computation": 3, "communication": 5000}, fedscale.read_speed),
]


@pytest.mark.parametrize(("record", "reader"), RECORDS)
def test_records_with_odd_values_are_read_or_refused_in_words(tmp_path, record, reader):
    path = tmp_path / "x.json"
    for first, second in itertools.product(record, repeat=2):
        for value in ODD:
            path.write_text(json.dumps({"a": record, "b": {**record, first: value, second: value}}))
            with contextlib.suppress(TraceError):
                reader(path)


HOURLY = [10.6, 11.7, 12.9, 13.5, 13.7, 13.4, 12.2, 11.1, 10.0, 8.9, 7.8, 6.9]
HOURLY += [6.9, 6.5, 6.6, 7.0, 7.6, 8.0, 8.9, 7.7, 6.9, 7.4, 8.8, 9.8]


@pytest.fixture(scope="module")
def real_phones():
    """The 710 devices of FLASH with a usable trace."""
    path = DATA / "flash_cached_timers.json"
    trace = flash.read_availability(path)
    usable = [record["isSuccess"] for record in json.loads(path.read_text()).values()]
    assert (trace.n_devices, sum(usable)) == (1_000, 710)
    return trace.take(np.flatnonzero(usable))


@needs_data
def test_real_phones_are_online_as_published(real_phones):
    online = int((real_phones.stops - real_phones.starts).sum())
    assert round(100 * online / int(real_phones.period.sum()), 2) == 9.36
    assert round(100 * real_phones.online_share().mean(), 2) == 9.50
    assert real_phones.dropped == 844
    assert real_phones.n_intervals + real_phones.merged + real_phones.dropped == 14_139
    assert real_phones.period_is_whole_days()


@needs_data
def test_real_phones_have_the_published_hourly_curve(real_phones):
    weight = real_phones.period / MS_PER_DAY
    shares = np.zeros(24)
    for day in range(10):
        seen = np.flatnonzero(weight > day)
        instants = day * MS_PER_DAY + np.arange(0, MS_PER_DAY, 60_000)
        online = real_phones.is_online(seen[:, None], instants).sum(axis=0)
        shares += online.reshape(24, 60).mean(axis=1)
    assert np.abs(100 * shares / weight.sum() - HOURLY).max() < 0.1


@needs_data
def test_real_phones_stay_as_long_as_published(real_phones):
    draws = np.random.default_rng(0)
    share = real_phones.period / real_phones.period.sum()
    device = draws.choice(real_phones.n_devices, 200_000, p=share)
    at = (draws.random(200_000) * real_phones.period[device]).astype(np.int64)
    left = (real_phones.online_until(device, at) - at)[real_phones.is_online(device, at)]
    assert (left >= 300_000).mean() == pytest.approx(0.920, abs=0.012)  # four standard errors, and the wrap
    assert (left >= 3_600_000).mean() == pytest.approx(0.580, abs=0.02)


def test_recognize_refuses_what_no_format_claims(tmp_path):
    with pytest.raises(TraceError, match="no such file"):
        recognize(tmp_path / "nothing")
    (tmp_path / "broken.csv.gz").write_bytes(gzip.compress(b"device,start_s,stop_s")[:15])
    with pytest.raises(TraceError, match="not a trace of a known format"):
        recognize(tmp_path / "broken.csv.gz")
    (tmp_path / "noise").write_bytes(b"\x00\x01")
    with pytest.raises(TraceError, match="not a trace of a known format"):
        recognize(tmp_path / "noise")


def test_recognize_knows_evsims_own(folder):
    assert recognize(folder) == "evsim"
    assert isinstance(columnar.read_speed(folder), DeviceSpeed)
