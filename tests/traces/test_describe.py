"""Words, numbers and a picture of a trace."""

from __future__ import annotations

import numpy as np
import pytest

from evsim.base.errors import TraceError
from evsim.base.units import MS_PER_DAY, MS_PER_HOUR, MS_PER_MINUTE
from evsim.traces.availability import AvailabilityTrace
from evsim.traces.describe import as_text, describe_population, describe_trace, hourly_share, online_counts
from evsim.traces.plot import plot_trace
from evsim.traces.population import Sample, populate
from evsim.traces.speed import DeviceSpeed
from evsim.traces.synthetic import SyntheticAvailability, SyntheticSpeed


def two_nights():
    """Device 0 is online 22:00 to 02:00 on the first of two days, device 1 always, device 2 never, 3 as 0."""
    start = [22 * MS_PER_HOUR, 0, 22 * MS_PER_HOUR]
    stop = [26 * MS_PER_HOUR, 2 * MS_PER_DAY, 26 * MS_PER_HOUR]
    return AvailabilityTrace.from_intervals([0, 1, 3], start, stop, n_devices=4, period=2 * MS_PER_DAY)


def test_description_counts_devices_and_time():
    facts = describe_trace(two_nights(), None)
    assert facts["devices"] == "4 (3 distinct)"
    assert facts["intervals"] == "3 (0 merged, 0 empty ones dropped)"
    assert (facts["never online"], facts["always online"], facts["period"]) == ("1", "1", "2d")
    assert facts["online, mean device"] == "29.2 %"  # (1 + 2 / 12) / 4
    assert facts["online at once"].startswith("1 at least, 1 on average, 3 at most")
    assert facts["busiest and quietest hour"] == "00:00 50.0 %, 02:00 25.0 %"
    assert facts["session length, quantiles"].startswith("10% 4h, 25% 4h, 50% 4h")
    assert as_text({"a": "1", "long name": "2"}) == "a          1\nlong name  2"


def test_hourly_share_is_exact():
    hourly = hourly_share(two_nights())
    expected = np.full(24, 0.25)
    expected[[22, 23, 0, 1]] = 0.5
    assert hourly.tolist() == expected.tolist()


def test_online_counts_equal_asking_every_device():
    trace = SyntheticAvailability(days=3).generate(200, seed=0)
    instants = np.arange(5, 8 * MS_PER_DAY, 37 * MS_PER_MINUTE)
    expected = [int(trace.is_online(np.arange(200), int(at)).sum()) for at in instants]
    assert online_counts(trace, instants).tolist() == expected


def test_drifting_periods_are_said_and_have_no_hours():
    trace = AvailabilityTrace.from_intervals([0, 1], [1, 1], [5, 5], n_devices=2, period=[10, MS_PER_DAY])
    facts = describe_trace(trace, None)
    assert facts["period"] == "0.01 s to 1d, each device its own; not whole days: the time of day drifts"
    assert "busiest and quietest hour" not in facts


def test_speeds_are_described_by_quantiles():
    facts = describe_trace(None, DeviceSpeed([10.0, 20.0, 20.0], [5e3, 6e3, 6e3], [1e3, 2e3, 2e3], 0.1, 0.35))
    assert facts["devices with a speed"] == "3 (2 distinct)"
    assert "50% 6,000" in facts["download, kbit/s"]
    assert facts["jitter, sd of the log"] == "0.1 compute, 0.35 network"


def test_empty_traces_can_be_described():
    assert describe_trace(SyntheticAvailability().generate(0, seed=0), SyntheticSpeed().generate(0, seed=0)) == {
        "devices": "0 (0 distinct)",
        "intervals": "0 (0 merged, 0 empty ones dropped)",
        "period": "none",
        "never online": "0",
        "always online": "0",
        "devices with a speed": "0",
    }


def test_a_population_says_how_many_devices_stand_behind_it():
    found = populate(
        n_clients=10,
        availability=two_nights(),
        speed=SyntheticSpeed().generate(20, seed=0),
        join=Sample(),
        sizes=np.ones(10, np.int64),
        seed=0,
        start_ms=0,
    )
    facts = describe_population(found)
    assert facts["distinct devices behind them"] == "4 (availability), 10 (speed)"
    assert (facts["clients"], facts["clones"]) == ("10", "6")
    assert "clients are clones on other days with jittered edges (6 of 10 clients" in facts["notes"]


def test_devices_that_never_change_have_no_sessions_to_describe():
    assert list(describe_trace(AvailabilityTrace.always(2), None))[-1] == "online, device quantiles"


def test_sessions_under_a_second_can_be_plotted(tmp_path):
    blinking = AvailabilityTrace.from_intervals([0], [1], [900], n_devices=1, period=3_600_000)
    plot_trace(blinking, tmp_path / "trace.png")
    assert (tmp_path / "trace.png").stat().st_size > 10_000


def test_plot_is_a_png_of_two_panels(tmp_path):
    plot_trace(SyntheticAvailability(days=2).generate(50, seed=0), tmp_path / "trace.png", title="fifty phones")
    content = (tmp_path / "trace.png").read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    assert len(content) > 20_000


def test_an_empty_trace_and_an_unwritable_place_are_refused(tmp_path):
    with pytest.raises(TraceError, match="without intervals"):
        plot_trace(SyntheticAvailability(scale=0.0).generate(5, seed=0), tmp_path / "trace.png")
    with pytest.raises(TraceError, match="cannot be written"):
        plot_trace(AvailabilityTrace.always(2), tmp_path / "missing" / "trace.png")
