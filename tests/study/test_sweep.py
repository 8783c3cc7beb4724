"""Sweeps: parallel, resumable, each run once, one executor for all."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from evsim.base.errors import EvsimError
from evsim.results import load_run
from evsim.results.arms import load_arms
from evsim.scenario import Scenario
from evsim.study import Study, running, sweep
from evsim.study import picks as picks_module
from evsim.study.picks import Pick, by_executor, pinned
from evsim.study.probe import kind_of, measure
from evsim.study.processes import Answer
from evsim.training.executors import auto

ROOT = Path(__file__).parents[2]
SHORT = (
    "population.clients=40",
    "population.availability=always",
    "stop.virtual_time=2h",
    "stop.server_steps=",
    "executor={kind='serial',threads=1}",
)
ARMS = {"few": ("aggregation.cohort_goal=20",), "more": ("aggregation.cohort_goal=30", "aggregation.minimum_cohort=30")}
STUDY = Study(name="tiny", scenario="quickstart", arms=ARMS, seeds=(0, 1), target_accuracy=0.2, overrides=SHORT)


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    seen = []
    out = sweep(STUDY, tmp_path_factory.mktemp("sweep") / "out", processes=2, on_progress=seen.append)
    return out, seen


def test_a_sweep_makes_every_run_and_says_how_far_it_is(swept):
    out, seen = swept
    assert [state.done for state in seen] == [0, 1, 2, 3, 4]
    for arm in ARMS:
        for seed in (0, 1):
            run = load_run(out / arm / f"seed-{seed}")
            assert (run.seed, run.manifest["end"]["reason"]) == (seed, "virtual_time")
    assert not list(out.glob("**/.seed*"))


def test_a_study_can_be_compared(swept):
    arms = load_arms([swept[0]], running_mean=1)
    assert (arms.name, list(arms.runs), arms.baseline, arms.target) == ("tiny", ["few", "more"], "few", 0.2)


def test_finished_runs_are_kept_and_broken_ones_run_again(swept):
    out, _ = swept
    kept = out / "few" / "seed-0" / "manifest.json"
    before = kept.stat().st_mtime_ns
    broken = out / "more" / "seed-1" / "manifest.json"
    text = json.loads(broken.read_text())
    broken.write_text(json.dumps(text | {"end": {"at": 5, "reason": "interrupted"}}))
    seen = []
    sweep(STUDY, out, processes=1, on_progress=seen.append)
    assert [(state.done, state.found) for state in seen] == [(3, 3), (4, 3)]
    assert kept.stat().st_mtime_ns == before
    again = json.loads(broken.read_text())
    assert (again["timeline_hash"], again["end"]) == (text["timeline_hash"], text["end"])


def test_a_folder_of_another_study_is_refused(swept):
    other = Study(name="tiny", scenario="quickstart", arms=ARMS, seeds=(0,), overrides=(*SHORT, "start=09:00"))
    with pytest.raises(
        EvsimError, match="a run of another scenario; expected runs of this study; choose another --out"
    ):
        sweep(other, swept[0])


def test_a_run_that_fails_is_named_after_all_others_are_over(tmp_path):
    arms = {"good": (), "bad": ("data.dataset={kind='arrays',path='nowhere'}",)}
    study = Study(name="x", scenario="quickstart", arms=arms, seeds=(0,), overrides=SHORT)
    with pytest.raises(EvsimError, match=r"bad.seed-0: .*nowhere"):
        sweep(study, tmp_path / "x", processes=1)
    assert load_run(tmp_path / "x" / "good" / "seed-0").seed == 0
    assert not (tmp_path / "x" / "bad" / "seed-0").exists()


@pytest.mark.parametrize(
    ("arm", "told"),
    [
        (("evaluation.every=5",), r"odd: evaluation.every is .*set evaluation.every alike"),
        (("training=none",), "arm 'odd': training: \"none\"; expected runs that learn"),
    ],
)
def test_arms_that_no_comparison_would_take_are_refused_before_they_run(tmp_path, arm, told):
    study = replace(STUDY, arms={"even": (), "odd": arm})
    with pytest.raises(EvsimError, match=told):
        sweep(study, tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_dry_arms_have_no_target(tmp_path, monkeypatch):
    monkeypatch.setattr(running, "_in_parallel", lambda *_: iter(()))
    study = replace(STUDY, target_accuracy=None, overrides=(*SHORT, "training=none"), seeds=(0,))
    assert study.target() is None
    out = sweep(study, tmp_path / "x", processes=1)
    assert json.loads((out / "study.json").read_text())["target"] is None


def test_too_little_work_to_measure_is_trained_serially():
    scenario = Study(name="x", scenario="quickstart", arms={"a": ()}, seeds=(0,), overrides=(*SHORT[:-1],)).scenarios()
    assert measure(scenario["a", 0]) == {}


def test_the_executor_is_measured_once_and_pinned_for_all_arms(monkeypatch):
    monkeypatch.setattr("evsim.training.executors.auto._LITTLE_FLOPS", 0.0)
    study = Study(name="x", scenario="quickstart", arms=ARMS, seeds=(0,), overrides=(*SHORT[:-1],))
    pin = measure(study.scenarios()["few", 0])
    assert pin["kind"] in {"serial", "batched", "workers"}
    for scenario in study.scenarios(dict.fromkeys(ARMS, pin)).values():
        assert f'kind = "{pin["kind"]}"' in scenario.to_toml().partition("[executor]")[2].partition("[evaluation]")[0]


def load(*overrides):
    return Scenario.load("quickstart", [*SHORT[:-1], *overrides])


@pytest.mark.parametrize(
    ("overrides", "same"),
    [
        (("selection.kind=oort",), True),
        (("client_rule.learning_rate=0.5",), True),
        (("server_optimizer.kind=fedyogi",), True),
        (("aggregation.reporting_deadline=3min",), True),
        (("aggregation={ kind = 'buffered', concurrency = 20, buffer_size = 20 }",), True),
        (("aggregation={ kind = 'buffered', concurrency = 20, buffer_size = 1 }",), False),
        (("aggregation.cohort_goal=30",), False),
        (("client_rule.epochs=2",), False),
        (("client_rule.batch_size=20",), False),
        (("algorithm=fedprox",), False),
        (("model.hidden=[64]",), False),
        (("population.clients=30",), False),
        (("precision=float64",), False),
    ],
    ids=str,
)
def test_arms_are_of_one_kind_if_their_tasks_cost_the_same(overrides, same):
    assert (kind_of(load()) == kind_of(load(*overrides))) is same


def test_every_kind_of_arm_is_measured_once_and_what_a_folder_says_is_kept(tmp_path, monkeypatch):
    asked = []

    def inline(tasks, _, __):
        for kind, (text, _) in tasks.items():
            asked.append(text)
            yield kind, Answer(Pick({"kind": "serial", "threads": len(asked)}, "measured"))

    monkeypatch.setattr(picks_module, "in_processes", inline)
    one = "aggregation={ kind = 'buffered', concurrency = 20, buffer_size = 1 }"
    arms = {
        "a": load(),
        "b": load("selection.kind=oort"),
        "c": load(one),
        "d": load("executor={kind='batched',chunk=4}"),
    }
    picks = pinned(tmp_path, arms)
    assert {arm: pick.executor["threads"] for arm, pick in picks.items()} == {"a": 1, "b": 1, "c": 2}
    told = by_executor(picks)
    assert [(each["arms"], each["why"]) for each in told] == [(["a", "b"], "measured"), (["c"], "measured")]
    (tmp_path / "study.json").write_text(json.dumps({"executors": told}))
    assert pinned(tmp_path, arms) == picks
    assert len(asked) == 2
    (tmp_path / "study.json").write_text(json.dumps({"executor": {"kind": "batched", "chunk": 8}}))
    old = pinned(tmp_path, arms)
    assert {pick.executor["kind"] for pick in old.values()} == {"batched"}
    assert len(asked) == 2


def test_the_probe_measures_the_cohort_that_a_run_trains_together(monkeypatch):
    def seen(_, tasks, *__):
        raise EvsimError(f"{len(tasks)} together")

    monkeypatch.setattr("evsim.training.executors.auto._LITTLE_FLOPS", 0.0)
    monkeypatch.setattr(auto, "calibrate", seen)
    with pytest.raises(EvsimError, match=r"^(1[1-9]|2[0-9]) together"):  # of a cohort of 20 some are lost
        measure(load("executor.kind=auto"))


@pytest.mark.slow
def test_a_sweep_killed_in_the_middle_finishes_the_rest(tmp_path):
    text = 'name = "k"\nscenario = "quickstart"\nseeds = 4\ntarget_accuracy = 0.2\n'
    (tmp_path / "k.toml").write_text(f"{text}overrides = {json.dumps(list(SHORT))}\n[arms]\na = []\n")
    command = [sys.executable, "-m", "evsim.cli", "sweep", str(tmp_path / "k.toml"), "--out", str(tmp_path / "k")]
    first = subprocess.Popen([*command, "--processes", "1"], cwd=ROOT, start_new_session=True)
    while not list((tmp_path / "k").glob("a/seed-*")):
        time.sleep(0.1)
        assert first.poll() is None
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "k").glob("a/seed-*/manifest.json")}
    assert 1 <= len(kept) < 4
    done = subprocess.run([*command, "--processes", "2"], cwd=ROOT, check=True, capture_output=True, text=True)
    assert f"{len(kept)}/4 runs" in done.stderr
    assert all(path.stat().st_mtime_ns == when for path, when in kept.items())
    assert len(list((tmp_path / "k").glob("a/seed-*/manifest.json"))) == 4
    assert (tmp_path / "k" / "report.html").is_file()
