"""Generators of devices, calibrated on real phones; any number of devices, any number of days.

Availability follows 710 phones of the FLASH collection (Yang et al., "Characterizing Impacts of Heterogeneity in
Federated Learning upon Large-Scale Smartphone Data", WWW 2021), online meaning locked, charging and on WiFi. Speed
follows 51,496 records of FedScale's device capacities (Lai et al., ICML 2022). The parameters were fitted to figures;
no third-party record is contained.

Every draw is a function of the seed and the device's number: the first devices of a large population are those of a
small one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import final

import numpy as np

from evsim.base import rng
from evsim.base.casts import whole
from evsim.base.errors import TraceError, require
from evsim.base.units import LONGEST, MS_PER_DAY, MS_PER_SECOND
from evsim.base.vocabulary import FloatArray, IntArray
from evsim.traces._episodes import Episodes, poisson_process
from evsim.traces.availability import AvailabilityTrace
from evsim.traces.speed import DeviceSpeed

_SECONDS_PER_DAY = 86_400.0
_SECONDS_PER_HOUR = 3_600.0
_BLOCK = 25_000  # devices generated at a time, to bound the memory
_MOST_DAYS = 36_525
_MOST_A_DAY = 1_000  # episodes of the mean device: more of them do not fit into memory, nor into a day
_MOST_SD = 10.0  # of a logarithm: a factor of 22,000
_MOST_LOG_S = 50.0  # e^50 s are 10^14 years
_MOST_NIGHT_H = 1_000.0

# Episodes begun in each hour of the day, relative to each other.
_HOURLY_WEIGHTS = (
    *(0.0485, 0.0423, 0.0359, 0.0193, 0.0275, 0.0503, 0.0536, 0.0565, 0.0509, 0.0540, 0.0527, 0.0608),
    *(0.0665, 0.0645, 0.0686, 0.0876, 0.0875, 0.0996, 0.1079, 0.0796, 0.0832, 0.0837, 0.0779, 0.0642),
)
# Quantiles 0, 5, ..., 100 % of FedScale's device capacities.
_COMPUTE_MS = (15, 19, 21, 23, 23, 24, 25, 27, 28, 31, 41, 50, 64, 118, 138, 148, 154, 159, 174, 189, 199)
_KBPS = (
    *(1017, 1393, 1818, 2026, 2255, 2856, 3503, 4203, 4799, 5232, 6075),
    *(7037, 8418, 9683, 11837, 13882, 19751, 26863, 32546, 51663, 204057),
)


@final
@dataclass(frozen=True, kw_only=True)
class SyntheticAvailability:
    """Phones that are locked, charging and on WiFi: charging episodes, cut into sessions by interruptions.

    Opportunistic episodes come as an inhomogeneous Poisson process whose rate differs between devices (gamma);
    overnight episodes come on some nights to the devices that have the habit. Inside an episode the device is online
    for a blip or a longer session, away for an interruption, and so on.

    Attributes:
        days: length of the trace and period after which it repeats.
        episodes_per_day: opportunistic episodes of the mean device.
        rate_shape: gamma shape of the devices' episode rates; smaller is more unequal.
        hourly_weights: how often episodes begin in each hour 0 to 23, relative to each other.
        episode_log_mean: mean of the log of an opportunistic episode's seconds.
        episode_log_sd: its standard deviation within a device.
        device_log_sd: standard deviation of the log of a device's length factor.
        night_share: share of devices that have the habit of charging overnight.
        night_alpha: with `night_beta`, the Beta distribution of the share of nights on which they do.
        night_beta: see `night_alpha`.
        night_start_h: mean start of the night, hours after midnight.
        night_start_device_sd_h: its standard deviation over devices, hours.
        night_start_sd_h: its standard deviation over the nights of a device, hours.
        night_median_h: median length of an overnight episode, hours.
        night_log_sd: standard deviation of the log of that length.
        blip_share: share of sessions that are blips.
        blip_median_s: median of the log-normal length of a blip, seconds.
        blip_log_sd: standard deviation of the log of that length.
        session_mean_s: mean of the exponential length of the other sessions, seconds, in opportunistic episodes.
        night_session_mean_s: the same in overnight episodes.
        interruption_log_mean: mean of the log of an interruption's seconds.
        interruption_log_sd: its standard deviation.
        never_online: share of devices that never come online; 0.29 as in FLASH's 1,000.
        time_zone_spread_h: local clocks are uniform over this many hours; 0 aligns them.
        scale: multiplies the rate of episodes and the share of nights (up to every night).
    """

    days: int = 7
    episodes_per_day: float = 1.277
    rate_shape: float = 1.725
    hourly_weights: tuple[float, ...] = _HOURLY_WEIGHTS
    episode_log_mean: float = 7.38
    episode_log_sd: float = 0.593
    device_log_sd: float = 0.72
    night_share: float = 0.521
    night_alpha: float = 1.273
    night_beta: float = 1.445
    night_start_h: float = 23 / 60
    night_start_device_sd_h: float = 4.61
    night_start_sd_h: float = 1.2
    night_median_h: float = 8.37
    night_log_sd: float = 0.4
    blip_share: float = 0.298
    blip_median_s: float = 11.0
    blip_log_sd: float = 0.85
    session_mean_s: float = 3_295.0
    night_session_mean_s: float = 14_241.0
    interruption_log_mean: float = 6.10
    interruption_log_sd: float = 1.14
    never_online: float = 0.0
    time_zone_spread_h: float = 0.0
    scale: float = 1.0

    def __post_init__(self) -> None:
        require(1 <= self.days <= _MOST_DAYS, f"days must lie in [1, {_MOST_DAYS}]", days=self.days)
        weights = self.hourly_weights
        usable = len(weights) == 24 and all(0 <= weight < math.inf for weight in weights) and sum(weights) > 0  # noqa: PLR2004  hours
        require(usable, "hourly_weights must be 24 numbers >= 0 with a positive sum", hourly_weights=weights)
        _check_numbers(
            self,
            shares=("night_share", "blip_share", "never_online"),
            positive=(
                *("rate_shape", "night_alpha", "night_beta", "night_median_h"),
                *("blip_median_s", "session_mean_s", "night_session_mean_s"),
            ),
            any_sign=("episode_log_mean", "night_start_h", "interruption_log_mean"),
        )
        bounds: tuple[tuple[float, tuple[str, ...]], ...] = (
            (_MOST_A_DAY, ("episodes_per_day", "scale")),
            (_MOST_SD, ("episode_log_sd", "device_log_sd", "night_log_sd", "blip_log_sd", "interruption_log_sd")),
            (_MOST_LOG_S, ("episode_log_mean", "interruption_log_mean")),
            (_MOST_NIGHT_H, ("night_median_h",)),
        )
        for most, names in bounds:
            for name in names:
                require(getattr(self, name) <= most, f"{name} must be <= {most:g}", **{name: getattr(self, name)})
        rate = self.episodes_per_day * self.scale
        require(rate <= _MOST_A_DAY, f"episodes_per_day * scale must be <= {_MOST_A_DAY}", rate=rate)

    @classmethod
    def charging_only(cls, days: int = 7) -> SyntheticAvailability:
        """Phones that count as online whenever they charge, about FedScale's level. Uncalibrated.

        No statistics of FedScale's own trace could be computed: the parameters are chosen so that the mean device is
        online for about two fifths of the time in a few long sessions, as in the one record that is public.
        """
        whole = 1e9  # sessions never end before their episode does
        return cls(
            days=days,
            night_share=1.0,
            night_alpha=8.0,
            night_beta=1.0,
            night_median_h=9.5,
            blip_share=0.0,
            session_mean_s=whole,
            night_session_mean_s=whole,
        )

    def generate(self, n: int, seed: int) -> AvailabilityTrace:
        """The availability of `n` devices, from midnight of the first day."""
        key = rng.key(seed, "synthetic", "availability")
        blocks = [np.arange(first, min(first + _BLOCK, n), dtype=np.int64) for first in range(0, max(n, 1), _BLOCK)]
        return AvailabilityTrace.concatenate([self._generate(devices, key) for devices in blocks])

    def _generate(self, devices: IntArray, key: int) -> AvailabilityTrace:
        by_day, by_night = self._opportunistic(devices, key), self._overnight(devices, key)
        parts = [
            _sessions(self, by_day, self.session_mean_s, rng.key(key, "day")),
            _sessions(self, by_night, self.night_session_mean_s, rng.key(key, "night")),
        ]
        device, start, length = (np.concatenate(column) for column in zip(*parts, strict=True))
        start = start + self.time_zone_spread_h * _SECONDS_PER_HOUR * (_uniform(key, "time_zone", device) - 0.5)
        kept = _uniform(key, "never", device) >= self.never_online
        row = device[kept] - devices[:1]
        return _to_trace(row, start[kept], length[kept], len(devices), self.days * MS_PER_DAY)

    def _opportunistic(self, everyone: IntArray, key: int) -> Episodes:
        from scipy.special import gammaincinv

        rate = gammaincinv(self.rate_shape, _uniform(key, "rate", everyone)) / self.rate_shape
        expected = rate * self.episodes_per_day * self.scale * self.days
        device, ordinal, share = poisson_process(everyone, expected, rng.key(key, "arrivals"))
        days_passed = share * self.days
        start = np.floor(days_passed) * _SECONDS_PER_DAY + self._time_of_day(days_passed % 1.0)
        factor = self.device_log_sd * _normal(key, "length", device)
        log_length = self.episode_log_mean + factor + self.episode_log_sd * _normal(key, "episode", device, ordinal)
        return Episodes(device, ordinal, start, np.exp(log_length))

    def _time_of_day(self, share: FloatArray) -> FloatArray:
        """Seconds after midnight by which this share of a day's episodes has begun."""
        cumulative = np.concatenate([[0.0], np.cumsum(self.hourly_weights)])
        return np.asarray(np.interp(share * cumulative[-1], cumulative, np.arange(25) * _SECONDS_PER_HOUR))

    def _overnight(self, everyone: IntArray, key: int) -> Episodes:
        from scipy.special import betaincinv

        habit = everyone[_uniform(key, "habit", everyone) < self.night_share]
        share = self.scale * betaincinv(self.night_alpha, self.night_beta, _uniform(key, "nights", habit))
        happens = _uniform(key, "night", habit[:, None], np.arange(self.days)) < share[:, None]
        row, night = np.nonzero(happens)
        device = habit[row]
        usual = self.night_start_h + self.night_start_device_sd_h * _normal(key, "usual", device)
        start = usual + self.night_start_sd_h * _normal(key, "start", device, night) + 24 * night
        length = self.night_median_h * np.exp(self.night_log_sd * _normal(key, "night_length", device, night))
        return Episodes(device, night, start * _SECONDS_PER_HOUR, length * _SECONDS_PER_HOUR)


@final
@dataclass(frozen=True, kw_only=True)
class SyntheticSpeed:
    """Phones by the inverse distribution functions of FedScale's device capacities.

    Attributes:
        upload_ratio: upload rate as a share of the download rate; 0.7 is the median of FLASH's phones.
        rank_correlation: Spearman correlation between computing fast and having a fast link; FedScale's is 0.
        compute_jitter: standard deviation of the log of a task's compute factor.
        network_jitter: the same for its transfers; 0.35 is that of transfers of a minute over WiFi and 4G (Lumos).
    """

    upload_ratio: float = 0.7
    rank_correlation: float = 0.0
    compute_jitter: float = 0.1
    network_jitter: float = 0.35

    def __post_init__(self) -> None:
        _check_numbers(self, shares=(), positive=("upload_ratio",), any_sign=("rank_correlation",))
        require(
            abs(self.rank_correlation) <= 1,
            "rank_correlation must lie in [-1, 1]",
            rank_correlation=self.rank_correlation,
        )

    def generate(self, n: int, seed: int) -> DeviceSpeed:
        """The speed of `n` devices."""
        from scipy.special import ndtr

        key = rng.key(seed, "synthetic", "speed")
        everyone = np.arange(n, dtype=np.int64)
        link, own = _normal(key, "link", everyone), _normal(key, "compute", everyone)
        pearson = 2 * math.sin(math.pi * self.rank_correlation / 6)  # of normals with that Spearman correlation
        pace = pearson * link + math.sqrt(max(0.0, 1 - pearson**2)) * own
        download = _quantile(_KBPS, ndtr(link))
        compute = _quantile(_COMPUTE_MS, ndtr(-pace))
        return DeviceSpeed(compute, download, self.upload_ratio * download, self.compute_jitter, self.network_jitter)


def _check_numbers(
    policy: object, *, shares: tuple[str, ...], positive: tuple[str, ...], any_sign: tuple[str, ...]
) -> None:
    """Check every float field: shares in [0, 1], positive ones > 0, those of any sign finite, all others >= 0."""
    for field in fields(policy):  # type: ignore[arg-type]  # both callers are dataclasses
        value = getattr(policy, field.name)
        if isinstance(value, tuple):
            continue
        require(math.isfinite(value), f"{field.name} must be finite", **{field.name: value})
        if field.name in shares:
            require(0 <= value <= 1, f"{field.name} must lie in [0, 1]", **{field.name: value})
        elif field.name in positive:
            require(value > 0, f"{field.name} must be > 0", **{field.name: value})
        elif field.name not in any_sign:
            require(value >= 0, f"{field.name} must be >= 0", **{field.name: value})


def _uniform(key: int, name: str, *columns: IntArray) -> FloatArray:
    return rng.uniform(rng.key(key, name), *columns)


def _normal(key: int, name: str, *columns: IntArray) -> FloatArray:
    return rng.normal(rng.key(key, name), *columns)


def _sessions(
    model: SyntheticAvailability, episodes: Episodes, mean_s: float, key: int
) -> tuple[IntArray, FloatArray, FloatArray]:
    """Device, start and length (s) of the sessions inside episodes; one step per session, all episodes at once."""
    device, ordinal, at = episodes.device, episodes.ordinal, episodes.start
    end = at + episodes.length
    found = [(device[:0], at[:0], at[:0])]
    step = 0
    while len(device):
        names = (device, ordinal, np.full(1, step, np.int64))
        blip = model.blip_median_s * np.exp(model.blip_log_sd * _normal(key, "session", *names))
        longer = -mean_s * np.log(_uniform(key, "session", *names))
        length = np.where(_uniform(key, "blip", *names) < model.blip_share, blip, longer)
        found.append((device, at, np.minimum(length, end - at)))
        away = np.exp(model.interruption_log_mean + model.interruption_log_sd * _normal(key, "away", *names))
        at = at + length + away
        going = at < end
        device, ordinal, at, end = device[going], ordinal[going], at[going], end[going]
        step += 1
    columns = [np.concatenate(column) for column in zip(*found, strict=True)]
    return columns[0], columns[1], columns[2]


def _to_trace(device: IntArray, start: FloatArray, length: FloatArray, n: int, period: int) -> AvailabilityTrace:
    begin = whole(start * MS_PER_SECOND, _refuse_session, least=-LONGEST, most=LONGEST)
    end = whole((start + length) * MS_PER_SECOND, _refuse_session, least=-LONGEST, most=LONGEST)
    kept = end > begin
    begin, end, device = begin[kept], np.minimum(end, begin + period)[kept], device[kept]
    first = begin % period
    trace = AvailabilityTrace.from_intervals(device, first, first + end - begin, n_devices=n, period=period)
    # Episodes overlap by design; their union is the trace, not a repair worth reporting.
    return AvailabilityTrace(trace.offsets, trace.starts, trace.stops, trace.period)


def _refuse_session(_row: int) -> TraceError:
    return TraceError("the parameters make sessions that begin or end more than 1000 years away")


def _quantile(table: tuple[int, ...], share: FloatArray) -> FloatArray:
    """The inverse distribution function at each share, geometric between the table's equidistant quantiles."""
    return np.asarray(np.exp(np.interp(share, np.linspace(0, 1, len(table)), np.log(table))))
