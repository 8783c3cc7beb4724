"""A trace in words and numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from evsim.base import rng
from evsim.base.units import MS_PER_DAY, MS_PER_HOUR, format_duration

if TYPE_CHECKING:
    from collections.abc import Callable

    from evsim.base.vocabulary import FloatArray, IntArray
    from evsim.traces.availability import AvailabilityTrace
    from evsim.traces.population import Population
    from evsim.traces.speed import DeviceSpeed

Facts = dict[str, str]

_LEVELS = (0.1, 0.25, 0.5, 0.75, 0.9)
_GRID_MS = 10 * 60_000


def describe_trace(availability: AvailabilityTrace | None, speed: DeviceSpeed | None) -> Facts:
    """What a reader wants to know of a trace, as text, in reading order.

    >>> from evsim.traces.availability import AvailabilityTrace
    >>> facts = describe_trace(AvailabilityTrace.always(3), None)
    >>> facts["devices"], facts["always online"], facts["online, mean device"]
    ('3 (1 distinct)', '3', '100.0 %')
    """
    facts = {} if availability is None else _describe_availability(availability)
    facts |= {} if speed is None else _describe_speed(speed)
    parts = [part for part in (availability, speed) if part is not None]
    named = next((part.names for part in parts if part.names is not None), None)
    if named is not None and len(named):
        facts["names"] = f"{named[0]!r} to {named[-1]!r}"
    assumed = [str(caveat) for part in parts for caveat in part.caveats]
    return facts | ({"assumed": ". ".join(assumed)} if assumed else {})


def describe_population(population: Population) -> Facts:
    """The clients of a scenario: how many devices stand behind them, and what the reader should know."""
    facts = {
        "clients": f"{len(population.device):,}",
        "distinct devices behind them": f"{len(np.unique(population.device)):,} (availability), "
        f"{len(np.unique(population.speed_device)):,} (speed)",
        "clones": f"{int((population.clone > 0).sum()):,}",
        **describe_trace(population.availability, population.speed),
    }
    return facts | ({"notes": ". ".join(map(str, population.notes))} if population.notes else {})


def as_text(facts: Facts) -> str:
    """Facts as a table of two columns."""
    width = max(map(len, facts), default=0)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in facts.items())


def hourly_share(trace: AvailabilityTrace) -> FloatArray:
    """The share of device-time online in each hour of the day, (24,); periods must be whole days."""
    online = _time_by_hour(trace.stops) - _time_by_hour(trace.starts)
    return online / _time_by_hour(trace.period)


def online_counts(trace: AvailabilityTrace, instants: IntArray) -> IntArray:
    """How many devices are online at each of some ascending instants, ms; streams through the trace day by day."""
    at, before = int(instants[0]), int(trace.is_online(np.arange(trace.n_devices), int(instants[0])).sum())
    counts = []
    for begin in range(at, int(instants[-1]) + 1, MS_PER_DAY):
        edges = trace.edges(begin + 1, begin + MS_PER_DAY + 1)
        running = before + np.concatenate([np.zeros(1, np.int64), np.cumsum(np.where(edges.check_in, 1, -1))])
        asked = instants[(instants >= begin) & (instants < begin + MS_PER_DAY)]
        counts.append(running[np.searchsorted(edges.at, asked, side="right")])
        before = int(running[-1])
    return np.concatenate(counts)


def grid(trace: AvailabilityTrace) -> IntArray:
    """Instants every ten minutes over the longest period of the trace, four weeks at most, ms."""
    longest = min(int(trace.period.max(initial=MS_PER_DAY)), 28 * MS_PER_DAY)
    return np.arange(0, longest, _GRID_MS, dtype=np.int64)


def _time_by_hour(until: IntArray) -> FloatArray:
    """Time that falls into each hour of the day between 0 and some instants, summed over the instants, ms."""
    days, rest = np.divmod(until, MS_PER_DAY)
    partly = [np.clip(rest - hour * MS_PER_HOUR, 0, MS_PER_HOUR).sum() for hour in range(24)]
    return np.asarray(partly, dtype=np.float64) + float(days.sum()) * MS_PER_HOUR


def _describe_availability(trace: AvailabilityTrace) -> Facts:
    share = trace.online_share()
    facts = {
        "devices": f"{trace.n_devices:,} ({_distinct(trace):,} distinct)",
        "intervals": f"{trace.n_intervals:,} ({trace.merged:,} merged, {trace.dropped:,} empty ones dropped)",
        "period": _period(trace),
        "never online": f"{int((share == 0).sum()):,}",
        "always online": f"{int((share == 1).sum()):,}",
    }
    if trace.n_devices == 0:
        return facts
    facts["online, mean device"] = _percent(float(share.mean()))
    facts["online, device quantiles"] = _quantiles(share, _percent)
    if trace.n_intervals == 0 or (share % 1 == 0).all():
        return facts
    if trace.period_is_whole_days():
        facts |= _describe_hours(hourly_share(trace))
    counts = online_counts(trace, grid(trace))
    facts["online at once"] = f"{counts.min():,} at least, {counts.mean():,.0f} on average, {counts.max():,} at most"
    length = (trace.stops - trace.starts).astype(np.float64)
    facts["session length, quantiles"] = _quantiles(length, lambda ms: format_duration(round(ms, -2)))
    facts["sessions per device and day"] = (
        f"{np.sum(np.diff(trace.offsets) / trace.period) * MS_PER_DAY / len(share):.2f}"
    )
    return facts


def _describe_hours(hourly: FloatArray) -> Facts:
    most, least = int(hourly.argmax()), int(hourly.argmin())
    return {
        "online by hour 0..23, %": " ".join(f"{100 * value:.1f}" for value in hourly),
        "busiest and quietest hour": ", ".join(f"{h:02d}:00 {_percent(hourly[h])}" for h in (most, least)),
    }


def _describe_speed(speed: DeviceSpeed) -> Facts:
    if speed.n_devices == 0:
        return {"devices with a speed": "0"}
    rates = (speed.compute_ms_per_sample, speed.download_kbps, speed.upload_kbps, speed.latency_ms)
    columns = np.stack(rates, axis=1)
    return {
        "devices with a speed": f"{speed.n_devices:,} ({len(np.unique(columns, axis=0)):,} distinct)",
        "compute, ms per sample": _quantiles(speed.compute_ms_per_sample, "{:.4g}".format),
        "download, kbit/s": _quantiles(speed.download_kbps, "{:,.0f}".format),
        "upload, kbit/s": _quantiles(speed.upload_kbps, "{:,.0f}".format),
        **({"latency, ms": _quantiles(speed.latency_ms, "{:.4g}".format)} if speed.latency_ms.any() else {}),
        "jitter, sd of the log": f"{speed.compute_jitter:g} compute, {speed.network_jitter:g} network",
    }


def _distinct(trace: AvailabilityTrace) -> int:
    """How many devices differ in intervals or period; by a 64-bit hash of each, so wrong once in 10^19 pairs."""
    per_interval = rng.hash64(0, trace.starts, trace.stops)
    total = np.concatenate([np.zeros(1, np.uint64), np.cumsum(per_interval, dtype=np.uint64)])
    return len(np.unique(rng.hash64(0, total[trace.offsets[1:]] - total[trace.offsets[:-1]], trace.period)))


def _period(trace: AvailabilityTrace) -> str:
    if trace.n_devices == 0:
        return "none"
    shortest, longest = int(trace.period.min()), int(trace.period.max())
    text = format_duration(shortest)
    if longest != shortest:
        text = f"{text} to {format_duration(longest)}, each device its own"
    return text if trace.period_is_whole_days() else f"{text}; not whole days: the time of day drifts"


def _quantiles(values: FloatArray, say: Callable[[float], str]) -> str:
    parts = [f"{level:.0%} {say(value)}" for level, value in zip(_LEVELS, np.quantile(values, _LEVELS), strict=True)]
    return ", ".join(parts)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
