"""The generators against the figures of the real phones (reference figures of FLASH and FedScale)."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import spearmanr

from evsim.base.errors import PolicyError
from evsim.base.units import MS_PER_DAY, MS_PER_HOUR
from evsim.traces import synthetic
from evsim.traces.synthetic import SyntheticAvailability, SyntheticSpeed

N = 3_000


@pytest.fixture(scope="module")
def phones():
    return SyntheticAvailability().generate(N, seed=0)


def hourly_share(trace):
    days = int(trace.period[0]) // MS_PER_DAY
    instants = np.arange(0, days * MS_PER_DAY, MS_PER_HOUR // 12)
    online = [trace.is_online(np.arange(trace.n_devices), int(at)).mean() for at in instants]
    return np.reshape(online, (days, 24, 12)).mean(axis=(0, 2))


def test_mean_and_median_device_are_online_as_much_as_real_phones(phones):
    share = phones.online_share()
    assert 0.09 < share.mean() < 0.12
    assert 0.03 < np.median(share) < 0.08
    assert 0.2 < np.quantile(share, 0.9) < 0.32


def test_nights_are_twice_as_busy_as_afternoons(phones):
    hourly = hourly_share(phones)
    assert 1.9 < hourly.max() / hourly.min() < 2.6
    assert 2 <= hourly.argmax() <= 7
    assert 12 <= hourly.argmin() <= 18


def test_sessions_are_as_long_and_as_many_as_real_ones(phones):
    seconds = (phones.stops - phones.starts) / 1_000
    assert 2.6 < len(seconds) / N / 7 < 3.4
    quantiles = np.quantile(seconds, [0.25, 0.5, 0.75, 0.9, 0.99])
    assert (quantiles > [15, 350, 2_000, 6_500, 25_000]).all()
    assert (quantiles < [45, 1_000, 3_200, 11_000, 40_000]).all()


def test_a_device_online_now_stays_as_long_as_a_real_one(phones):
    draws = np.random.default_rng(0)
    device, at = draws.integers(0, N, 200_000), draws.integers(0, 7 * MS_PER_DAY, 200_000)
    left = (phones.online_until(device, at) - at)[phones.is_online(device, at)]
    assert 0.91 < (left >= 300_000).mean() < 0.95
    assert 0.97 < (left >= 60_000).mean() < 0.99
    assert 0.5 < (left >= 3_600_000).mean() < 0.65


def test_edges_have_millisecond_resolution(phones):
    assert 0.08 < (phones.starts % 10 == 7).mean() < 0.12
    assert np.unique(phones.stops % 1_000).size == 1_000


def test_a_large_population_begins_with_the_small_one(phones):
    assert SyntheticAvailability().generate(20, seed=0).fingerprint() == phones.take(np.arange(20)).fingerprint()
    assert SyntheticAvailability().generate(20, seed=1).fingerprint() != phones.take(np.arange(20)).fingerprint()
    small, large = SyntheticSpeed().generate(5, seed=0), SyntheticSpeed().generate(50, seed=0)
    assert small.download_kbps.tolist() == large.download_kbps[:5].tolist()


def test_generating_in_blocks_changes_nothing(phones, monkeypatch):
    monkeypatch.setattr(synthetic, "_BLOCK", 700)
    assert SyntheticAvailability().generate(N, seed=0).fingerprint() == phones.fingerprint()


def test_never_online_share_leaves_the_other_devices_as_they_were(phones):
    some = SyntheticAvailability(never_online=0.29).generate(N, seed=0)
    gone = np.diff(some.offsets) == 0
    assert 0.27 < gone.mean() < 0.33  # a few devices have no session by chance
    kept = np.flatnonzero(~gone)
    assert some.take(kept).fingerprint() == phones.take(kept).fingerprint()


def test_time_zones_over_the_whole_day_flatten_the_curve(phones):
    hourly = hourly_share(SyntheticAvailability(time_zone_spread_h=24.0).generate(N, seed=0))
    assert hourly.max() / hourly.min() < 1.25
    assert np.isclose(hourly.mean(), hourly_share(phones).mean(), rtol=0.02)


def test_scale_moves_the_level_up_and_down(phones):
    half = SyntheticAvailability(scale=0.5).generate(N, seed=0).online_share().mean()
    assert 0.45 < half / phones.online_share().mean() < 0.55
    assert SyntheticAvailability(scale=0.0).generate(10, seed=0).n_intervals == 0
    assert 0.35 < SyntheticAvailability.charging_only().generate(N, seed=0).online_share().mean() < 0.45


def test_one_day_traces_are_possible():
    day = SyntheticAvailability(days=1).generate(N, seed=0)
    assert 0.08 < day.online_share().mean() < 0.13
    assert set(day.period.tolist()) == {MS_PER_DAY}


def test_no_devices_is_an_empty_trace():
    assert SyntheticAvailability().generate(0, seed=0).n_devices == 0
    assert SyntheticSpeed().generate(0, seed=0).n_devices == 0


def test_speeds_follow_the_quantiles_of_fedscales_devices():
    speed = SyntheticSpeed().generate(20_000, seed=0)
    levels = [0.05, 0.25, 0.5, 0.75, 0.95]
    compute, download = np.quantile(speed.compute_ms_per_sample, levels), np.quantile(speed.download_kbps, levels)
    assert np.allclose(compute, [19, 24, 41, 148, 189], rtol=0.05)
    assert np.allclose(download, [1_393, 2_856, 6_075, 13_882, 51_663], rtol=0.05)
    assert speed.compute_ms_per_sample.min() >= 15
    assert speed.download_kbps.max() <= 204_057
    assert np.allclose(speed.upload_kbps, 0.7 * speed.download_kbps)
    assert (speed.compute_jitter, speed.network_jitter) == (0.1, 0.35)


@pytest.mark.parametrize("correlation", [-0.5, 0.0, 0.4, 1.0])
def test_fast_phones_have_fast_links_as_much_as_asked(correlation):
    speed = SyntheticSpeed(rank_correlation=correlation).generate(20_000, seed=2)
    found = spearmanr(-speed.compute_ms_per_sample, speed.download_kbps).statistic
    assert found == pytest.approx(correlation, abs=0.03)  # standard error 0.007


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"days": 0}, r"days must lie in \[1, 36525\]"),
        ({"hourly_weights": (1.0,) * 23}, "24 numbers"),
        ({"hourly_weights": (0.0,) * 24}, "24 numbers"),
        ({"night_share": 1.5}, r"night_share must lie in \[0, 1\]"),
        ({"session_mean_s": 0.0}, "session_mean_s must be > 0"),
        ({"interruption_log_mean": float("nan")}, "interruption_log_mean must be finite"),
        ({"device_log_sd": -0.1}, "device_log_sd must be >= 0"),
        ({"scale": -1.0}, "scale must be >= 0"),
        ({"scale": 1e9}, "scale must be <= 1000"),
        ({"scale": 100.0, "episodes_per_day": 100.0}, r"episodes_per_day \* scale must be <= 1000"),
        ({"episodes_per_day": 1e9}, "episodes_per_day must be <= 1000"),
        ({"night_log_sd": 1e300}, "night_log_sd must be <= 10"),
        ({"episode_log_mean": 1e9}, "episode_log_mean must be <= 50"),
        ({"night_median_h": 1e9}, "night_median_h must be <= 1000"),
    ],
)
def test_impossible_parameters_are_refused(changes, message):
    with pytest.raises(PolicyError, match=message):
        SyntheticAvailability(**changes)


def test_impossible_speed_parameters_are_refused():
    with pytest.raises(PolicyError, match=r"rank_correlation must lie in \[-1, 1\]"):
        SyntheticSpeed(rank_correlation=-1.5)
    with pytest.raises(PolicyError, match="upload_ratio must be > 0"):
        SyntheticSpeed(upload_ratio=0.0)
