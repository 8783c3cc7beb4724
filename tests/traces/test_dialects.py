"""One trace, however its file is written: every dialect and notation gives what the plain file gives."""

from __future__ import annotations

import codecs
import contextlib
import gzip
import io
import itertools
import pickle
from datetime import UTC, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evsim.base.errors import TraceError
from evsim.base.units import MS_PER_DAY, MS_PER_HOUR, MS_PER_SECOND
from evsim.traces.availability import AvailabilityTrace
from evsim.traces.formats import _zones, columnar, csv, fedscale, flash, matrix
from evsim.traces.sources import load_availability, load_speed, recognize
from evsim.traces.speed import DeviceSpeed

ROWS = [("b", 10_000, 20_500), ("a", 86_400_000, 90_000_000), ("b", 5_000, 6_000), ("c", None, None), ("d 1", 0, 1)]
MIDNIGHT = datetime(2024, 3, 1, tzinfo=ZoneInfo("Europe/Berlin"))
PLAIN = csv.AvailabilityTrace.from_intervals(
    [0, 1, 0, 3],
    [10_000, 86_400_000, 5_000, 0],
    [20_500, 90_000_000, 6_000, 1],
    n_devices=4,
    period=2 * MS_PER_DAY,
    names=["b", "a", "c", "d 1"],
)


def clock(ms):
    seconds, rest = divmod(ms, 1000)
    return f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}.{rest:03d}"


def iso(ms, zone=None):
    instant = (MIDNIGHT.astimezone(UTC) + timedelta(milliseconds=ms)).astimezone(MIDNIGHT.tzinfo)
    text = instant.replace(tzinfo=None).isoformat(timespec="milliseconds") if zone is None else ""
    return text or instant.astimezone(zone).isoformat(timespec="milliseconds")


BEGIN_MS = int(MIDNIGHT.timestamp() * 1000)
BERLIN = {"timezone": "Europe/Berlin"}
#: Suffix of the columns, how a time is written, options of the reader.
NOTATIONS = {
    "seconds": ("_s", lambda ms: repr(ms / 1000), {}),
    "milliseconds": ("_ms", str, {}),
    "plain": ("", lambda ms: repr(ms / 1000), {}),
    "clock": ("", clock, {}),
    "local": ("", iso, BERLIN),
    "space": ("", lambda ms: iso(ms).replace("T", " "), BERLIN),
    "zoned": ("", lambda ms: iso(ms, timezone(timedelta(hours=5, minutes=30))), BERLIN),
    "zulu": ("", lambda ms: iso(ms, UTC).replace("+00:00", "Z"), {"origin": "2024-03-01T00:00:00+01:00"}),
    "no zone": ("", iso, {}),
    "unix": ("_s", lambda ms: f"{(BEGIN_MS + ms) / 1000:.3f}", BERLIN),
    "unix ms": ("_ms", lambda ms: str(BEGIN_MS + ms), {"origin": "2024-03-01", **BERLIN}),
    "unix of number": ("_s", lambda ms: f"{(BEGIN_MS + ms) / 1000:.3f}", {"origin": BEGIN_MS // 1000}),
}
CASES = {"lower": str, "Title": str.title, "UPPER": str.upper, "words": lambda name: f" {name.replace('_', ' ')} "}


def text_of(delimiter, notation, case, index, rows=ROWS):
    suffix, write, _ = NOTATIONS[notation]
    header = [CASES[case](name) for name in ("device", f"start{suffix}", f"stop{suffix}")]
    lines = [header] + [[name, *("" if t is None else write(t) for t in times)] for name, *times in rows]
    if index:
        lines = [["", *lines[0]]] + [[str(number), *line] for number, line in enumerate(lines[1:])]
    return "".join(f"{delimiter.join(line)}\n" for line in lines)


PRODUCT = list(itertools.product(",;\t|", (b"", codecs.BOM_UTF8), CASES, (False, True), NOTATIONS))


@pytest.mark.parametrize("notation", NOTATIONS)
def test_every_dialect_and_notation_gives_the_plain_trace(tmp_path, notation):
    path = tmp_path / "a.csv"
    for delimiter, mark, case, index, of in PRODUCT:
        if of != notation:
            continue
        path.write_bytes(mark + text_of(delimiter, notation, case, index).encode())
        assert recognize(path) == "csv"
        found = csv.read_availability(path, **NOTATIONS[notation][2])
        assert found.fingerprint() == PLAIN.fingerprint(), (delimiter, mark, case, index)
        assert found.names.tolist() == ["b", "a", "c", "d 1"]


@pytest.mark.parametrize("end", ["\r\n", "\r", "\n\n", "\n"])
def test_ends_of_lines_quotes_a_sep_line_and_gzip_change_nothing(tmp_path, end):
    text = text_of(";", "seconds", "lower", index=False).replace("d 1", '"d 1"')
    for number, content in enumerate((text, "sep=;\n" + text, "\n\n" + text)):
        raw = content.replace("\n", end).encode()
        (tmp_path / f"{number}.csv").write_bytes(raw)
        (tmp_path / f"{number}.csv.gz").write_bytes(gzip.compress(raw))
        for path in (tmp_path / f"{number}.csv", tmp_path / f"{number}.csv.gz"):
            assert recognize(path) == "csv"
            assert csv.read_availability(path).fingerprint() == PLAIN.fingerprint()


def test_what_had_to_be_assumed_of_dates_is_a_caveat(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text(text_of(",", "zoned", "lower", index=False))
    (note,) = csv.read_availability(path, timezone="Europe/Berlin").caveats
    assert (note.key, note.measure) == ("assumed_origin", "time 0 is 2024-03-01T00:00:00+01:00, zone Europe/Berlin")
    (note,) = csv.read_availability(path).caveats
    assert note.measure == "time 0 is 2024-02-29T00:00:00+00:00, zone UTC"  # 23:00 of the day before
    assert csv.read_availability(path, origin="2024-03-01", timezone="Europe/Berlin").caveats == ()


def test_pandas_frames_are_read_as_they_are_written(tmp_path):
    frame = pd.DataFrame(ROWS, columns=["Device", "Start (ms)", "Stop [ms]"])
    for number, options in enumerate(({}, {"index": False}, {"sep": "\t"}, {"encoding": "utf-8-sig", "sep": ";"})):
        frame.to_csv(tmp_path / f"{number}.csv", **options)
        found = load_availability(f"{number}.csv", n_devices=1, seed=0, folder=tmp_path)
        assert found.fingerprint() == PLAIN.fingerprint()
    pd.read_csv(tmp_path / "0.csv").to_csv(tmp_path / "again.csv", index=False)  # a column "Unnamed: 0"
    assert csv.read_availability(tmp_path / "again.csv").fingerprint() == PLAIN.fingerprint()
    indexed = pd.DataFrame(
        {"compute_ms_per_sample": [20.0, 30.0], "download_kbps": 5e3, "upload_kbps": 2e3}, ["x", "y"]
    )
    indexed.to_csv(tmp_path / "s.csv")  # the index has no name: it holds the devices
    speed = load_speed("s.csv", n_devices=1, seed=0, folder=tmp_path)
    assert (speed.names.tolist(), speed.compute_ms_per_sample.tolist()) == (["x", "y"], [20.0, 30.0])


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_speeds_in_every_dialect_with_latency(tmp_path, delimiter):
    lines = [
        "Device,Compute ms per sample,Download_kbps,UPLOAD-KBPS,Latency (ms)",
        "a,20,5000,2000,80",
        "b,3e1,6000,1e3,0.5",
    ]
    (tmp_path / "s.csv").write_text("\n".join(lines).replace(",", delimiter), encoding="utf-8-sig")
    speed = load_speed("s.csv", n_devices=1, seed=0, folder=tmp_path)
    expected = DeviceSpeed([20, 30], [5000, 6000], [2000, 1000], latency_ms=[80, 0.5])
    assert speed.fingerprint() == expected.fingerprint()
    assert speed.take([1, 1]).latency_ms.tolist() == [0.5, 0.5]
    assert speed.reference_ms()[0] == pytest.approx(20 * 1200 + 16_000 + 40_000 + 160)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff\xfed\x00e\x00", "UTF-16.*save as 'CSV UTF-8'"),
        (b"", "empty"),
        (b"device,start_s,stop_s\na,1,2\nb\xe9,3,4\n", "UTF-8"),
        (b"device;start_s;stop_s\na;1,5;2,5\n", r"start_s: '1,5'; expected a number; a decimal comma\? write a point"),
        (b"device,start_s,stop_s\na,1,5,2,5\n", r"line 2: 5 cells 'a,1,5,2,5'; expected 3 cells; decimal commas\?"),
        (b"device,Start,start\na,1,2\n", "two columns mean 'start'"),
        (b"device,start_s,stop_s\na,1709251200,1709254800\n", r"look like Unix time \(2024-03-01\)"),
        (b"device,start_s,stop_s\na,1709251200,1709254800\n", r'\{ path = "a.csv", timezone = "UTC" \}'),
        (b"device,start_ms,stop_ms\na,1709251200000,1709254800000\n", "look like Unix time"),
        (b"device,start_s,stop_s\na,1709251200000,1709254800000\n", r"Unix ms\? call the column start_ms"),
        (b"device,start_s,stop_s\na,00:10:00,01:10:00\n", r"line 2, start_s: '00:10:00'; expected a number; for clo"),
        (b"device,start,stop\na,00:10:00,2024-03-01\n", "start as clock times, stop as dates; expected one notation"),
        (b"device,start,stop\na,2024-03-01,2024-03-02T00:00:00Z\n", "a zone|one notation|before origin"),
        (b"device,start,stop\na,2024-03-01T00:00,2024-13-02T00:00\n", r"line 2, stop: '2024-13-02T00:00'; expected"),
        (b"device,start,stop\na,soon,later\n", r"start: 'soon'; expected a number, a time such as"),
        (b"device,start_s,stop_s\na,1e300,2e300\n", "before the year 2248"),
        (b"device,start_s,stop_s\na,nan,2\n", "line 2: one of start and stop is empty"),
        (b"device,start_s,stop_s\na,inf,inf\n", r"line 2, start_s: 'inf'; expected a number"),
        (b"device,start_s,stop_s,period_s\na,1,2,1e300\n", "a period of at most 1000 years"),
        (b"device,start_s,stop_s,period_s\na,1,2,\n", "a period of at most 1000 years"),
        (b"device,start_s,stop_s,kolour\na,1,2,red\n", r"unknown column 'kolour'.*\(known: device"),
        (b"device,strat_s,stop_s\na,1,2\n", r"unknown column 'strat_s'.*did you mean 'start_s'"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused_with_its_place(tmp_path, content, message):
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(TraceError, match=message) as caught:
        load_availability({"path": "a.csv", "format": "csv"}, n_devices=1, seed=0, folder=tmp_path)
    assert str(tmp_path / "a.csv") in str(caught.value)


@pytest.mark.parametrize("header", ["device,start_s,stop_s", "device,time,event\n\n", "device,start,stop\n"])
def test_a_file_without_rows_is_a_trace_without_devices(tmp_path, header):
    (tmp_path / "a.csv").write_text(header)
    assert csv.read_availability(tmp_path / "a.csv").n_devices == 0
    (tmp_path / "s.csv").write_text("device,compute_ms_per_sample,download_kbps,upload_kbps")
    assert csv.read_speed(tmp_path / "s.csv").n_devices == 0


def test_all_problems_of_a_file_are_listed_with_the_numbers_of_their_lines(tmp_path):
    lines = ["device,start_s,stop_s,colour", "a,1,2,red", "", "b,x,4,red", ",5,6,red", *["c,y,z,red"] * 9]
    (tmp_path / "a.csv").write_text("\n".join(lines))
    with pytest.raises(TraceError) as caught:
        csv.read_availability(tmp_path / "a.csv")
    text = str(caught.value)
    for part in ("unknown column 'colour'", "line 5, device: ''", "line 4, start_s: 'x'", "line 6, start_s: 'y'",
                 "line 6, stop_s: 'z'", "start_s: 5 more such lines", "stop_s: 4 more such lines"):  # fmt: skip
        assert part in text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"timezone": "Mars/Olympus"}, "timezone: 'Mars/Olympus' is no time zone"),
        ({"timezone": 3}, "timezone: 3 is no time zone"),
        ({"timezone": "../../etc/passwd"}, "is no time zone"),
        ({"origin": "yesterday"}, "origin: 'yesterday'; expected a date"),
        ({"origin": True}, "origin: True; expected a date"),
        ({"origin": 1e300}, "origin: 1e\\+300"),
        ({"origin": "2030-01-01"}, "before origin 2030-01-01T00:00:00"),
        ({"period": "-1d"}, "period: '-1d' is not a duration: it is negative"),
        ({"period": 0}, "period 0 ms"),
    ],
)
def test_options_that_cannot_be_used_are_refused(tmp_path, options, message):
    (tmp_path / "a.csv").write_text("device,start_s,stop_s\na,1709251200,1709254800\n")
    with pytest.raises(TraceError, match=message):
        csv.read_availability(tmp_path / "a.csv", **({"timezone": "UTC"} | options))


def test_seconds_since_the_start_have_no_time_zone(tmp_path):
    (tmp_path / "a.csv").write_text("device,start_s,stop_s\na,3600,7200\n")
    assert csv.read_availability(tmp_path / "a.csv", origin=3_600).starts.tolist() == [0]
    with pytest.raises(TraceError, match=r"times up to 7200 s .* leave timezone out"):
        csv.read_availability(tmp_path / "a.csv", timezone="Europe/Berlin")


def test_origin_and_timezone_are_not_for_clock_times(tmp_path):
    (tmp_path / "a.csv").write_text("device,start,stop\na,00:10:00,26:30:00\n")
    assert csv.read_availability(tmp_path / "a.csv").stops.tolist() == [26.5 * MS_PER_HOUR]
    with pytest.raises(TraceError, match="this file has clock times"):
        csv.read_availability(tmp_path / "a.csv", timezone="UTC")


# --- events ----------------------------------------------------------------------------------------------------------

WORDS = [("in", "out"), ("1", "0"), ("Check-In", "check out"), ("ONLINE", "offline"), ("true", "false"), ("1.0", "0.0")]


@pytest.mark.parametrize("words", WORDS)
def test_check_ins_and_check_outs_give_the_trace_of_their_intervals(tmp_path, words):
    events = [("a", 10, 0), ("b", 5, 1), ("a", 5, 1), ("b", 90, 0), ("a", 50, 1), ("a", 80, 0)]
    body = "".join(f"{name};{at};{words[1 - comes_in]}\n" for name, at, comes_in in events)
    (tmp_path / "e.csv").write_text("Device;Time_s;Event\n" + body)
    (tmp_path / "i.csv").write_text("device,start_s,stop_s\na,5,10\nb,5,90\na,50,80\n")
    assert recognize(tmp_path / "e.csv") == "csv"
    found = csv.read_availability(tmp_path / "e.csv")
    assert found.fingerprint() == csv.read_availability(tmp_path / "i.csv").fingerprint()
    assert (found.caveats, found.names.tolist()) == ((), ["a", "b"])


def test_logs_that_begin_or_end_in_the_middle_are_closed_and_repeats_are_counted(tmp_path):
    body = "a,20,out\na,30,in\na,35,in\nb,10,in\nb,15,out\nb,16,out\nc,90,in\n"
    (tmp_path / "e.csv").write_text("device,time_s,event\n" + body)
    found = csv.read_availability(tmp_path / "e.csv")
    assert (found.starts / 1000).tolist() == [10, 30, 10]
    assert (found.stops / 1000).tolist() == [20, 90, 15]
    assert [(note.key, note.measure) for note in found.caveats] == [
        ("open_sessions", "1 and 2 of 3 devices"),
        ("repeated_events", "2 events"),
    ]


def test_events_that_are_neither_in_nor_out_are_refused_with_their_lines(tmp_path):
    (tmp_path / "e.csv").write_text("device,time,event\na,1,in\na,2,sideways\na,,out\n")
    with pytest.raises(TraceError) as caught:
        csv.read_availability(tmp_path / "e.csv")
    assert "line 3, event: 'sideways'; expected in or out" in str(caught.value)
    assert "line 4, time: ''; expected a time" in str(caught.value)


@settings(max_examples=80, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 10_000))
def test_a_trace_written_as_intervals_events_or_dates_is_read_back(tmp_path, seed):
    draws = np.random.default_rng(seed)
    edges = [np.unique(draws.integers(0, 5_000, 2 * draws.integers(1, 6))) for _ in range(4)]
    rows = [
        (f"d{i}", int(a), int(b)) for i, each in enumerate(edges) for a, b in zip(each[:-1:2], each[1::2], strict=False)
    ]
    order = draws.permutation(len(rows))
    rows = [rows[place] for place in order]
    start, stop = (np.array([row[place] for row in rows]) * MS_PER_SECOND for place in (1, 2))
    names = list(dict.fromkeys(row[0] for row in rows))
    of = np.array([names.index(row[0]) for row in rows])
    expected = AvailabilityTrace.from_intervals(of, start, stop, n_devices=len(names), period=MS_PER_DAY, names=names)
    intervals, events, dates = io.StringIO(), io.StringIO(), io.StringIO()
    for name, a, b in rows:
        intervals.write(f"{name},{a},{b}\n")
        events.write(f"{name},{a},in\n{name},{b},out\n")
        at = [(datetime(2024, 3, 1) + timedelta(seconds=t)).isoformat() for t in (a, b)]  # noqa: DTZ001  local
        dates.write(f"{name},{at[0]},{at[1]}\n")
    (tmp_path / "i.csv").write_text("device,start_s,stop_s\n" + intervals.getvalue())
    (tmp_path / "e.csv").write_text("device,time_s,event\n" + events.getvalue())
    (tmp_path / "d.csv").write_text("device,start,stop\n" + dates.getvalue())
    for name in "ied":
        found = csv.read_availability(tmp_path / f"{name}.csv")
        assert found.fingerprint() == expected.fingerprint()
        assert found.names.tolist() == names


# --- matrices --------------------------------------------------------------------------------------------------------


def grid(seed, n=5, slots=48):
    return np.random.default_rng(seed).integers(0, 2, (n, slots))


@pytest.mark.parametrize("slot", ["1h", "30min"])
@pytest.mark.parametrize("way", ["npy", "fortran", "bool", "float", "plain", "names", "index", "times", "semicolon"])
def test_a_matrix_of_slots_says_who_is_online_when(tmp_path, slot, way):
    online = grid(1)
    path = tmp_path / ("m.npy" if way in ("npy", "fortran", "bool", "float") else "m.csv")
    ms = MS_PER_HOUR if slot == "1h" else MS_PER_HOUR // 2
    frame = pd.DataFrame(online, index=list("vwxyz"), columns=[f"h{i}" for i in range(48)])
    if path.suffix == ".npy":
        kinds = {"npy": np.int64, "fortran": np.uint8, "bool": np.bool_, "float": np.float32}
        np.save(path, np.asfortranarray(online.astype(kinds[way])) if way == "fortran" else online.astype(kinds[way]))
    elif way == "plain":
        np.savetxt(path, online, fmt="%d", delimiter=",")
    elif way == "names":
        frame.rename_axis("Device").to_csv(path, encoding="utf-8-sig")
    elif way == "times":
        frame.columns = [f"{i * ms // MS_PER_HOUR:02d}:{i * ms // 60_000 % 60:02d}" for i in range(48)]
        frame.to_csv(path)
    else:
        frame.to_csv(path, sep=";" if way == "semicolon" else ",")
    assert recognize(path) == "matrix"
    found = load_availability({"path": path.name, "slot": slot}, n_devices=1, seed=0, folder=tmp_path)
    instants = np.arange(48) * ms
    for shift in (0, ms - 1, 48 * ms):
        assert np.array_equal(found.is_online(np.arange(5)[:, None], instants + shift), online == 1)
    assert found.period.tolist() == [48 * ms] * 5
    named = way in ("names", "index", "times", "semicolon")
    assert (found.names.tolist() if named else found.names) == (list("vwxyz") if named else None)
    assert found.caveats == ()


def test_a_matrix_without_slot_is_taken_by_the_hour_and_says_so(tmp_path):
    np.save(tmp_path / "m.npy", grid(0))
    found = matrix.read_availability(tmp_path / "m.npy")
    assert found.period.tolist() == [2 * MS_PER_DAY] * 5
    assert [(note.key, note.measure) for note in found.caveats] == [("assumed_slot", "48 columns, a period of 2d")]
    (tmp_path / "t.csv").write_text("device,00:00,00:30,01:00\na,1,0,0\n")
    assert matrix.read_availability(tmp_path / "t.csv").stops.tolist() == [MS_PER_HOUR // 2]
    with pytest.raises(TraceError, match="slot: '1h'; expected 30min, the step of the file's columns"):
        matrix.read_availability(tmp_path / "t.csv", slot="1h")


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (np.array([[0, 1], [2, 0]]), "device 1, slot 0: 2; expected 0 or 1"),
        (np.array([[0, np.nan]]), "device 0, slot 1: nan"),
        (np.array([0, 1]), r"shape \(2,\); expected 0 and 1, devices x slots"),
        (np.array([["a", "b"]]), "expected 0 and 1"),
        (np.zeros((0, 3)), "expected 0 and 1"),
    ],
)
def test_a_matrix_of_anything_else_is_refused(tmp_path, made, message):
    np.save(tmp_path / "m.npy", made)
    with pytest.raises(TraceError, match=message):
        matrix.read_availability(tmp_path / "m.npy")


def test_an_array_that_lies_about_its_shape_or_holds_objects_is_refused_without_unpickling(tmp_path):
    path = tmp_path / "m.npy"
    np.save(path, np.zeros((2, 3), np.int8))
    path.write_bytes(path.read_bytes().replace(b"(2, 3)", b"(10**9,3)"[:6]))
    with pytest.raises(TraceError, match="not a readable NumPy array"):
        matrix.read_availability(path)
    header = b"{'descr': '|i1', 'fortran_order': False, 'shape': (1000000000000, 9), }"
    path.write_bytes(b"\x93NUMPY\x01\x00" + (len(header) + 1).to_bytes(2, "little") + header + b"\n" + b"\0" * 9)
    with pytest.raises(TraceError, match="not a readable NumPy array"):
        matrix.read_availability(path)
    np.save(path, np.array([[{}]], dtype=object), allow_pickle=True)
    with pytest.raises(TraceError, match="an array of object"):
        matrix.read_availability(path)


def test_cells_of_a_text_matrix_that_are_not_0_or_1_are_named(tmp_path):
    (tmp_path / "m.csv").write_text("device,0,1\na,1,0\nb,2,0\na,0,0\n")
    with pytest.raises(TraceError, match="line 3, 0: '2'; expected 0 or 1"):
        matrix.read_availability(tmp_path / "m.csv")
    (tmp_path / "m.csv").write_text("device,0,1\na,1,0\na,0,0\n")
    with pytest.raises(TraceError, match="device 'a' has two rows"):
        matrix.read_availability(tmp_path / "m.csv")
    with pytest.raises(TraceError, match="holds no device speeds"):
        matrix.read_speed(tmp_path / "m.csv")


# --- every format writes and reads one trace --------------------------------------------------------------------------


def test_names_latency_and_caveats_survive_evsims_own_format(tmp_path):
    (tmp_path / "a.csv").write_text(
        "device,start,stop\nx,2024-03-01T01:00,2024-03-01T02:00\ny,2024-03-01T01:00,2024-03-01T02:00\n"
    )
    trace = csv.read_availability(tmp_path / "a.csv")
    speed = DeviceSpeed([1, 2], [3, 4], [5, 6], latency_ms=[7, 0], names=["x", "y"])
    columnar.write(tmp_path / "made", availability=trace, speed=speed)
    found, fast = columnar.read_availability(tmp_path / "made"), columnar.read_speed(tmp_path / "made")
    assert found.fingerprint() == trace.fingerprint()
    assert fast.fingerprint() == speed.fingerprint()
    assert found.names.tolist() == fast.names.tolist() == ["x", "y"]
    assert found.caveats == trace.caveats != ()
    with pytest.raises(TraceError, match="device 0 is 'x' in availability and 'y' in speed"):
        columnar.write(tmp_path / "other", availability=trace, speed=speed.take([1, 0]))


@pytest.mark.parametrize("named", [False, True])
def test_a_trace_without_names_and_latency_is_written_as_version_1(tmp_path, named):
    trace = AvailabilityTrace.always(2)
    speed = DeviceSpeed([1, 2], [3, 4], [5, 6], names=["x", "y"] if named else None)
    columnar.write(tmp_path, availability=trace, speed=speed)
    assert columnar._manifest(tmp_path)["version"] == (2 if named else 1)
    assert (columnar.read_speed(tmp_path).names is None) == (not named)


def test_fedscales_numbers_are_no_names_and_flashs_are(tmp_path):
    record = {"active": [1], "inactive": [5], "finish_time": 86_400}
    (tmp_path / "t").write_bytes(pickle.dumps({7: record}))
    assert fedscale.read_availability(tmp_path / "t").names is None
    (tmp_path / "f.json").write_text('{"p1": {"messages": ""}, "p2": {"messages": null}, "p3": {"messages": [1]}}')
    found = flash.read_availability(tmp_path / "f.json")
    assert (found.names.tolist(), found.n_intervals) == (["p1", "p2", "p3"], 0)


@pytest.mark.parametrize("value", [1e300, -1e300, float("inf"), 1e18])
def test_times_beyond_64_bits_are_refused_and_never_wrap(tmp_path, value):
    (tmp_path / "t").write_bytes(pickle.dumps({7: {"active": [0.0], "inactive": [value], "finish_time": 86_400}}))
    with pytest.raises(TraceError, match="device 7: active and inactive must be finite"):
        fedscale.read_availability(tmp_path / "t")
    (tmp_path / "t").write_bytes(pickle.dumps({7: {"active": [0.0], "inactive": [1.0], "finish_time": value}}))
    with pytest.raises(TraceError, match="device 7: finish_time"):
        fedscale.read_availability(tmp_path / "t")
    record = {"isSuccess": True, "trace_start": 0, "trace_end": value, "ready_time": [[0, 1]]}
    (tmp_path / "c.json").write_text(
        str({"9": record}).replace("'", '"').replace("True", "true").replace("inf", "Infinity")
    )
    with pytest.raises(TraceError, match="trace_start and trace_end must be finite"):
        flash.read_availability(tmp_path / "c.json")


def test_flash_drop_leaves_nobody_who_is_never_ready_and_says_how_many_are_gone(tmp_path):
    ready = [[3_600, 7_200]]
    timers = {
        "whole": {"isSuccess": True, "trace_start": 0, "trace_end": 86_400, "ready_time": ready},
        "short": {"isSuccess": True, "trace_start": 0, "trace_end": 9_000, "ready_time": ready},
        "empty": {"isSuccess": True, "trace_start": 0, "trace_end": 86_400, "ready_time": [[5, 5]]},
        "late": {"isSuccess": True, "trace_start": 0, "trace_end": 90_000, "ready_time": [[87_000, 88_000]]},
        "none": {"isSuccess": False},
    }
    (tmp_path / "c.json").write_text(str(timers).replace("'", '"').replace("True", "true").replace("False", "false"))
    kept, dropped = (flash.read_availability(tmp_path / "c.json", never_ready=rule) for rule in ("keep", "drop"))
    assert kept.names.tolist() == list(timers)
    assert dropped.names.tolist() == ["whole"]
    assert dropped.fingerprint() == kept.take([0]).fingerprint()
    assert [(note.key, note.measure) for note in dropped.caveats] == [("dropped_devices", "4 of 5 devices")]
    assert kept.caveats == ()
    (tmp_path / "n.json").write_text('{"none": {"isSuccess": false}}')
    with pytest.raises(TraceError, match="no device is ever ready"):
        flash.read_availability(tmp_path / "n.json", never_ready="drop")


def test_a_million_devices_without_names_carry_none():
    trace = AvailabilityTrace.always(1_000_000)
    assert trace.take(np.arange(10)).names is None
    assert DeviceSpeed.uniform(1_000_000, compute_ms_per_sample=1, download_kbps=1, upload_kbps=1).names is None


def test_a_file_larger_than_the_limit_is_refused(tmp_path, monkeypatch):
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(b"device,start_s,stop_s\n" + b"a,1,2\n" * 1000))
    monkeypatch.setattr("evsim.traces.formats._files.MOST_BYTES", 1_000)
    with pytest.raises(TraceError, match="larger than 1 kB unpacked"):
        csv.read_availability(tmp_path / "a.csv.gz")


@settings(
    max_examples=200, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.text(st.characters(max_codepoint=0x2FF), max_size=120) | st.text('ade,vict;srop_\n"0159.-:T ', max_size=120))
def test_any_text_is_read_or_refused_in_words(tmp_path, text):
    (tmp_path / "a.csv").write_text("device,start,stop\n" + text, encoding="utf-8")
    for reader in (csv.read_availability, csv.read_speed, matrix.read_availability):
        with contextlib.suppress(TraceError):
            reader(tmp_path / "a.csv")


# --- clocks that are changed ------------------------------------------------------------------------------------------

#: A zone, a local time that comes twice, the UTC times it may mean, and one that never comes: both sides of the
#: equator, a change of half an hour, and changes at midnight.
CHANGES = [
    ("Europe/Berlin", "2024-10-27T02:30", "2024-10-27T00:30", "2024-10-27T01:30", "2024-03-31T02:30"),
    ("America/New_York", "2024-11-03T01:00", "2024-11-03T05:00", "2024-11-03T06:00", "2024-03-10T02:00"),
    ("Australia/Sydney", "2024-04-07T02:59", "2024-04-06T15:59", "2024-04-06T16:59", "2024-10-06T02:00"),
    ("America/Santiago", "2024-04-06T23:15", "2024-04-07T02:15", "2024-04-07T03:15", "2024-09-08T00:59"),
    ("Australia/Lord_Howe", "2024-04-07T01:45", "2024-04-06T14:45", "2024-04-06T15:15", "2024-10-06T02:15"),
    ("America/Havana", "2024-11-03T00:00", "2024-11-03T04:00", "2024-11-03T05:00", "2024-03-10T00:30"),
]
ZONES = [each[0] for each in CHANGES]


def utc_ms(text):
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


@pytest.mark.parametrize(("zone", "twice", "early", "late", "never"), CHANGES, ids=ZONES)
def test_a_local_time_that_comes_twice_is_the_earlier_one_and_told(tmp_path, zone, twice, early, late, never):
    del never
    day, path = twice[:10], tmp_path / "a.csv"
    rows = [f"a,{day}T12:00,{day}T13:00", "", f"b,{twice},2025-01-01", "c,,", f"d,2024-01-01T00:00,{twice}:00.5"]
    path.write_text("\n".join(["device,start,stop", *rows]))
    found = csv.read_availability(path, timezone=zone, origin="1970-01-01T00:00Z")
    (note,) = found.caveats
    assert (note.key, zone in note.text) == ("repeated_hour", True)
    assert note.measure == f"2 times, first in line 4, start {twice}"
    assert found.starts[found.offsets[1]] == utc_ms(early)
    path.write_text(f"device,start,stop\na,{early}Z,{late}Z\n")
    sure = csv.read_availability(path, timezone=zone, origin="1970-01-01T00:00Z")
    assert (sure.starts.tolist(), sure.stops.tolist(), sure.caveats) == ([utc_ms(early)], [utc_ms(late)], ())


@pytest.mark.parametrize(("zone", "twice", "early", "late", "never"), CHANGES, ids=ZONES)
def test_a_local_time_that_never_comes_is_refused(tmp_path, zone, twice, early, late, never):
    del early, late
    path = tmp_path / "a.csv"
    path.write_text(f"device,start,stop\na,2024-01-01,2024-01-02\nb,2024-01-01,{never}\nc,2024-01-01,{never}:10\n")
    with pytest.raises(TraceError, match=rf"line 3, stop: '{never}'.*exists in {zone}.*\(2 such .*write times in UTC"):
        csv.read_availability(path, timezone=zone)
    path.write_text("device,start,stop\na,2025-01-01,2025-01-02\n")
    for origin, what in ((twice, "comes twice"), (never, "never comes")):
        with pytest.raises(TraceError, match=f"origin: {origin}:00 {what} in {zone}"):
            csv.read_availability(path, timezone=zone, origin=origin)


@given(st.sampled_from(CHANGES), st.sampled_from([1, 4]), st.integers(-7200, 7200))
@settings(deadline=None, max_examples=60)
def test_local_times_are_instants_as_the_standard_library_has_them(change, which, seconds):
    zone, local = change[0], datetime.fromisoformat(change[which]) + timedelta(seconds=seconds)
    first, second = (local.replace(tzinfo=ZoneInfo(zone), fold=fold) for fold in (0, 1))
    there = first.astimezone(UTC).astimezone(ZoneInfo(zone)).replace(tzinfo=None) == local
    found = _zones.instants(pa.array([local.isoformat(timespec="microseconds")]), np.array([True]), zone)
    assert bool(found.never[0]) is not there
    assert bool(found.twice[0]) is (there and first.utcoffset() != second.utcoffset())
    if there:
        assert abs(found.ms[0] - first.timestamp() * 1000) <= 0.5


def test_a_stop_before_its_start_in_a_repeated_hour_says_why(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("device,start,stop\na,2024-10-27T02:50,2024-10-27T02:10\n")
    with pytest.raises(
        TraceError, match=r"come twice in Europe/Berlin.*2 times, first in line 2.*UTC or with an offset"
    ):
        csv.read_availability(path, timezone="Europe/Berlin")


BARE = {
    "names": "p0,0,1,1,0\np1,1,1,0,0\n",
    "names, all of the first online": "p0,1,1,1,1\np1,1,1,0,0\n",
    "semicolons": "p0;0;1;1;0\np1;1;1;0;0\n",
    "numbers from 0": "0,0,1,1,0\n1,1,1,0,0\n2,0,0,0,1\n",
    "numbers from 17": "17,0,1,1,0\n18,1,1,0,0\n",
}


@pytest.mark.parametrize("given_format", [None, "matrix"])
@pytest.mark.parametrize("name", BARE)
def test_a_matrix_with_devices_and_without_a_line_of_names_is_told_what_it_looks_like(tmp_path, name, given_format):
    (tmp_path / "m.csv").write_text(BARE[name])
    spec = {"path": "m.csv"} | ({} if given_format is None else {"format": given_format})
    with pytest.raises(TraceError, match=r"looks like a matrix of 0 and 1.*such as device,00:00,01:00,\.\.\."):
        load_availability(spec, n_devices=1, seed=0, folder=tmp_path)
    comma = ";" if name == "semicolons" else ","
    header = comma.join(["device", "00:00", "01:00", "02:00", "03:00"])
    (tmp_path / "m.csv").write_text(f"{header}\n{BARE[name]}")  # as it says
    found = load_availability(spec, n_devices=1, seed=0, folder=tmp_path)
    assert found.names.tolist() == [line.split(comma)[0] for line in BARE[name].splitlines()]
    assert found.caveats == ()


def test_a_matrix_is_told_how_else_it_can_be_read(tmp_path):
    (tmp_path / "m.csv").write_text("0 1 1\n1 0 0\n")
    with pytest.raises(TraceError, match=r"a matrix of 0 and 1.* with spaces between its cells; expected commas"):
        load_availability("m.csv", n_devices=1, seed=0, folder=tmp_path)
    (tmp_path / "m.csv").write_text("0,1,1\n1,0,0\n")
    with pytest.raises(TraceError, match='no line of names; it looks like a matrix of 0 and 1: say format = "matrix"'):
        load_availability({"path": "m.csv", "format": "csv"}, n_devices=1, seed=0, folder=tmp_path)
    (tmp_path / "m.csv").write_text("0.5,0.25\n0.1,0\n")  # shares are no matrix of 0 and 1, and nothing is said of one
    with pytest.raises(TraceError, match="not a trace of a known format; say which with format"):
        load_availability("m.csv", n_devices=1, seed=0, folder=tmp_path)


@pytest.mark.parametrize("text", ["device,0,1\na,1,1\nb,0,1\n", ",0,1\na,1,1\nb,0,1\n", "id,1,1.0\na,1,1\nb,0,1\n"])
def test_slots_may_be_called_0_and_1(tmp_path, text):
    (tmp_path / "m.csv").write_text(text)
    assert load_availability({"path": "m.csv", "slot": 60}, n_devices=1, seed=0, folder=tmp_path).n_devices == 2
