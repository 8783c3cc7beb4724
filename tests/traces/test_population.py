"""Who gets which device."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

from evsim.base.errors import PolicyError, TraceError
from evsim.base.units import MS_PER_DAY, MS_PER_HOUR, MS_PER_MINUTE
from evsim.traces.availability import AvailabilityTrace
from evsim.traces.population import Modulo, RankJoin, Sample, populate
from evsim.traces.speed import DeviceSpeed


def trace(n, days=7, hours=6, seed=0):
    """One session of `hours` per device and day, at a time of its own."""
    start = np.random.default_rng(seed).integers(0, 18 * MS_PER_HOUR, (n, days)) + np.arange(days) * MS_PER_DAY
    length = np.linspace(1, hours * MS_PER_HOUR, n).astype(np.int64)[:, None]
    return AvailabilityTrace.from_intervals(
        np.repeat(np.arange(n), days),
        start.ravel(),
        (start + length).ravel(),
        n_devices=n,
        period=days * MS_PER_DAY,
    )


def speeds(n, seed=1):
    rates = np.random.default_rng(seed).uniform(1_000, 50_000, n)
    return DeviceSpeed(np.random.default_rng(seed + 1).uniform(15, 199, n), rates, 0.7 * rates)


def join(policy, n_clients, *, n_devices=50, sizes=None, seed=0, start_ms=0):
    return populate(
        n_clients=n_clients,
        availability=trace(n_devices),
        speed=speeds(n_devices),
        join=policy,
        sizes=np.ones(n_clients, np.int64) if sizes is None else sizes,
        seed=seed,
        start_ms=start_ms,
    )


def keys(population):
    return [note.key for note in population.notes]


def test_modulo_gives_client_i_device_i_modulo_n_and_exact_copies():
    found = join(Modulo(), 7, n_devices=3)
    assert found.device.tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert found.clone.tolist() == [0, 0, 0, 1, 1, 1, 2]
    assert found.speed_device.tolist() == found.device.tolist()
    again = trace(3).take(found.device)
    assert found.availability.fingerprint() == again.fingerprint()
    assert keys(found) == ["clones", "lockstep"]  # modulo pairs equal numbers: no independent pairs
    assert found.notes[0].measure == "4 of 7 clients; the trace has 3 devices"
    assert found.notes[1].measure == "7 of 7 clients"


def test_sample_uses_each_device_once_before_it_clones():
    found = join(Sample(), 120)
    assert sorted(found.device[:50].tolist()) == list(range(50))
    assert sorted(found.device[50:100].tolist()) == list(range(50))
    assert np.unique(found.device[100:]).size == 20
    assert found.clone.tolist() == [0] * 50 + [1] * 50 + [2] * 20


def test_availability_and_speed_are_drawn_independently():
    found = join(Sample(), 50)
    assert (found.device != found.speed_device).sum() > 40
    assert abs(spearmanr(found.device, found.speed_device).statistic) < 0.4  # sd 0.14: beyond it once in 200 seeds


def test_another_seed_deals_other_devices_and_the_same_seed_the_same():
    assert join(Sample(), 40).device.tolist() == join(Sample(), 40).device.tolist()
    assert join(Sample(), 40).device.tolist() != join(Sample(), 40, seed=1).device.tolist()


def test_clones_live_on_another_day_with_edges_moved_by_minutes_at_most():
    found = join(Sample(), 300)
    source, rows = trace(50), np.arange(300)
    exact = source.take(found.device, found.clone % 7 * MS_PER_DAY)
    assert found.availability.n_intervals == exact.n_intervals
    for got, want in ((found.availability.starts, exact.starts), (found.availability.stops, exact.stops)):
        moved = np.abs(got - want)[np.repeat(found.clone, np.diff(exact.offsets)) > 0]
        assert moved.max() <= 5 * MS_PER_MINUTE
        assert np.median(moved) > MS_PER_MINUTE
    originals = rows[found.clone == 0]
    assert found.availability.take(originals).fingerprint() == source.take(found.device[originals]).fingerprint()
    assert np.unique([found.availability.take([i]).fingerprint() for i in rows]).size == 300


def test_clones_of_always_online_and_never_online_and_crowded_devices_stay_valid():
    crowded = np.arange(0, 2000, 2)
    source = AvailabilityTrace.from_intervals(
        np.concatenate([np.zeros(len(crowded), np.int64), [1]]),
        np.concatenate([crowded, [0]]),
        np.concatenate([crowded + 1, [MS_PER_DAY]]),
        n_devices=3,
        period=MS_PER_DAY,
    )
    found = populate(
        n_clients=9,
        availability=source,
        speed=speeds(4),
        join=Sample(),
        sizes=np.ones(9, np.int64),
        seed=0,
        start_ms=7,
    )
    share = found.availability.online_share()
    assert (share[found.device == 1] == 1.0).all()
    assert (share[found.device == 2] == 0.0).all()
    assert {note.key: note.measure for note in found.notes}["never_online"] == "3 of 9 clients"


def test_virtual_time_zero_is_the_time_of_day_of_the_start():
    evening = join(Modulo(), 50, start_ms=18 * MS_PER_HOUR)
    clients = np.arange(50)
    for hour in range(0, 180, 5):
        instant = hour * MS_PER_HOUR
        expected = trace(50).is_online(clients, instant + 18 * MS_PER_HOUR)
        assert evening.availability.is_online(clients, instant).tolist() == expected.tolist()


@pytest.mark.parametrize("correlation", [-1.0, -0.6, 0.0, 0.5, 1.0])
@pytest.mark.parametrize("axis", ["speed", "availability"])
def test_rank_join_reaches_the_chosen_spearman_correlation(correlation, axis):
    n = 4_000
    sizes = np.random.default_rng(3).permutation(n)
    found = join(RankJoin(correlation=correlation, with_=axis), n, n_devices=n, sizes=sizes)
    quality = -found.speed.reference_ms() if axis == "speed" else found.availability.online_share()
    other = found.availability.online_share() if axis == "speed" else -found.speed.reference_ms()
    # standard error of Spearman's rho at n = 4,000 is 0.016: four of them
    assert spearmanr(sizes, quality).statistic == pytest.approx(correlation, abs=0.064 * (1 - correlation**2) + 1e-9)
    assert abs(spearmanr(sizes, other).statistic) < 0.064
    assert np.unique(found.device).size == n


def scored(policy, n=3_000, folder=Path(), **named):
    arguments = {"availability": trace(n), "speed": speeds(n), "sizes": np.ones(n, np.int64), "seed": 0, "start_ms": 0}
    return populate(n_clients=n, join=policy, folder=folder, **arguments, **named)


@pytest.mark.parametrize("correlation", [-0.8, 0.0, 1.0])
@pytest.mark.parametrize("axis", ["speed", "availability"])
@pytest.mark.parametrize("kind", ["label", "file"])
def test_rank_join_reaches_the_correlation_with_a_score_of_the_data(tmp_path, kind, axis, correlation):
    n = 3_000
    score = np.random.default_rng(3).permutation(n) / n
    options = {"correlation": correlation, "with_": axis}
    if kind == "label":
        asked = []
        found = scored(RankJoin(score="label:7", **options), label_share=lambda label: (asked.append(label), score)[1])
        assert asked == [7]
    else:
        rows = [f"{client},{score[client]}" for client in range(n)]
        (tmp_path / "c.csv").write_text("\n".join(["client,age", *rows[::-1]]), encoding="utf-8")
        found = scored(RankJoin(score="age", file="c.csv", **options), folder=tmp_path)
    quality = -found.speed.reference_ms() if axis == "speed" else found.availability.online_share()
    # standard error of Spearman's rho at n = 3,000 is 0.018: four of them
    assert spearmanr(score, quality).statistic == pytest.approx(correlation, abs=0.073 * (1 - correlation**2) + 1e-9)


def test_a_score_changes_who_gets_a_device_of_its_axis_and_no_other_draw():
    plain, by_size = scored(Sample()), scored(RankJoin(correlation=0.5))
    by_label = scored(RankJoin(correlation=0.5, score="label:0"), label_share=lambda _: np.linspace(0, 1, 3_000))
    np.testing.assert_array_equal(by_label.device, plain.device)
    np.testing.assert_array_equal(by_size.device, plain.device)
    np.testing.assert_array_equal(np.sort(by_label.speed_device), np.sort(plain.speed_device))
    assert not np.array_equal(by_label.speed_device, by_size.speed_device)


def test_scores_that_there_are_not_are_refused(tmp_path):
    with pytest.raises(PolicyError, match="score must be 'samples', 'label:' and a number, or a column of a file"):
        RankJoin(correlation=0.5, score="labels")
    with pytest.raises(TraceError, match=r"population\.join\.score: 'label:3', but there are no data"):
        scored(RankJoin(correlation=0.5, score="label:3"))
    with pytest.raises(TraceError, match=r"c\.csv: no such file; expected a CSV with columns client and age"):
        scored(RankJoin(correlation=0.5, score="age", file="c.csv"), folder=tmp_path)
    (tmp_path / "c.csv").write_text("client,size\n0,1", encoding="utf-8")
    with pytest.raises(TraceError, match="no column 'age'"):
        scored(RankJoin(correlation=0.5, score="age", file="c.csv"), folder=tmp_path)


def test_rank_join_of_equal_sizes_does_not_favor_low_ids():
    found = join(RankJoin(correlation=1.0), 4_000, n_devices=4_000)
    assert abs(spearmanr(np.arange(4_000), found.speed.reference_ms()).statistic) < 0.064


def test_impossible_correlation_is_refused():
    with pytest.raises(PolicyError, match=r"correlation must lie in \[-1, 1\], but got correlation=1.5"):
        RankJoin(correlation=1.5)
    with pytest.raises(PolicyError, match="correlation=nan"):
        RankJoin(correlation=float("nan"))
    with pytest.raises(PolicyError, match="with_='colour'"):
        RankJoin(correlation=0.5, with_="colour")


def test_a_period_that_is_not_whole_days_is_noted():
    source = AvailabilityTrace.from_intervals([0, 1], [1, 1], [9, 9], n_devices=2, period=[MS_PER_DAY, 1000])
    arguments = {"speed": speeds(2), "join": Modulo(), "sizes": np.ones(2, np.int64), "seed": 0, "start_ms": 0}
    found = populate(n_clients=2, availability=source, **arguments)
    assert [(note.key, note.measure) for note in found.notes] == [("drifting_time_of_day", "1 of 2 devices")]


def test_no_clients_no_devices_and_wrong_sizes_are_refused():
    with pytest.raises(TraceError, match="0 clients; expected at least one"):
        join(Sample(), 0)
    with pytest.raises(TraceError, match="3 data sizes for 4 clients"):
        join(Sample(), 4, sizes=np.ones(3, np.int64))
    with pytest.raises(TraceError, match="without devices"):
        join(Sample(), 4, n_devices=0)
