"""The automatic choice: when it measures, what it says, what it remembers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from evsim.base import registry
from evsim.base.errors import PolicyError
from evsim.testing.executors import MODELS, ExecutorContract, make_job, make_tasks, mlp
from evsim.training.executors import auto, calibration
from evsim.training.executors.auto import Auto
from evsim.training.executors.base import Executor, Job
from evsim.training.executors.batched import Batched
from evsim.training.executors.calibration import (
    Cache,
    Pick,
    candidates,
    describe,
    estimated_flops,
    fingerprint,
    settings_of,
)
from evsim.training.executors.serial import Serial
from evsim.training.executors.workers import Workers


@pytest.fixture(autouse=True)
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "evsim" / "executors"


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auto, "_LITTLE_FLOPS", 0.0)
    monkeypatch.setattr(calibration, "_ENOUGH_S", 0.02)
    monkeypatch.setattr(calibration, "_LONG_S", 0.05)


class TestAuto(ExecutorContract):
    def make(self) -> Executor:
        return Auto(cache=False)


def planned(job: Job, executor: Executor) -> dict[str, Any]:
    runner = executor.open(job)
    list(runner.run(make_tasks(job)))
    plan = dict(runner.plan)
    runner.close()
    json.dumps(plan)  # it goes into the manifest
    return plan


def test_little_work_is_trained_serially_and_never_measured(cache_folder: Path) -> None:
    plan = planned(make_job(mlp()), Auto())
    assert plan["picked"]["kind"] == "serial"
    assert plan["why"] == "too little work to calibrate"
    assert not cache_folder.exists()


def test_how_much_work_is_little_is_counted_not_timed() -> None:
    small, large = make_job(mlp()), make_job(MODELS["group_norm"]())
    assert estimated_flops(small) == 1e7 + 3 * 4 * 2 * (64 * 8 + 8 * 5)
    assert estimated_flops(large) > estimated_flops(small)


@pytest.mark.usefixtures("eager")
def test_much_work_is_measured_and_the_plan_says_what_and_why() -> None:
    plan = planned(make_job(mlp()), Auto(limit_s=60))
    assert plan["source"] == "measured"
    assert plan["calibration_s"] < 60
    assert describe(Serial(threads=1)) in plan["rates"]
    assert f"{plan['pin']['kind']}(" in plan["why"]
    pin = dict(plan["pin"])
    pinned = registry.load("executor", pin.pop("kind"))(**pin)
    assert settings_of(pinned) == plan["pin"]


@pytest.mark.usefixtures("eager")
def test_a_pick_is_remembered_for_the_same_model_and_machine(cache_folder: Path) -> None:
    job = make_job(mlp())
    Cache(job, len(make_tasks(job)), summed=False).save(
        Pick(executor=Batched(chunk=3), rates={"batched": 2.0}, seconds=1.0)
    )
    (saved,) = cache_folder.iterdir()
    plan = planned(job, Auto())
    assert plan["source"] == "cached"
    assert plan["picked"]["chunk"] == 3
    saved.write_text("{ nonsense")
    assert planned(job, Auto(limit_s=60))["source"] == "measured"
    assert set(json.loads(saved.read_text())["rates"]) == {describe(each) for each in candidates(job, 8)}


@pytest.mark.usefixtures("eager")
def test_a_pick_with_rivals_that_were_not_measured_says_so_and_is_not_kept(cache_folder: Path) -> None:
    job = make_job(mlp())
    plan = planned(job, Auto(limit_s=0.01))
    assert plan["why"].startswith("serial(threads=1) is the only one measured: ")
    assert all(describe(each) in plan["why"] for each in candidates(job, 8)[1:])
    assert plan["source"] == "measured; not kept, since rivals were not measured"
    assert not cache_folder.exists()
    half = Pick(executor=Batched(chunk=3), rates={"a": 2.0, "b": "no time left to measure it"}, seconds=1.0)
    cache = Cache(job, 8, summed=False)
    cache._path.parent.mkdir(parents=True)
    cache._path.write_text(json.dumps({"settings": settings_of(half.executor), "rates": half.rates, "seconds": 1.0}))
    assert cache.load() is None  # an older version has kept it


@pytest.mark.usefixtures("eager")
def test_one_task_at_a_time_has_one_candidate_and_many_later_ask_again() -> None:
    job = make_job(mlp())
    runner = Auto(cache=False, limit_s=0.01).open(job)
    for task in make_tasks(job):
        list(runner.run([task]))
    assert runner.plan["why"] == "serial(threads=1) has no rival for this work"
    list(runner.run(make_tasks(job, nth=1)))
    assert str(runner.plan["why"]).startswith("serial(threads=1) is the only one measured")
    runner.close()


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("model", ["mlp", "group_norm"])
@pytest.mark.parametrize("n_tasks", [1, 2, 20, 32, 33, 500])
def test_no_candidate_is_tried_twice(monkeypatch: pytest.MonkeyPatch, threads: int, model: str, n_tasks: int) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    found = [describe(each) for each in candidates(make_job(MODELS[model]()), n_tasks)]
    assert len(found) == len(set(found))


@pytest.mark.usefixtures("eager")
def test_a_cache_folder_that_cannot_be_written_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert planned(make_job(mlp()), Auto(limit_s=60))["source"].startswith("measured; the cache folder cannot")


@pytest.mark.usefixtures("eager")
def test_a_model_that_cannot_be_batched_is_not_and_the_plan_says_so() -> None:
    plan = planned(make_job(MODELS["gru_dropout"]()), Auto(cache=False, limit_s=600))  # long: machines may be busy
    reasons = [rate for name, rate in plan["rates"].items() if name.startswith("batched")]
    assert reasons
    assert all("not keyed" in reason for reason in reasons)
    assert plan["picked"]["kind"] in {"serial", "workers"}


def test_the_fingerprint_knows_model_work_and_cohort() -> None:
    job = make_job(mlp())
    assert fingerprint(job, 8, summed=False) == fingerprint(make_job(mlp()), 9, summed=False)
    assert fingerprint(job, 8, summed=False) != fingerprint(job, 100, summed=False)
    assert fingerprint(job, 8, summed=False) != fingerprint(make_job(MODELS["dropout"]()), 8, summed=False)
    assert fingerprint(job, 8, summed=False) != fingerprint(make_job(mlp(), sizes=(90, 90)), 8, summed=False)


def test_one_task_at_a_time_is_not_dealt_to_workers() -> None:
    job = make_job(mlp())
    assert not any(isinstance(each, Workers) for each in candidates(job, 1))
    assert any(isinstance(each, Batched) for each in candidates(job, 50))


def test_auto_refuses_no_time() -> None:
    with pytest.raises(PolicyError, match="limit_s must be > 0, but got limit_s=0"):
        Auto(limit_s=0)
