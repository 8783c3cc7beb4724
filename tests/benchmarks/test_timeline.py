"""Timeline benchmarks: figures only, no timed asserts. Run with `make bench`."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import simpy

from evsim import Scenario, Simulation
from evsim.base.units import MS_PER_DAY, MS_PER_MINUTE
from evsim.selection.uniform import Uniform
from evsim.timeline.manager import ClientManager
from evsim.timeline.sessions import Sessions
from evsim.traces.synthetic import SyntheticAvailability

pytestmark = pytest.mark.benchmark


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def test_replay_of_a_week_with_a_selection_every_minute() -> None:
    """Edges per second through the client manager, in one process."""
    print(f"\n{'devices':>9} {'edges':>11} {'edges/s':>12} {'seconds':>8} {'peak MiB':>9}")
    for n in (1_000, 10_000, 100_000):
        trace = SyntheticAvailability(days=7).generate(n, seed=0)
        replay, manager = Sessions(trace), ClientManager(Uniform(), n, seed=0)

        def run(replay: Sessions = replay, manager: ClientManager = manager) -> None:
            manager.register_client(replay.online_at_start(), 0)
            for now in range(MS_PER_MINUTE, 7 * MS_PER_DAY, MS_PER_MINUTE):
                edges = replay.take(now)
                if edges is not None:
                    manager.observe(edges.clients, edges.check_in, edges.at)
                manager.select_clients(100, now)

        seconds = _seconds(run)
        print(f"{n:>9,} {replay.n_edges:>11,} {replay.n_edges / seconds:>12,.0f} {seconds:>8.2f} {_peak_mib():>9.0f}")


def test_synchronous_rounds_of_always_on_clients(tmp_path: Path) -> None:
    """Completions per second, tables written, against bare SimPy with one Timeout per task in the same run."""
    print(f"\n{'clients':>9} {'completions/s':>14} {'bare SimPy':>12} {'ratio':>6} {'peak MiB':>9}")
    for n in (1_000, 10_000, 131_072):
        scenario = Scenario.from_dict(
            {
                "name": "rounds",
                "training": "none",
                "stop": {"server_steps": 10},
                "population": {
                    "clients": n,
                    "availability": "always",
                    "speed": {"compute_ms_per_sample": 20, "download_kbps": 5000, "upload_kbps": 2000},
                },
                "cost": {"model_bytes": 1_000_000, "samples_per_client": 20},
                "aggregation": {"kind": "synchronous", "cohort_goal": n},
            }
        )
        ours = 10 * n / _seconds(lambda s=scenario, m=n: Simulation(s).run(tmp_path / str(m)))
        bare = 10 * n / _seconds(lambda m=n: _bare_simpy(m))
        print(f"{n:>9,} {ours:>14,.0f} {bare:>12,.0f} {ours / bare:>6.2f} {_peak_mib():>9.0f}")


def _bare_simpy(n: int, rounds: int = 10) -> None:
    env, draw = simpy.Environment(), np.random.default_rng(0)

    def server() -> object:
        for _ in range(rounds):
            yield simpy.AllOf(env, [env.timeout(int(delay)) for delay in draw.integers(1, 100_000, n)])

    env.process(server())
    env.run()


def test_buffered_aggregation_without_training(tmp_path: Path) -> None:
    """5,000 server steps of 100 reports, 1,000 at work, for growing populations."""
    print(f"\n{'devices':>9} {'reports/s':>10} {'us/report':>10} {'seconds':>8} {'virtual':>10} {'peak MiB':>9}")
    for n in (10_000, 100_000):
        steps = 500 if n < 100_000 else 5_000
        scenario = Scenario.from_dict(
            {
                "name": "buffers",
                "training": "none",
                "stop": {"server_steps": steps},
                "population": {"clients": n, "availability": {"days": 7}, "speed": {}},
                "cost": {"model_bytes": 5_000_000, "samples_per_client": 100},
                "aggregation": {"kind": "buffered", "concurrency": 1_000, "buffer_size": 100, "task_timeout": "30min"},
            }
        )
        simulation = Simulation(scenario)
        seconds = _seconds(lambda s=simulation, m=n: s.run(tmp_path / str(m)))
        import pandas as pd

        last = pd.read_parquet(tmp_path / str(n) / "server_steps.parquet")["closed_at"].max()
        rate = steps * 100 / seconds
        days = last / MS_PER_DAY
        print(f"{n:>9,} {rate:>10,.0f} {1e6 / rate:>10.1f} {seconds:>8.1f} {days:>8.1f} d {_peak_mib():>9.0f}")
