"""Large models: how many clients are stacked, when executors differ by more than rounding, what is not measured."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from evsim.algorithms.sgd import Sgd
from evsim.testing.executors import SIDE, make_job, make_model_job, make_tasks, mlp, opened
from evsim.training.executors import calibration, footprint
from evsim.training.executors.agreement import largest_difference
from evsim.training.executors.batched import Batched, BatchedRunner
from evsim.training.executors.calibration import calibrate, describe
from evsim.training.executors.doubled import in_double
from evsim.training.executors.footprint import clients_that_fit, model_bytes, step_bytes
from evsim.training.executors.serial import Serial
from evsim.training.executors.threads import limited_threads
from evsim.training.executors.workers import Workers
from evsim.training.models.text import CharLstm


def linear() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(SIDE * SIDE, 5))


def test_a_step_keeps_its_activations_twice_and_a_gradient_for_each_use_of_a_leaf():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.layer = nn.Linear(SIDE * SIDE, 5), nn.Linear(5, 5)

        def forward(self, x):
            return self.layer(self.layer(self.first(x.flatten(1))))

    inputs, hidden = 4 * SIDE * SIDE * 8, 4 * 5 * 8  # of a batch of 4 in float64
    assert step_bytes(make_job(linear())) == 2 * inputs
    assert step_bytes(make_job(Twice())) == 2 * (inputs + 2 * hidden) + 2 * 5 * 5 * 8
    frozen = Twice()
    frozen.layer.requires_grad_(False)
    assert step_bytes(make_job(frozen)) == 2 * inputs  # only the first layer needs anything
    assert model_bytes(make_job(frozen)) == (SIDE * SIDE * 5 + 5) * 8


def test_as_many_clients_are_stacked_as_fit(monkeypatch):
    job = make_job(linear())
    assert clients_that_fit(job) == 50
    monkeypatch.setattr(footprint, "_STEP_BYTES", 7 * step_bytes(job) + 1)
    assert clients_that_fit(job) == 7
    monkeypatch.setattr(footprint, "_MODEL_BYTES", 3 * model_bytes(job))
    assert clients_that_fit(job) == 3
    monkeypatch.setattr(footprint, "_MODEL_BYTES", 1)
    assert clients_that_fit(job) == 1
    assert BatchedRunner(job, Batched()).plan["chunk"] == 1
    assert BatchedRunner(job, Batched(chunk=9)).plan["chunk"] == 9


def test_a_long_text_counts_a_gradient_at_every_character():
    job = make_model_job("char_lstm")
    long = CharLstm(embedding=4, hidden=6).build(shape=(60,), n_classes=5, n_tokens=11, seed=0)
    x = torch.randint(0, 11, (len(job.data.x), 60))
    longer = replace(job, model=long.double(), data=replace(job.data, x=x))
    assert 8 * step_bytes(job) < step_bytes(longer) < 12 * step_bytes(job)  # 60 characters for 6


def test_a_model_that_raises_takes_nothing():
    class Broken(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 3)

        def forward(self, x):
            raise ValueError("never")

    assert step_bytes(make_job(Broken())) == 0
    assert clients_that_fit(make_job(Broken())) == 50


# -- rounding, or more -------------------------------------------------------------------------------------------------


class Otherwise(nn.Module):
    """Gives something else when clients are stacked: no rounding."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = linear()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        stacked = torch._C._functorch.is_functorch_wrapped_tensor(x)
        return self.inner(x) * (1.01 if stacked else 1.0)


@pytest.mark.parametrize(("make", "differs"), [(linear, False), (Otherwise, True)])
def test_only_double_precision_tells_rounding_from_another_result(make, differs):
    job = make_job(make(), Sgd(learning_rate=0.1, batch_size=4), dtype=torch.float32)
    runner = BatchedRunner(job, Batched())
    tasks = make_tasks(job)
    found = runner._more_than_rounding([tasks[4], tasks[3], tasks[0]], "they differ")  # by falling steps
    assert found == ("they differ" if differs else "")
    exact = make_job(make())
    assert BatchedRunner(exact, Batched())._more_than_rounding(make_tasks(exact), "they differ") == "they differ"


def test_tasks_in_double_precision_are_on_their_own_samples_alone():
    job = make_job(mlp(), Sgd(learning_rate=0.1, batch_size=50), dtype=torch.float32)
    tasks = make_tasks(job)
    some = [tasks[3], tasks[0], tasks[1]]
    twin, changed = in_double(job, some)
    assert [len(twin.data.of_client(place)) for place in range(3)] == [13, 7, 0]
    assert twin.dtype == twin.data.x.dtype == torch.float64
    with opened(Serial(), job) as one, opened(Serial(), twin) as other:
        for right, found in zip(one(some), other(changed), strict=True):  # full batches: the order does not matter
            assert largest_difference(right, found) < 1e-5
    assert next(job.model.parameters()).dtype == torch.float32


def test_a_model_that_differs_by_more_than_rounding_goes_serially():
    job = make_job(Otherwise(), dtype=torch.float32)
    runner = BatchedRunner(job, Batched())
    with pytest.warns(UserWarning, match="its updates differ from those of Serial"):
        list(runner.run(make_tasks(job)))
    assert "fallback" in runner.plan


# -- heavy work --------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:the model cannot be trained in batches")
def test_where_a_task_takes_long_nothing_is_repeated_and_each_core_gets_its_own(monkeypatch):
    monkeypatch.setattr(calibration, "_HEAVY_S", 0.0)  # as if every task took long
    monkeypatch.setattr(calibration, "usable_cores", lambda: 2)
    trained = []

    def seconds(self, runner):
        trained.append(len(self.tasks))
        return 20.0

    monkeypatch.setattr(calibration._Trial, "seconds", seconds)
    monkeypatch.setattr(calibration, "_is_heavy", lambda pace: pace > 0)
    job = make_job(mlp())
    pick = calibrate(job, make_tasks(job), None, limit_s=10.0)
    assert trained == [1]
    assert pick.executor == Workers()
    assert pick.why == "a task takes too long to measure rivals (serial(threads=1) 0.05/s), so each core gets its own"
    assert set(pick.unmeasured) == set(pick.rates) - {describe(Serial(threads=1))}


def test_a_rival_without_a_chance_is_tried_once(monkeypatch):
    monkeypatch.setattr(calibration, "_is_heavy", lambda pace: pace > 0)
    passes = []

    def seconds(self, runner):
        passes.append(runner.plan["kind"])
        return 1.0 if runner.plan["kind"] == "serial" else 100.0

    monkeypatch.setattr(calibration._Trial, "seconds", seconds)
    monkeypatch.setattr(calibration, "can_fork", lambda _: False)
    job = make_job(mlp())
    with limited_threads(1):  # with more, serial training is tried with them, too
        pick = calibrate(job, make_tasks(job), None, limit_s=1000.0)
    assert pick.executor == Serial(threads=1)
    assert passes == ["serial"] + ["batched"] * (len(passes) - 1)
    assert len(passes) == len(pick.rates)
