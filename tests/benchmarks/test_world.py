"""What a world that moves costs, in processor time: figures only, no timed asserts. Run with `make bench`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from evsim import Scenario, Simulation

pytestmark = pytest.mark.benchmark

SHARED = {"kind": "shared", "down_kbps": 200_000, "up_kbps": 100_000}
BUFFERS = {"kind": "buffered", "concurrency": 100, "buffer_size": 10, "task_timeout": "30min"}
ACTS: dict[str, list[dict[str, Any]]] = {
    "nobody": [],
    "outage": [{"kind": "outage", "at": "1h", "lasts": "10min", "every": "4h"}],
    "fault": [{"kind": "fault", "crash_every": "1d", "link_every": "1d"}],
    "battery": [{"kind": "battery"}],
}


def _seconds(folder: Path, **tables: Any) -> float:
    base: dict[str, Any] = {
        "name": "world",
        "training": "none",
        "stop": {"server_steps": 300},
        "population": {"clients": 2_000, "availability": {"days": 7}, "speed": {}},
        "cost": {"model_bytes": 5_000_000, "samples_per_client": 100},
        "aggregation": BUFFERS,
        "engine": {"replay": "bulk"},
    }
    simulation = Simulation(Scenario.from_dict({**base, **tables}))
    begin = time.process_time()
    simulation.run(folder)
    return time.process_time() - begin


def test_a_shared_link_with_a_hundred_in_flight(tmp_path: Path) -> None:
    """Microseconds per report, 3,000 reports, against independent links in the same run."""
    alone = min(_seconds(tmp_path / f"alone {n}") for n in range(3))
    shared = min(_seconds(tmp_path / f"shared {n}", network=SHARED) for n in range(3))
    hours = min(_seconds(tmp_path / f"hours {n}", network={"kind": "hourly", "factors": [1.0, 0.5]}) for n in range(3))
    print(f"\n{'network':>12} {'us/report':>10} {'ratio':>6}")
    for name, seconds in (("independent", alone), ("hourly", hours), ("shared", shared)):
        print(f"{name:>12} {seconds / 3_000 * 1e6:>10.0f} {seconds / alone:>6.1f}")


def test_a_round_of_a_thousand_on_a_shared_link(tmp_path: Path) -> None:
    """Seconds per round; all clients are always there."""
    rounds = {"kind": "synchronous", "cohort_goal": 1_000}
    always = {"clients": 1_000, "availability": "always", "speed": {}}
    print(f"\n{'network':>12} {'s/round':>8}")
    for name, network in (("independent", {"kind": "independent"}), ("shared", SHARED)):
        common = {"aggregation": rounds, "population": always, "network": network}
        one, five = (_seconds(tmp_path / f"{name} {steps}", stop={"server_steps": steps}, **common) for steps in (1, 6))
        print(f"{name:>12} {(five - one) / 5:>8.3f}")


def test_worlds_that_are_acted_on(tmp_path: Path) -> None:
    """Microseconds per report, 3,000 reports over independent links."""
    print(f"\n{'actor':>12} {'us/report':>10}")
    for name, acts in ACTS.items():
        seconds = min(_seconds(tmp_path / f"{name} {n}", actor=acts) for n in range(2))
        print(f"{name:>12} {seconds / 3_000 * 1e6:>10.0f}")
