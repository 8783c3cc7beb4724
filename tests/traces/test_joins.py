"""Identity: a phone keeps its own pair, a list decides, and what is drawn apart is said."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evsim.base.errors import PolicyError, TraceError
from evsim.base.units import MS_PER_DAY, MS_PER_HOUR
from evsim.traces.availability import AvailabilityTrace
from evsim.traces.caveats import availability_caveats, period_caveats
from evsim.traces.joins.base import nth_use
from evsim.traces.population import Listed, Modulo, Paired, Sample, populate
from evsim.traces.speed import DeviceSpeed


def trace(names, days=3):
    """Device i of `names` is online in minute i of its own hour, so that clients tell which device they are."""
    n = len(names)
    begin = np.arange(n) * 60_000
    return AvailabilityTrace.from_intervals(
        np.arange(n), begin, begin + 30_000, n_devices=n, period=days * MS_PER_DAY, names=names
    )


def speeds(names, rate=1_000.0):
    n = len(names)
    return DeviceSpeed(np.arange(n) + 1.0, rate + np.arange(n), np.full(n, 500.0), names=names)


def unnamed(part):
    arrays = (part.offsets, part.starts, part.stops, part.period) if isinstance(part, AvailabilityTrace) else None
    if arrays:
        return AvailabilityTrace(*arrays)
    return DeviceSpeed(part.compute_ms_per_sample, part.download_kbps, part.upload_kbps)


def join(policy, availability, speed, n_clients, seed=0, **options):
    return populate(
        n_clients=n_clients,
        availability=availability,
        speed=speed,
        join=policy,
        sizes=np.ones(n_clients, np.int64),
        seed=seed,
        start_ms=0,
        **options,
    )


def keys(population):
    return [note.key for note in population.notes]


NAMES = st.lists(st.text("abcdef-01", min_size=1, max_size=4), min_size=1, max_size=12, unique=True)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(NAMES, NAMES, st.integers(1, 30), st.integers(0, 5))
def test_paired_keeps_every_pair_of_the_devices_that_both_files_name(available, fast, n_clients, seed):
    common = set(available) & set(fast)
    if not common:
        with pytest.raises(TraceError, match="no device of availability") as caught:
            join(None, trace(available), speeds(fast), n_clients, seed)
        assert repr(available[0]) in str(caught.value)
        assert repr(fast[0]) in str(caught.value)
        return
    found = join(None, trace(available), speeds(fast), n_clients, seed)
    assert found.join == Paired()
    called = [available[device] for device in found.device]
    assert called == [fast[device] for device in found.speed_device]
    assert found.availability.names.tolist() == found.speed.names.tolist() == called
    assert set(called) <= common
    assert len(set(called)) == min(n_clients, len(common))
    assert found.speed.compute_ms_per_sample.tolist() == [fast.index(name) + 1.0 for name in called]
    assert "independent_pairs" not in keys(found)
    assert ("unpaired_devices" in keys(found)) == (len(available) != len(fast) or len(common) != len(fast))


def test_paired_says_how_many_devices_of_each_file_were_left_out():
    found = join(None, trace(["a", "b", "c"]), speeds(["c", "d"]), 1)
    notes = {note.key: note.measure for note in found.notes}
    assert notes["unpaired_devices"] == "2 of 3 have no speed, 1 of 2 no availability"


def test_with_the_same_devices_paired_draws_the_availability_that_sample_draws():
    names = list("abcdefgh")
    paired, sampled = (join(policy, trace(names), speeds(names), 20) for policy in (Paired(), Sample()))
    assert paired.device.tolist() == sampled.device.tolist()
    assert paired.availability.fingerprint() == sampled.availability.fingerprint()


def test_only_two_named_files_are_paired_by_default_and_what_is_drawn_apart_is_said():
    names = list("abcdefgh")
    for available, fast in (
        (unnamed(trace(names)), speeds(names)),
        (trace(names), unnamed(speeds(names))),
        (unnamed(trace(names)), unnamed(speeds(names))),
    ):
        found = join(None, available, fast, 8)
        assert found.join == Sample()
        note = next(note for note in found.notes if note.key == "independent_pairs")
        assert note.measure == f"{int((found.device != found.speed_device).sum())} of 8 clients"
        assert "paired" in note.remedy
        with pytest.raises(TraceError, match=r"paired, but the devices of \w+ have no names; .*sample"):
            join(Paired(), available, fast, 8)


@pytest.mark.parametrize("same", ["speed", "availability"])
def test_where_all_devices_are_alike_there_is_nothing_to_pair(same):
    names = list("abcdefgh")
    fast = DeviceSpeed.uniform(8, compute_ms_per_sample=1, download_kbps=1, upload_kbps=1)
    found = join(
        None,
        AvailabilityTrace.always(8) if same == "availability" else trace(names),
        fast if same == "speed" else speeds(names),
        8,
    )
    assert "independent_pairs" not in keys(found)


def test_two_devices_of_one_name_cannot_be_paired():
    with pytest.raises(TraceError, match=r"population\.speed: two devices are called 'a'"):
        join(Paired(), trace(["a", "b"]), speeds(["a", "a"]), 1)


def test_a_list_decides_whose_phone_it_is(tmp_path):
    (tmp_path / "pairs.csv").write_text("Device;Client\nc;1\na;0\nc;2\n")
    available, fast = trace(["a", "b", "c"]), speeds(["c", "b", "a"])
    for policy in (Listed(file="pairs.csv"), Listed(devices_of=("a", "c", "c"))):
        found = join(policy, available, fast, 3, folder=tmp_path)
        assert found.device.tolist() == [0, 2, 2]
        assert found.speed_device.tolist() == [2, 0, 0]
        assert found.clone.tolist() == [0, 0, 1]
        assert {note.key: note.measure for note in found.notes}["lockstep"] == "2 of 3 clients"


def test_devices_without_names_are_listed_by_number_or_drawn_beside_named_ones():
    available, fast = trace(["a", "b", "c"]), speeds(["a", "b", "c"])
    by_number = join(Listed(devices_of=("2", "0")), unnamed(available), unnamed(fast), 2)
    assert by_number.device.tolist() == by_number.speed_device.tolist() == [2, 0]
    mixed = [join(Listed(devices_of=("c", "a")), available, unnamed(fast), 2, seed) for seed in range(9)]
    assert {tuple(found.device) for found in mixed} == {(2, 0)}
    assert len({tuple(found.speed_device) for found in mixed}) > 1


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("client,device\n0,a\n1,b\n", "rows of client 2: 0; expected one row per client"),
        ("client,device\n0,a\n1,b\n2,c\n2,a\n", "rows of client 2: 2"),
        ("client,device\n0,a\n1,b\n3,c\n", r"line 4, client: '3'; expected the number of a client, 0 to 2"),
        ("client,device\n0,a\n1,b\nx,c\n", r"line 4, client: 'x'; expected a number"),
        ("client,device\n0,a\n1,bb\n2,c\n", r"client 1: 'bb'; expected a device of availability; did you mean 'b'"),
        ("client,phone\n0,a\n1,b\n2,c\n", "no column 'device'"),
    ],
)
def test_a_list_that_does_not_fit_is_refused(tmp_path, rows, message):
    (tmp_path / "pairs.csv").write_text(rows)
    with pytest.raises(TraceError, match=message):
        join(Listed(file="pairs.csv"), trace(["a", "b", "c"]), speeds(["a", "b", "c"]), 3, folder=tmp_path)


def test_a_list_is_a_file_or_a_table():
    with pytest.raises(PolicyError, match="one of file and devices_of is needed"):
        Listed()
    with pytest.raises(TraceError, match="1 devices for 2 clients"):
        join(Listed(devices_of=("a",)), trace(["a"]), speeds(["a"]), 2)
    with pytest.raises(TraceError, match="no such file"):
        join(Listed(file="none.csv"), trace(["a"]), speeds(["a"]), 2)


@given(st.lists(st.integers(0, 4), max_size=30))
def test_the_nth_use_of_a_device_counts_the_clients_before(devices):
    expected = [devices[:place].count(device) for place, device in enumerate(devices)]
    assert nth_use(np.array(devices, np.int64)).tolist() == expected


def test_clones_that_are_moved_are_not_in_lockstep_and_copies_are():
    names = [str(i) for i in range(10)]
    available, fast = unnamed(trace(names)), unnamed(speeds(names))
    assert "lockstep" not in keys(join(Sample(), available, fast, 30))
    notes = {note.key: note.measure for note in join(Modulo(), available, fast, 13).notes}
    assert notes["lockstep"] == "6 of 13 clients"


def test_devices_that_are_always_or_never_online_are_in_no_lockstep():
    empty = AvailabilityTrace.from_intervals([], np.zeros(0, int), np.zeros(0, int), n_devices=2, period=MS_PER_DAY)
    for source in (AvailabilityTrace.always(2), empty):
        assert "lockstep" not in keys(join(Modulo(), source, unnamed(speeds(["a", "b"])), 6))


# --- a run and its trace ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("horizon", "times"), [(3 * MS_PER_DAY, None), (3 * MS_PER_DAY + 1, "1.0"), (9 * MS_PER_DAY, "3.0")]
)
def test_a_run_longer_than_its_trace_says_how_often_it_repeats(horizon, times):
    found = period_caveats(trace(["a", "b"]), horizon)
    assert [note.key for note in found] == ([] if times is None else ["repeated_period"])
    if times is not None:
        assert found[0].measure == f"{times} periods of 3d for 2 of 2 devices"
        assert "3d" in found[0].remedy


def test_devices_that_never_change_repeat_nothing():
    assert period_caveats(AvailabilityTrace.always(4), 100 * MS_PER_DAY) == []


def test_a_trace_in_unix_time_is_empty_for_long_and_nobody_is_online_in_the_run():
    day = 19_783 * MS_PER_DAY
    odd = AvailabilityTrace.from_intervals(
        [0, 1], [day, day + MS_PER_DAY], [day + 1, day + MS_PER_DAY + 1], n_devices=2, period=day + 2 * MS_PER_DAY
    )
    found = {note.key: note for note in availability_caveats(odd, 0, MS_PER_DAY)}
    assert set(found) == {"nobody_online", "empty_stretch"}
    assert "first 19783d and the last 1d of 19785d" in found["empty_stretch"].measure
    assert "first after 19783d" in found["nobody_online"].measure
    assert [note.key for note in availability_caveats(odd, day - 1, MS_PER_DAY)] == ["empty_stretch"]


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.integers(0, 99), st.integers(0, 3_000), st.integers(0, 300))
def test_nobody_is_online_exactly_where_no_instant_of_the_run_has_anybody(seed, start, length):
    draws = np.random.default_rng(seed)
    begin = draws.integers(0, 900, 3)
    sparse = AvailabilityTrace.from_intervals([0, 0, 1], begin, begin + 20, n_devices=3, period=[1_000, 1_700, 50])
    instants = np.arange(start, start + length + 1)
    anybody = bool(sparse.is_online(np.arange(3)[:, None], instants).any())
    found = [note.key for note in availability_caveats(sparse, start, length)]
    assert ("nobody_online" in found) == (not anybody)


def test_ordinary_traces_have_no_caveat_of_the_run():
    night = AvailabilityTrace.from_intervals(
        [0], [22 * MS_PER_HOUR], [30 * MS_PER_HOUR], n_devices=1, period=MS_PER_DAY
    )
    assert availability_caveats(night, 18 * MS_PER_HOUR, MS_PER_DAY) == []
    assert availability_caveats(AvailabilityTrace.always(3), 0, MS_PER_DAY) == []


def test_a_population_of_nobody_says_so():
    empty = AvailabilityTrace.from_intervals([], np.zeros(0, int), np.zeros(0, int), n_devices=2, period=MS_PER_DAY)
    (only,) = availability_caveats(empty, 0, MS_PER_DAY)
    assert "online never" in only.measure
