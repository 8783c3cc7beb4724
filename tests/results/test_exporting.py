"""The stream of a run: exact, from its tables; for other programs as CSV and for Perfetto."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from evsim import Scenario, Simulation, load_run
from evsim.cli import app
from evsim.results.links import link_use
from tests.verify import worlds as small

ACTS = [{"kind": "outage", "at": "90min", "lasts": "30min", "keep": True}, {"kind": "fault", "link_every": "1h"}]


class Everything:
    """Writes down what it is told, one thing at a time."""

    every = True

    def __init__(self) -> None:
        self.lines: list[tuple[int, str, Any]] = []

    def __getattr__(self, fact: str) -> Any:
        if fact in ("checked_in", "checked_out"):
            return lambda at, client: self.lines.append((at, fact, client))
        if fact in ("reported", "dropped", "stopped", "dispatched"):
            return lambda at, task, client: self.lines.append((at, fact, task))
        raise AttributeError(fact)


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Everything]:
    listener = Everything()
    change = {"aggregation": small.aggregations()["rounds, abort"], "actor": ACTS}
    change |= {"network": {"kind": "shared", "down_kbps": 30_000, "up_kbps": 9_000}}
    scenario = Scenario.from_dict(small.merged(small.BASE, change))
    folder = tmp_path_factory.mktemp("export") / "run"
    return Simulation(scenario, device="cpu", listeners=[listener]).run(folder), listener


def test_the_frame_is_what_a_listener_was_told(told):
    folder, listener = told
    frame = load_run(folder).events()
    assert frame["at"].is_monotonic_increasing
    for fact in ("checked_in", "checked_out", "reported", "dropped", "stopped", "dispatched"):
        rows = frame[frame["event"] == fact]
        who = "client" if fact.startswith("checked") else "task"
        heard = [(at, about) for at, name, about in listener.lines if name == fact]
        assert Counter(zip(rows["at"], rows[who], strict=True)) == Counter(heard), fact
    reports = frame[frame["event"] == "reported"]
    assert list(zip(reports["at"], reports["task"], strict=True)) == [
        (at, task) for at, name, task in listener.lines if name == "reported"
    ]
    assert frame["event"].astype(str).iloc[-1] == "ended"
    assert {"outage begins", "outage ends", "link cut", "round_closed", "evaluated"} <= set(frame["event"])


def test_use_of_the_link_adds_up_to_what_was_moved(told):
    run = load_run(told[0])
    use = link_use(run, bins=123)
    width = run.end_ms / 123
    assert (use["down"].sum() * width, use["up"].sum() * width) == pytest.approx(
        (run.tasks["bytes_down"].sum() * 8, run.tasks["bytes_up"].sum() * 8)
    )
    assert use["down"].max() <= 30_000 * 1.01
    assert (use["down"] >= -1e-6).all()


def test_export_writes_both(told, tmp_path):
    out = CliRunner().invoke(
        app, ["export", str(told[0]), "--perfetto", str(tmp_path / "p.json"), "--csv", str(tmp_path / "e.csv")]
    )
    assert out.exit_code == 0, out.output
    run = load_run(told[0])
    lines = pd.read_csv(tmp_path / "e.csv")
    assert len(lines) == len(run.events())
    _is_trace_format(json.loads((tmp_path / "p.json").read_text()), run)
    assert CliRunner().invoke(app, ["export", str(told[0])]).exit_code == 2


def _is_trace_format(document: dict[str, Any], run: Any) -> None:
    """Against the documented format: every event with what its phase needs; bars of a track nest."""
    events = document["traceEvents"]
    assert document["displayTimeUnit"] == "ms"
    needed = {
        "X": {"name", "pid", "tid", "ts", "dur"},
        "C": {"name", "pid", "ts", "args"},
        "M": {"name", "pid", "args"},
    }
    for event in events:
        assert needed[event["ph"]] <= event.keys()
        if event["ph"] == "C":
            assert all(isinstance(value, int | float) for value in event["args"].values())
    tracks = {e["args"]["name"] for e in events if e["ph"] == "M"}
    assert {"server", "clients", "world", "rounds", "outages"} <= tracks
    counters = {e["name"] for e in events if e["ph"] == "C"}
    assert {"clients online", "tasks in flight", "server link, kbit/s"} <= counters
    bars = [e for e in events if e["ph"] == "X"]
    assert sum(e["name"].startswith("task ") for e in bars) == len(run.tasks)
    assert sum(e["name"].startswith("round ") for e in bars) == len(run.server_steps)
    for track in {(e["pid"], e["tid"]) for e in bars if e["pid"] == 2}:
        open_until: list[int] = []
        for bar in sorted((e for e in bars if (e["pid"], e["tid"]) == track), key=lambda e: (e["ts"], -e["dur"])):
            while open_until and open_until[-1] <= bar["ts"]:
                open_until.pop()
            assert not open_until or bar["ts"] + bar["dur"] <= open_until[-1]
            open_until.append(bar["ts"] + bar["dur"])


def test_perfetto_reads_it(told, tmp_path):
    """With Perfetto's own trace processor, where its binary can be had; the package downloads it at first use."""
    perfetto = pytest.importorskip("perfetto.trace_processor")
    CliRunner().invoke(app, ["export", str(told[0]), "--perfetto", str(tmp_path / "p.json")])
    try:
        reader = perfetto.TraceProcessor(trace=str(tmp_path / "p.json"))
    except Exception as error:  # no binary here
        pytest.skip(f"no trace processor: {error}")
    run = load_run(told[0])
    (bars,) = reader.query("select count(*) as n from slice where name glob 'task *'")
    assert bars.n == len(run.tasks)
    names = {row.name for row in reader.query("select distinct name from counter_track")}
    assert any("online" in name for name in names)
    assert np.isfinite(run.end_ms)
