"""Listeners of a run: those that ship, a class of one's own, and what a scenario says of them."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from evsim import Scenario, Simulation, load_run
from evsim.base.caveat import CaveatWarning
from evsim.base.errors import ListenerError, PolicyError, ScenarioError
from evsim.timeline.audience import Audience, RunFacts

SHORT = [
    'stop.virtual_time="3h"',
    "population.clients=100",
    "aggregation.cohort_goal=4",
    "aggregation.minimum_cohort=1",
    "aggregation.minimum_reports=1",
]


def run(folder: Path, *overrides: str, listeners: Any = (), base: str = "replay") -> Path:
    scenario = Scenario.load(base, [*SHORT, *overrides])
    return Simulation(scenario, listeners=listeners).run(folder)


def test_csv_log_has_every_event_in_order(tmp_path: Path) -> None:
    folder = run(tmp_path / "run", 'listener=[{ kind = "csv_log" }]', "record.sessions=true")
    with (folder / "events.csv").open(encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    instants = [int(line["at_ms"]) for line in lines]
    assert instants == sorted(instants)
    found = load_run(folder)
    count = pd.Series([line["event"] for line in lines]).value_counts()
    assert count["dispatched"] == len(found.tasks)
    assert count["round_closed"] == len(found.server_steps)
    assert count["checked_in"] == len(found.sessions)
    assert count["checked_out"] == found.sessions["check_out_at"].notna().sum()
    assert count["ended"] == 1
    assert found.manifest["engine"]["replay"] == "events"


def test_perfetto_draws_every_task_and_round_once(tmp_path: Path) -> None:
    folder = run(tmp_path / "run", 'listener=[{ kind = "perfetto" }]')
    drawn = json.loads((folder / "perfetto.json").read_text(encoding="utf-8"))["traceEvents"]
    bars = [each for each in drawn if each["ph"] == "X"]
    tasks = load_run(folder).tasks
    begun = {int(each["name"].split()[1]): each["ts"] for each in bars if each["name"].startswith("task")}
    assert begun == {row.task: row.dispatched_at * 1000 for row in tasks.itertuples()}
    ended = tasks.dropna(subset="ended_at").set_index("task")["ended_at"]
    ends = {int(each["name"].split()[1]): each["ts"] + each["dur"] for each in bars if each["name"].startswith("task")}
    assert all(ends[task] == at * 1000 for task, at in ended.items())
    assert sum(each["name"].startswith("round") for each in bars) == len(load_run(folder).server_steps)


def test_progress_prints_to_standard_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(tmp_path / "run", 'listener=[{ kind = "progress", seconds = 0.0 }]')
    told = capsys.readouterr().err.splitlines()
    assert told[0].startswith("replay: 100 clients, seed")
    assert told[-1].endswith("ended, virtual_time")
    assert any("round 3" in line for line in told)


class StopAfter:
    """Ends a run after some reports: a stop condition of one's own."""

    def __init__(self, reports: int) -> None:
        self.left = reports

    def started(self, run: RunFacts) -> None:
        self.run = run

    def round_closed(self, at: int, row: dict[str, Any]) -> None:
        self.left -= row["reports"]
        if self.left <= 0:
            self.run.end("enough reports")


@pytest.mark.parametrize("replay", ["events", "bulk"])
def test_a_listener_may_end_the_run_with_a_reason_of_its_own(tmp_path: Path, replay: str) -> None:
    folder = run(tmp_path / "run", f"engine.replay={replay}", listeners=[StopAfter(25)])
    found = load_run(folder)
    assert found.manifest["end"]["reason"] == "enough reports"
    assert found.server_steps["reports"].sum() >= 25 > found.server_steps["reports"][:-1].sum()


@pytest.mark.parametrize("replay", ["events", "bulk"])
def test_nothing_is_told_after_the_end_and_nothing_before_it_is_left_out(tmp_path: Path, replay: str) -> None:
    class Diary:
        def __init__(self) -> None:
            self.facts: list[str] = []
            self.reports = 0

        def reported(self, at: Any, tasks: Any, clients: Any) -> None:
            self.facts.append("reported")
            self.reports += len(tasks)

        def ended(self, at: int, reason: str) -> None:
            self.facts.append("ended")

    diary, horizon = Diary(), "stop.virtual_time=1h"  # in the middle of a round
    found = load_run(
        Simulation(Scenario.load("replay", [horizon, f"engine.replay={replay}"]), listeners=[diary]).run(
            tmp_path / "run"
        )
    )
    assert found.tasks["ended_at"].max() > found.server_steps["closed_at"].max()
    assert diary.facts.count("ended") == 1
    assert diary.facts[-1] == "ended"
    known = found.tasks.dropna(subset="known_at")  # a report of the open round is known, and its outcome not decided
    assert diary.reports == (~known["outcome"].isin(["dropped", "aborted"])).sum()


def test_a_listener_that_always_raises_leaves_a_run_folder(tmp_path: Path) -> None:
    class Broken:
        def reported(self, at: Any, tasks: Any, clients: Any) -> None:
            raise RuntimeError("no")

        def round_closed(self, at: int, row: dict[str, Any]) -> None:
            raise RuntimeError("no")

        def checked_out(self, at: Any, clients: Any) -> None:
            raise RuntimeError("no")

        def ended(self, at: int, reason: str) -> None:
            raise RuntimeError("no")

    with pytest.raises(ListenerError, match="no"):
        run(tmp_path / "run", listeners=[Broken()])
    assert "RuntimeError: no" in load_run(tmp_path / "run").manifest["end"]["reason"]


def test_a_listener_of_a_file_runs_and_is_kept_in_the_scenario(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "class Mine:\n"
        "    def __init__(self, file, factor=2):\n"
        "        self.file, self.factor, self.seen = file, factor, 0\n"
        "    def reported(self, at, tasks, clients):\n"
        "        self.seen += len(tasks)\n"
        "    def ended(self, at, reason):\n"
        "        with open(self.file, 'w') as file:\n"
        "            file.write(str(self.seen * self.factor))\n"
    )
    (tmp_path / "s.toml").write_text(
        'extends = "replay"\n[stop]\nvirtual_time = "3h"\n[population]\nclients = 100\n'
        f'[[listener]]\nkind = "mine.py:Mine"\nfile = "{tmp_path / "seen"}"\n'
    )
    scenario = Scenario.load(tmp_path / "s.toml")
    folder = Simulation(scenario).run(tmp_path / "run")
    tasks = load_run(folder).tasks
    arrived = ~tasks["outcome"].isin(["dropped", "aborted", "in_flight"])
    assert int((tmp_path / "seen").read_text()) == 2 * arrived.sum()
    again = Scenario.load(folder / "scenario.toml")
    assert again.listener == scenario.listener


def test_a_listener_that_raises_ends_the_run_cleanly(tmp_path: Path) -> None:
    class Broken:
        closed = 0

        def round_closed(self, at: int, row: dict[str, Any]) -> None:
            self.closed += 1
            if self.closed == 3:
                raise RuntimeError("no more")

    with pytest.raises(ListenerError, match=r"listener Broken.round_closed \(at \d+ ms\): RuntimeError: no more"):
        run(tmp_path / "run", listeners=[Broken()])
    found = load_run(tmp_path / "run")
    assert len(found.server_steps) == 3
    assert "RuntimeError: no more" in found.manifest["end"]["reason"]
    assert len(found.tasks) > 0


def test_unknown_options_and_kinds_of_listeners_are_told() -> None:
    with pytest.raises(ScenarioError, match=r"listener\[0\].events_: unknown key.*did you mean 'events'"):
        Scenario.load("replay", ['listener=[{ kind = "csv_log", events_ = [] }]'])
    with pytest.raises(ScenarioError, match="unknown kind 'csvlog'; did you mean 'csv_log'"):
        Scenario.load("replay", ['listener=[{ kind = "csvlog" }]'])


def test_bulk_with_a_listener_of_every_event_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match=r'engine\.replay: "bulk", but a listener is told of every event'):
        run(tmp_path / "run", "engine.replay=bulk", 'listener=[{ kind = "csv_log" }]')


def test_the_manifest_says_how_the_timeline_moved(tmp_path: Path) -> None:
    def told(name: str, *overrides: str) -> tuple[str, str]:
        manifest = load_run(run(tmp_path / name, *overrides)).manifest
        return manifest["engine"]["replay"], manifest["timeline_hash"]

    dry, events = told("dry"), told("events", "engine.replay=events")
    assert (dry[0], events[0]) == ("bulk", "events")
    assert dry[1] == events[1]


class Returning:
    """Gives back what it is told to, now and then."""

    def __init__(self, given: object, every: bool = False) -> None:
        self.given, self.every = given, every

    def reported(self, at: Any, tasks: Any, clients: Any) -> object:
        return self.given

    def round_closed(self, at: int, row: dict[str, Any]) -> object:
        return self.given


@pytest.mark.parametrize("every", [False, True])
@pytest.mark.parametrize(
    ("given", "words"),
    [
        (True, "True"),
        (False, "False"),
        ("stop now", "'stop now'"),
        (0, "0"),
        ([1], "a list"),
        (np.array([1, 2]), "a ndarray"),
    ],
)
def test_what_a_listener_gives_back_is_told_once_and_changes_nothing(tmp_path, given, words, every):
    with pytest.warns(CaveatWarning) as said:
        found = load_run(run(tmp_path / "run", listeners=[Returning(given, every)]))
    assert len(found.server_steps) > 1
    texts = [str(each.message) for each in said if "gives back" in str(each.message)]
    assert [
        f"Returning.{name} gave {words}" in text for name, text in zip(("reported", "round_closed"), texts, strict=True)
    ]
    (kept,) = (each for each in found.caveats if each.key == "listener_returns")
    assert kept.measure == f"Returning.reported gave {words}, Returning.round_closed gave {words}"
    assert "run.end(reason)" in kept.remedy
    assert found.manifest["end"]["reason"] == "virtual_time"
    plain = load_run(run(tmp_path / "plain", listeners=[Returning(None, every)]))
    assert found.manifest["timeline_hash"] == plain.manifest["timeline_hash"]
    assert "listener_returns" not in [each.key for each in plain.caveats]


@pytest.mark.parametrize("reason", [None, True, 3, "", " ", ["late"]])
def test_a_reason_to_end_is_a_text(tmp_path, reason):
    class Ends:
        def started(self, run: RunFacts) -> None:
            self.run = run

        def round_closed(self, at: int, row: dict[str, Any]) -> None:
            self.run.end(reason)

    with pytest.raises(ListenerError, match=r"Ends\.round_closed .*: TypeError: run\.end\(.*\): expected a text"):
        run(tmp_path / "run", listeners=[Ends()])


def test_a_method_that_would_never_run_is_refused():
    class Lazy:
        def round_closed(self, at: int, row: dict[str, Any]) -> Any:
            yield at

    class Waiting:
        async def ended(self, at: int, reason: str) -> None: ...

    for listener, fact in ((Lazy(), "round_closed"), (Waiting(), "ended")):
        with pytest.raises(PolicyError, match=f"{fact} is a generator or async, and would never run"):
            Audience([listener])


# -- TensorBoard, read back with its own reader ------------------------------------------------------------------------


def scalars(folder: Path) -> dict[str, list[tuple[int, float, float]]]:
    """Step, virtual hours and value of every event, by tag."""
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    found = reader.EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    return {
        tag: [(each.step, each.wall_time / 3600, each.value) for each in found.Scalars(tag)]
        for tag in found.Tags()["scalars"]
    }


def test_tensorboard_has_every_evaluation_and_every_applied_round(tmp_path: Path) -> None:
    learns = ("stop.server_steps=6", "evaluation.every=2", "executor.kind=serial")
    folder = run(tmp_path / "run", 'listener=["tensorboard"]', *learns, base="quickstart")
    told, found = scalars(folder / "tensorboard"), load_run(folder)
    curve = found.curve("accuracy")
    expected = list(zip(curve.version.tolist(), (curve.at / 3_600_000).tolist(), curve.value.tolist(), strict=True))
    assert len(expected) == 4
    assert told["test/accuracy"] == [pytest.approx(each) for each in expected]
    applied = found.server_steps[found.server_steps["applied"]]
    assert [step for step, _, _ in told["round/reports"]] == applied["version"].tolist()
    assert [value for _, _, value in told["round/reports"]] == applied["reports"].tolist()
    minutes = (applied["closed_at"] - applied["started_at"]) / 60_000
    assert [value for _, _, value in told["round/minutes"]] == pytest.approx(minutes.tolist())
    assert all(hours == pytest.approx(value) for _, hours, value in told["virtual_hours"])


def test_tensorboard_of_a_run_that_goes_on_tells_each_thing_once(tmp_path: Path) -> None:
    folder = run(tmp_path / "run", 'listener=["tensorboard"]', "stop.server_steps=3")
    Simulation.extend(folder, ["stop.server_steps=5"])
    assert [step for step, _, _ in scalars(folder / "tensorboard")["round/reports"]] == [1, 2, 3, 4, 5]


def test_a_logger_that_is_not_installed_says_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *_: None)
    with pytest.raises(ScenarioError, match=r"needs the package 'tensorboard'.*pip install 'evsim\[tensorboard\]'"):
        run(tmp_path / "run", 'listener=["tensorboard"]')


def test_the_folder_of_tensorboard_lies_in_the_run_folder(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match="folder must be a plain name"):
        run(tmp_path / "run", 'listener=[{ kind = "tensorboard", folder = "../out" }]')
