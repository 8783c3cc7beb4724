"""A run that is interrupted and resumed writes what it would have written without, and refuses to be another run."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evsim import Scenario, Simulation, load_run
from evsim.base.errors import EvsimError, RunFolderError, TrainingError
from evsim.base.lock import locked
from evsim.base.vocabulary import Feedback
from evsim.run.checkpoints import Checkpoints, whole
from evsim.run.feedback import Answer, Telling, read_answers, write_answers
from evsim.run.resuming import is_over, resume_folder
from evsim.run.schema import TABLES
from evsim.run.signals import Signals
from evsim.timeline.world import NoLearning
from evsim.training.learning.learning import Learning
from tests.crash.cases import CASES, EVERY_CASE, SMALL, results, scenario_of

_FEW = [
    "some clients",
    "another target",
    "late reports",
    "oort, prompt",
    "power of choice",
    "scaffold, workers",
    "top-k, buffered, oort",
    "batched",
    "acted on",
]


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """Versions from which server steps were really trained; put ("stop", n) first to be interrupted in the nth."""
    log: list[Any] = []
    apply = Learning.apply

    def counted(self: Learning, tasks: Any, **told: Any) -> Feedback:
        if log and log[0] == ("stop", len(log)):
            os.kill(os.getpid(), signal.SIGINT)
        log.append(self.version)
        return apply(self, tasks, **told)

    monkeypatch.setattr(Learning, "apply", counted)
    return log


def interrupted(scenario: Scenario, folder: Path, trained: list[Any], step: int) -> Path:
    trained[:] = [("stop", step)]
    found = Simulation(scenario, device="cpu").run(folder)
    assert load_run(found).manifest["end"]["reason"] == "interrupted"
    trained.clear()
    return found


@pytest.mark.parametrize("case", CASES if EVERY_CASE else _FEW)
def test_interrupted_and_resumed_is_never_interrupted(case: str, tmp_path: Path, trained: list[Any]) -> None:
    scenario = scenario_of(case)
    whole_run = Simulation(scenario, device="cpu").run(tmp_path / "whole")
    steps = len(trained)
    cut = interrupted(scenario, tmp_path / "cut", trained, 3)
    Simulation.resume(cut, device="cpu")
    assert len(trained) == steps - 3  # what was learnt before was not trained again
    assert results(cut) == results(whole_run)
    assert is_over(cut)
    assert sorted(path.name for path in cut.iterdir()) == sorted(path.name for path in whole_run.iterdir())


def test_it_may_be_interrupted_again_and_again_also_while_it_replays(tmp_path: Path, trained: list[Any]) -> None:
    scenario = scenario_of("oort, buffered")
    expected = results(Simulation(scenario, device="cpu").run(tmp_path / "whole"))
    cut = interrupted(scenario, tmp_path / "cut", trained, 2)
    before = results(cut)

    class Impatient:
        def round_closed(self, _at: int, row: Any) -> None:
            if row["version"] == 1:
                os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(KeyboardInterrupt):
        Simulation.resume(cut, device="cpu", listeners=[Impatient()])
    assert results(cut) == before  # it never came as far as the run was: that stays as it is
    assert not (cut / "journal.resumed").exists()
    trained[:] = [("stop", 3)]
    Simulation.resume(cut, device="cpu")
    assert load_run(cut).manifest["server_steps"] == 5
    trained.clear()
    Simulation.resume(cut, device="cpu")
    assert results(cut) == expected


def test_of_a_broken_checkpoint_the_one_before_is_taken(tmp_path: Path, trained: list[Any], often: None) -> None:
    scenario = scenario_of("scaffold")
    expected = results(Simulation(scenario, device="cpu").run(tmp_path / "whole"))
    cut = interrupted(scenario, tmp_path / "cut", trained, 5)
    newest, older = whole(resume_folder(cut))
    torn = resume_folder(cut) / newest.told["tensors"]
    content = torn.read_bytes()
    torn.write_bytes(b"torn")
    (resume_folder(cut) / "learning-9.safetensors.tmp").write_bytes(b"left behind")
    assert [each.told["position"] for each in whole(resume_folder(cut))] == [older.told["position"]]
    torn.write_bytes(bytes([content[0] ^ 1]) + content[1:])  # as long as it was
    assert [each.is_intact for each in whole(resume_folder(cut))] == [False, True]
    Simulation.resume(cut, device="cpu")
    assert results(cut) == expected


def test_without_checkpoints_it_begins_anew(tmp_path: Path, trained: list[Any]) -> None:
    plain = scenario_of("synchronous")
    scenario = replace(plain, record=replace(plain.record, checkpoint_every=0))
    expected = results(Simulation(scenario, device="cpu").run(tmp_path / "whole"))
    cut = interrupted(scenario, tmp_path / "cut", trained, 2)
    assert not whole(resume_folder(cut))
    Simulation.resume(cut, device="cpu")
    assert results(cut) == expected


def test_an_error_is_no_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, often: None) -> None:
    scenario = scenario_of("buffered")
    expected = results(Simulation(scenario, device="cpu").run(tmp_path / "whole"))

    def broken(self: Learning, tasks: Any, apply: Any = Learning.apply, **told: Any) -> Feedback:
        if self.version == 4:
            raise TrainingError("the disk of the data went away")
        return apply(self, tasks, **told)  # type: ignore[no-any-return]

    simulation = Simulation(scenario, device="cpu")
    with monkeypatch.context() as patch, pytest.raises(TrainingError):  # noqa: PT012
        patch.setattr(Learning, "apply", broken)
        simulation.run(tmp_path / "cut")
    Simulation.resume(tmp_path / "cut", device="cpu")
    assert results(tmp_path / "cut") == expected


def test_resuming_nothing_is_starting_and_a_run_that_is_over_stays(tmp_path: Path, trained: list[Any]) -> None:
    scenario, folder = scenario_of("buffered"), tmp_path / "run"
    Simulation(scenario, device="cpu").run(folder, resume=True)
    before = results(folder)
    trained.clear()
    Simulation(scenario, device="cpu").run(folder, resume=True)
    Simulation.resume(folder, device="cpu")
    assert (trained, results(folder)) == ([], before)
    with pytest.raises(RunFolderError, match=r"scenario: seed: 7 now; expected 0, as when the run was started"):
        Simulation(replace(scenario, seed=7), device="cpu").run(folder, resume=True)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"versions": {"torch": "0.4"}}, r"versions: evsim: '.*' now; expected 'nothing'"),
        ({"data": "other"}, r"data: '[0-9a-f]{32}' now; expected 'other', as when the run was started"),
        ({"traces": "other"}, "traces"),
        ({"model": "other"}, "model"),
        ({"device": "cuda"}, "device: 'cpu' now; expected 'cuda'"),
        ({"executor": {"kind": "workers"}}, "executor: kind: 'serial' now; expected 'workers'"),
    ],
)
def test_another_run_is_refused_with_the_first_difference(
    tmp_path: Path, trained: list[Any], change: dict[str, Any], said: str
) -> None:
    cut = interrupted(scenario_of("buffered"), tmp_path / "cut", trained, 1)
    before, path = results(cut), resume_folder(cut) / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(RunFolderError, match=said):
        Simulation.resume(cut, device="cpu")
    assert results(cut) == before


def test_a_timeline_that_came_out_otherwise_is_refused(tmp_path: Path, trained: list[Any]) -> None:
    cut = interrupted(scenario_of("buffered"), tmp_path / "cut", trained, 3)
    before, path = results(cut), next(resume_folder(cut).glob("checkpoint-*.json"))
    path.write_text(json.dumps(json.loads(path.read_text()) | {"timeline_hash": "0" * 32}))
    with pytest.raises(RunFolderError, match="the timeline up to the checkpoint is not the one"):
        Simulation.resume(cut, device="cpu")
    assert results(cut) == before


MINE = """
from dataclasses import dataclass
from typing import final
from evsim.algorithms.weighting import Reports, SampleWeights, Weighting

@final
@dataclass(frozen=True, kw_only=True)
class Mine(Weighting):
    def weights(self, reports: Reports):
        return SampleWeights().weights(reports)
"""


def test_a_changed_plug_in_is_refused_by_name(tmp_path: Path, trained: list[Any]) -> None:
    mine = tmp_path / "mine.py"
    mine.write_text(MINE)
    scenario = Scenario.load("quickstart", overrides=[*SMALL, f"weighting={{kind='{mine}:Mine'}}"], paths_from=tmp_path)
    cut = interrupted(scenario, tmp_path / "cut", trained, 1)
    told = load_run(cut).manifest["plug_ins"]
    assert told == {"weighting Mine": hashlib.sha256(MINE.encode()).hexdigest()}
    mine.write_text(MINE + "# and something else")
    with pytest.raises(RunFolderError, match=r"plug-ins: weighting Mine: '[0-9a-f]{64}' now; expected '[0-9a-f]{64}'"):
        Simulation.resume(cut, device="cpu")
    mine.write_text(MINE)
    Simulation.resume(cut, device="cpu")


_DAMAGE: dict[str, Any] = {
    "no object": "[]",
    "deep": "[" * 100_000,
    "empty": "",
    "no keys": "{}",
    "another form": {"files": []},
    "no number": {"position": "9"},
    "a file elsewhere": {"tensors": "../../x"},
    "answers elsewhere": {"answers": ["../run.json"]},
    "no clients": {"clients": {}},
    "no learning": {"learning": {}},
    "deep learning": {"learning": {"server": [[[[[1]]]]]}},
}


@pytest.mark.parametrize("how", _DAMAGE)
def test_damaged_checkpoints_are_refused_in_words_or_passed_over(tmp_path: Path, trained: list[Any], how: str) -> None:
    cut = interrupted(scenario_of("scaffold"), tmp_path / "cut", trained, 3)
    before, path = results(cut), next(resume_folder(cut).glob("checkpoint-*.json"))
    damage = _DAMAGE[how]
    path.write_text(damage if isinstance(damage, str) else json.dumps(json.loads(path.read_text()) | damage))
    if how in {"no clients", "no learning", "deep learning"}:  # it looks like a checkpoint until it is loaded
        with pytest.raises(RunFolderError, match="the checkpoint is damaged"):
            Simulation.resume(cut, device="cpu")
        assert results(cut) == before
    else:
        Simulation.resume(cut, device="cpu")
        assert is_over(cut)


@pytest.mark.parametrize(
    "text", ["[]", "", "{", "{}", '{"scenario": 1, "paths_from": "."}', '{"scenario": "a = ", "paths_from": "."}']
)
def test_what_a_run_depends_on_may_be_damaged(tmp_path: Path, trained: list[Any], text: str) -> None:
    cut = interrupted(scenario_of("buffered"), tmp_path / "cut", trained, 1)
    (cut / "resume/run.json").write_text(text)
    for again in (
        lambda: Simulation.resume(cut, device="cpu"),
        lambda: Simulation(scenario_of("buffered"), device="cpu").run(cut, resume=True),
        lambda: Simulation.extend(cut, ["stop.server_steps=9"], device="cpu"),
    ):
        with pytest.raises(EvsimError):
            again()


def test_a_journal_that_answers_something_else_is_noticed(tmp_path: Path) -> None:
    known = [
        Answer("metrics", np.empty(0, np.int64), np.array([0.5, np.nan]), ["accuracy", "loss"]),
        Answer("apply", np.array([3, 4]), np.array([1.0, np.nan]), (), [True, False], np.array([2.0, 3.0])),
        Answer("train", np.array([5]), np.array([0.1]), (), [True]),
    ]
    write_answers(known, tmp_path / "answers.arrow")
    telling = Telling(NoLearning(), breakable=Signals().training, on_answer=known.append)  # type: ignore[arg-type]
    telling.replay(read_answers(tmp_path / "answers.arrow"), known.clear)
    np.testing.assert_equal(telling.metrics(dict), {"accuracy": 0.5, "loss": np.nan})
    found = telling.apply(np.array([3, 4]), by="", goal=2)
    np.testing.assert_array_equal(found.utility, [1.0, np.nan])
    assert (found.valid.tolist(), found.weight.tolist()) == ([True, False], [2.0, 3.0])  # type: ignore[union-attr]
    with pytest.raises(RunFolderError, match=r"the journal answers train of \[5\], but the run asks train of \[6\]"):
        telling.train(np.array([6]))


def test_two_processes_never_work_in_one_folder(tmp_path: Path, trained: list[Any]) -> None:
    cut = interrupted(scenario_of("buffered"), tmp_path / "cut", trained, 1)
    with locked(resume_folder(cut)), pytest.raises(RunFolderError, match=rf"process {os.getpid()} on .* works in it"):
        Simulation.resume(cut, device="cpu")
    Simulation.resume(cut, device="cpu")


def test_a_checkpoint_comes_with_virtual_time_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evsim.run.checkpoints._WORTH", 0)
    plain, at = scenario_of("buffered"), []
    closed = load_run(Simulation(plain, device="cpu").run(tmp_path / "plain")).server_steps["closed_at"]
    every = int(closed.iloc[3])
    record = replace(plain.record, checkpoint_every=10**9, checkpoint_every_virtual_time=every, keep_checkpoint=False)
    saves = Checkpoints.save

    def save(self: Checkpoints) -> None:
        at.append(self._timeline().now)
        saves(self)

    monkeypatch.setattr(Checkpoints, "save", save)
    Simulation(replace(plain, record=record), device="cpu").run(tmp_path / "often")
    expected, last = [], 0
    for now in closed:
        if now - last >= every:
            expected.append(now)
            last = now
    assert at == expected
    assert len(at) >= 1


def test_what_is_no_run_cannot_be_resumed(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="no folder; expected a run that was interrupted or killed"):
        Simulation.resume(tmp_path / "nothing")
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(RunFolderError, match=r"a folder without resume/run\.json"):
        Simulation.resume(tmp_path)
    with pytest.raises(RunFolderError, match=r"a folder without resume/run\.json"):
        Simulation(scenario_of("buffered")).run(tmp_path, resume=True)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_dry_run_is_simulated_again(tmp_path: Path) -> None:
    scenario = Scenario.load("replay", overrides=['stop.virtual_time="2d"'])
    expected = load_run(Simulation(scenario).run(tmp_path / "whole"))
    simulation, sent = Simulation(scenario), []

    def impatient(_snapshot: object) -> None:
        if not sent:
            sent.append(os.kill(os.getpid(), signal.SIGINT))

    cut = simulation.run(tmp_path / "cut", impatient)
    assert load_run(cut).manifest["end"]["reason"] == "interrupted"
    Simulation.resume(cut)
    found = load_run(cut)
    assert found.manifest["timeline_hash"] == expected.manifest["timeline_hash"]
    np.testing.assert_array_equal(found.tasks["ended_at"], expected.tasks["ended_at"])


#: Cases with an end that comes earlier, one of each kind; {at}: the instant of the third step, to the millisecond.
_ENDS = {
    "synchronous": "{{virtual_time='{at}ms'}}",
    "late reports": "{{rounds=3}}",
    "momentum": "{{server_steps=3}}",
    "buffered": "{{virtual_time='{at}ms'}}",
    "oort": "{{server_steps=3}}",
    "oort, buffered": "{{server_steps=4}}",
    "oort, prompt": "{{virtual_time='{at}ms'}}",
    "power of choice": "{{server_steps=3}}",
    "scaffold": "{{server_steps=4}}",
    "top-k": "{{rounds=3}}",
    "top-k, buffered, oort": "{{server_steps=3,virtual_time='10d'}}",
    "target accuracy": "{{target_accuracy={accuracy},server_steps=8}}",
    "batched": "{{server_steps=3}}",
    "workers": "{{server_steps=3}}",
    "scaffold, workers": "{{server_steps=3}}",
}


_NO_END = [f"stop.{key}=" for key in ("target_accuracy", "server_steps", "rounds", "virtual_time")]
_EIGHT = [*_NO_END, "stop.server_steps=8"]


@pytest.mark.parametrize(
    "case", _ENDS if EVERY_CASE else ["synchronous", "oort, buffered", "scaffold", "target accuracy"]
)
def test_extended_is_long_from_the_start(case: str, tmp_path: Path, trained: list[Any]) -> None:
    long = Simulation(scenario_of(case, *_EIGHT), device="cpu").run(tmp_path / "long")
    expected, steps = results(long), len(trained)
    told = load_run(long)
    at = told.server_steps["closed_at"].iloc[2]
    accuracy = told.evaluations.query("metric == 'accuracy'")["value"].iloc[1]
    trained.clear()
    short = scenario_of(case, *_NO_END, "stop=" + _ENDS[case].format(at=at, accuracy=accuracy))
    folder = Simulation(short, device="cpu").run(tmp_path / "short")
    assert 0 < len(trained) < steps
    Simulation.extend(folder, _EIGHT, device="cpu")
    assert len(trained) == steps  # nothing was trained twice
    assert results(folder) == expected


def test_extended_again_and_again_and_killed_on_the_way(tmp_path: Path, trained: list[Any], often: None) -> None:
    expected = results(Simulation(scenario_of("scaffold"), device="cpu").run(tmp_path / "whole"))
    folder = Simulation(scenario_of("scaffold", "stop={server_steps=2}"), device="cpu").run(tmp_path / "run")
    Simulation.extend(folder, ["stop={server_steps=4}"], device="cpu")
    trained[:] = [("stop", 2)]
    Simulation.extend(folder, ["stop={server_steps=8}"], device="cpu")
    assert load_run(folder).manifest["end"]["reason"] == "interrupted"
    trained.clear()
    again = Simulation(scenario_of("scaffold"), device="cpu")
    with pytest.raises(RunFolderError, match=r"stop\.server_steps: 9 now; expected 8"):  # it is not over
        Simulation.extend(folder, ["stop={server_steps=9}"], device="cpu")
    assert again.run(folder, extend=True) == folder  # asked for again: it goes on
    assert len(trained) == 2
    assert results(folder) == expected
    before = sorted(path.name for path in (folder / "resume").iterdir())
    assert sum(name.startswith("checkpoint") for name in before) == 1
    assert again.run(folder, extend=True) == folder  # asked for once more: nothing is left to do
    assert (results(folder), len(trained)) == (expected, 2)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["stop={server_steps=2}"], "stop: server_steps comes before; expected no earlier end than it had"),
        (["stop={server_steps=9}", "seed=1"], "scenario: seed: 1 now; expected 0, as when the run was started"),
        (["stop={server_steps=9}", "selection={kind='oort'}"], "scenario: selection.kind: 'oort' now"),
    ],
)
def test_what_cannot_be_extended_stays_as_it_is(tmp_path: Path, changes: list[str], said: str) -> None:
    folder = Simulation(scenario_of("scaffold", "stop={server_steps=3}"), device="cpu").run(tmp_path / "run")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(RunFolderError, match=re.escape(said)):
        Simulation.extend(folder, changes, device="cpu")
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_without_its_last_checkpoint_a_run_that_trained_cannot_be_extended(tmp_path: Path) -> None:
    short = scenario_of("scaffold", "stop={server_steps=3}", "record.keep_checkpoint=false")
    folder = Simulation(short, device="cpu").run(tmp_path / "run")
    assert not (folder / "resume").exists()
    with pytest.raises(RunFolderError, match=r"without resume/run\.json; .*with record.keep_checkpoint = true it can"):
        Simulation.extend(folder, ["stop={server_steps=8}"], device="cpu")
    kept = Simulation(replace(short, record=replace(short.record, keep_checkpoint=True)), device="cpu")
    folder = kept.run(tmp_path / "kept")
    next((folder / "resume").glob("checkpoint-*.json")).unlink()
    with pytest.raises(RunFolderError, match="no checkpoint; expected that of its end"):
        Simulation.extend(folder, ["stop={server_steps=8}"], device="cpu")
    with pytest.raises(RunFolderError, match="no folder; expected a run that is over"):
        Simulation.extend(tmp_path / "nothing", ["stop={server_steps=8}"])


def test_a_dry_run_is_extended(tmp_path: Path) -> None:
    few = [
        'population={clients=20,availability="phones"}',
        "aggregation.cohort_goal=10",
        "aggregation.minimum_cohort=8",
        "aggregation.minimum_reports=4",
    ]  # who often wait in vain
    long = Scenario.load("replay", overrides=[*few, 'stop.virtual_time="3d"'])
    expected = load_run(Simulation(long).run(tmp_path / "long"))
    folder = Simulation(Scenario.load("replay", overrides=[*few, 'stop.virtual_time="1d"'])).run(tmp_path / "short")
    found = load_run(Simulation.extend(folder, ['stop.virtual_time="3d"']))
    told = {key: value for key, value in found.manifest.items() if key not in ("wall_s", "engine")}
    assert told == {key: expected.manifest[key] for key in told}
    for table in TABLES:
        assert (folder / f"{table}.parquet").read_bytes() == (tmp_path / "long" / f"{table}.parquet").read_bytes()
