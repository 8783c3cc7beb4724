"""Rows of sessions against the trace, asked at every instant."""

from __future__ import annotations

import numpy as np
import pytest

from evsim.run import reachable
from evsim.traces.availability import AvailabilityTrace


def _trace(seed: int) -> AvailabilityTrace:
    """Twelve devices with periods from 40 to 100 ms; the first is always online, the last never."""
    draw = np.random.default_rng(seed)
    period = draw.integers(40, 100, 12)
    device = np.repeat(np.arange(11), 3)
    start = draw.integers(0, 40, 33)
    stop = start + draw.integers(1, 30, 33)
    start[:3], stop[:3] = 0, period[0]
    return AvailabilityTrace.from_intervals(device, start, stop, n_devices=12, period=period)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("at_once", [4, 1_000_000])
def test_sessions_cover_exactly_the_instants_online(monkeypatch, seed, at_once):
    monkeypatch.setattr(reachable, "_AT_ONCE", at_once)
    trace, end, clients = _trace(seed), 237, np.array([0, 2, 3, 7, 9, 11])
    online = np.zeros((12, end + 1), np.bool_)
    rows = [np.stack(list(block.values())) for block in reachable.sessions_of(trace, clients, end)]
    for client, check_in, check_out in np.concatenate(rows, axis=1).T.tolist():
        assert 0 <= check_in <= end
        assert check_out == -1 or check_in < check_out <= end
        stop = end + 1 if check_out < 0 else check_out
        assert not online[client, check_in:stop].any()
        online[client, check_in:stop] = True
    at = np.arange(end + 1)
    for client in range(12):
        expected = trace.is_online(np.full(end + 1, client), at) if client in clients else np.zeros(end + 1, np.bool_)
        assert (online[client] == expected).all()


def test_of_nobody_there_are_no_sessions():
    blocks = list(reachable.sessions_of(_trace(0), np.empty(0, np.int64), 100))
    assert sum(len(block["client"]) for block in blocks) == 0
