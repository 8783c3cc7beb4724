"""Parts of a pass and drawn passes: the same steps on the clock, in training and in the table."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import ceil
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evsim.algorithms.adam import Adam
from evsim.algorithms.base import ClientRule, Method
from evsim.algorithms.broadcast import FullModel
from evsim.algorithms.checks import check_method
from evsim.algorithms.epochs import Epochs, UniformEpochs
from evsim.algorithms.fednova import NovaSgd
from evsim.algorithms.mean import Mean
from evsim.algorithms.schedule import Schedule, TaskNames
from evsim.algorithms.server_sgd import ServerSgd
from evsim.algorithms.sgd import Sgd
from evsim.algorithms.weighting import SampleWeights
from evsim.base import rng
from evsim.base.errors import PolicyError, ScenarioError
from evsim.results import load_run
from evsim.run.simulation import Simulation
from evsim.scenario import Scenario
from evsim.testing.epochs import EpochsContract
from evsim.testing.executors import assert_agree, make_job, make_tasks, mlp, opened
from evsim.training.executors.batched import Batched
from evsim.training.executors.batches import batches, plan_batches
from evsim.training.executors.serial import Serial
from evsim.training.executors.workers import Workers
from evsim.verify import verify

DRAWN = UniformEpochs(from_=1, to=3)


class TestUniform(EpochsContract):
    def make(self):
        return UniformEpochs(from_=2, to=5)


class TestAlwaysTheSame(EpochsContract):
    def make(self):
        return UniformEpochs(from_=4, to=4)


# -- the rule ----------------------------------------------------------------------------------------------------------


@given(st.integers(0, 200), st.integers(1, 9), st.integers(1, 400), st.sampled_from([10, 100, 1000]), st.booleans())
@settings(max_examples=200, derandomize=True, deadline=None)
def test_a_part_of_a_pass_is_rounded_up_to_whole_steps_as_it_is_written(n, batch, numerator, denominator, drop_last):
    schedule = Schedule(batch, epochs=float(f"{numerator / denominator}"), drop_last=drop_last)
    b = schedule.per_pass(np.array([n]))[0].item()
    steps = schedule.n_steps(np.array([n])).item()
    assert steps == ceil(Fraction(numerator, denominator) * b)
    assert (steps >= 1) == (n > 0)
    found = batches(schedule, n, 5, 0, 0)
    assert len(found) == steps
    assert schedule.n_processed(np.array([n])).item() == sum(len(each) for each in found)


@pytest.mark.parametrize(
    ("epochs", "steps"),
    [(0.25, 8), (0.1, 3), (0.3, 9), (1 / 3, 10), (2 / 3, 20), (1e-9, 1), (1.0, 30), (1, 30), (1.5, 45), (2.01, 61)],
)
def test_a_share_is_the_number_that_was_written_not_the_one_next_to_it(epochs, steps):
    """0.1 x 30 is 3.0000000000000004 in floating point, whose ceiling is 4."""
    assert Schedule(2, epochs=epochs).n_steps(np.array([60, 0])).tolist() == [steps, 0]


def test_every_number_of_passes_is_drawn_as_often_as_any_other():
    passes = UniformEpochs(from_=1, to=5).draw(rng.key(0, "epochs"), np.arange(100_000), np.zeros(100_000, int))
    counts = np.bincount(passes, minlength=6)
    assert counts[0] == 0
    chi2 = ((counts[1:] - 20_000) ** 2 / 20_000).sum()
    assert chi2 < 18.5  # 4 degrees of freedom: exceeded once in 1,000 seeds


def test_seeds_clients_and_tasks_draw_each_their_own():
    schedule, sizes = Schedule(5, epochs=UniformEpochs(from_=1, to=9)), np.full(60, 10)
    clients, nth = np.arange(60), np.zeros(60, int)
    steps = schedule.n_steps(sizes, TaskNames(0, clients, nth))
    assert len(set(steps.tolist())) > 1
    assert (steps != schedule.n_steps(sizes, TaskNames(1, clients, nth))).any()
    assert (steps != schedule.n_steps(sizes, TaskNames(0, clients, nth + 1))).any()
    assert schedule.n_steps(sizes).tolist() == [18] * 60  # what nobody exceeds


# -- training ----------------------------------------------------------------------------------------------------------

RULES = {
    "part of a pass": Sgd(learning_rate=0.1, batch_size=3, epochs=0.4, momentum=0.5),
    "more than one": Adam(learning_rate=0.1, batch_size=3, epochs=1.3),
    "drawn": Sgd(learning_rate=0.1, batch_size=3, epochs=DRAWN),
    "drawn, normalized": NovaSgd(learning_rate=0.1, batch_size=3, epochs=DRAWN, momentum=0.5),
}


@pytest.mark.parametrize("executor", [Batched(chunk=3), Workers(workers=2)], ids=["batched", "workers"])
@pytest.mark.parametrize("rule", RULES.values(), ids=list(RULES))
def test_all_executors_take_the_same_steps(rule, executor):
    job = make_job(mlp(), rule)
    tasks = make_tasks(job, nth=2)
    with opened(Serial(), job) as run:
        expected = run(tasks)
    clients = np.arange(len(tasks))
    sizes, names = np.diff(job.data.offsets), TaskNames(job.seed, clients, np.full(len(tasks), 2))
    assert [result.steps for result in expected] == rule.schedule.n_steps(sizes, names).tolist()
    with opened(executor, job) as run:
        assert_agree(job, expected, run(tasks))


def test_batches_of_drawn_passes_are_those_of_each_task():
    schedule, job = Schedule(3, epochs=DRAWN), make_job(mlp())
    tasks = make_tasks(job, nth=4)
    plan = plan_batches(schedule, job.data, job.seed, tasks)
    for k, task in enumerate(tasks):
        own, key = job.data.of_client(task.client), rng.key(job.seed, "local")
        steps = batches(schedule, len(own), key, task.client, 4, int(plan.steps[k]))
        for step, positions in enumerate(steps):
            assert own[positions].tolist() == plan.rows[k, step, : plan.counts[k, step]].tolist()


# -- whole runs --------------------------------------------------------------------------------------------------------

WORLD = {
    "name": "drawn",
    "seed": 4,
    "precision": "float64",
    "data": {"dataset": {"kind": "synthetic", "most_samples": 150}, "partition": {"kind": "natural"}},
    "model": {"kind": "softmax"},
    "executor": {"kind": "serial"},
    "evaluation": {"every": "1h"},
    "stop": {"rounds": 12},
    "population": {
        "clients": 40,
        "availability": {"days": 1, "session_mean_s": 2400.0},
        "speed": {"compute_ms_per_sample": 20, "download_kbps": 5000, "upload_kbps": 2000, "compute_jitter": 0},
    },
    "cost": {"model_bytes": 500_000, "sample_scale": 8.0},
    "aggregation": {"kind": "synchronous", "cohort_goal": 8, "minimum_cohort": 5, "reporting_deadline": "6min"},
}
EPOCHS = {"part": 0.3, "drawn": {"kind": "uniform", "from": 1, "to": 5}}
SERVERS = {
    "rounds": {},
    "partial": {"client_rule": {"partial_work": True}, "aggregation": {"reporting_deadline": "15s"}},
    "buffers": {"aggregation": {"kind": "buffered", "concurrency": 12, "buffer_size": 4}},
    "adam": {"client_rule": {"kind": "adam"}},
    "queries": {"selection": {"kind": "power_of_choice", "d": 10}},
    "last batch dropped": {"client_rule": {"drop_last": True}},
}


def scenario_of(epochs, server, **more):
    tables = dict(WORLD) | more
    for name, own in SERVERS[server].items():
        both = {} if name == "aggregation" and "kind" in own else tables.get(name, {})
        tables[name] = {**both, **own}
    rule = {"kind": "sgd", "learning_rate": 0.05, "batch_size": 20, "epochs": EPOCHS[epochs]}
    return Scenario.from_dict({**tables, "client_rule": {**rule, **tables.get("client_rule", {})}})


@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize("epochs", EPOCHS)
def test_the_clock_charges_the_steps_that_are_taken_and_verify_knows_them(epochs, server, tmp_path):
    scenario = scenario_of(epochs, server)
    folder = Simulation(scenario, device="cpu").run(tmp_path / "run")
    tasks = load_run(folder).tasks
    tasks = tasks[tasks["kind"] == "train"]
    schedule = scenario.client_rule.schedule
    names = TaskNames(4, tasks["client"].to_numpy(), tasks["nth"].to_numpy())
    steps = schedule.n_steps(tasks["samples"].to_numpy(), names)
    cut = tasks["max_steps"].notna().to_numpy()
    assert cut.any() == (server == "partial")
    done = tasks["steps"].to_numpy()
    assert done[~cut].tolist() == steps[~cut].tolist()
    assert (done[cut] < steps[cut]).all()
    samples = schedule.n_processed_in(tasks["samples"].to_numpy(), done)
    expected = np.rint(samples * 3.0 * 8.0 * 20)
    assert np.abs(tasks["planned_compute_ms"].to_numpy() - expected).max() == 0
    assert [f"{check.name}: {check.violation}" for check in verify(folder).checks if not check.ok] == []
    assert not [check.name for check in verify(folder).checks if check.skipped and "steps" in check.name]


@pytest.mark.parametrize("epochs", EPOCHS)
def test_a_dry_run_has_the_timeline_of_the_run_that_trains(epochs, tmp_path):
    hashes = []
    for training in ("real", "none"):
        more = {"training": training}
        folder = Simulation(scenario_of(epochs, "rounds", **more), device="cpu").run(tmp_path / training)
        hashes.append(load_run(folder).manifest["timeline_hash"])
    assert hashes[0] == hashes[1]


@pytest.mark.parametrize("epochs", EPOCHS)
def test_a_scenario_reads_back_what_it_wrote(epochs):
    import tomllib

    scenario = scenario_of(epochs, "rounds")
    assert Scenario.from_dict(tomllib.loads(scenario.to_toml())) == scenario


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("epochs", [0, -1, 0.0, -0.5, 10**7, float("inf"), float("nan")])
def test_no_passes_at_all_are_refused(epochs):
    for rule in (Sgd, Adam):
        with pytest.raises(PolicyError, match="epochs must be"):
            rule(learning_rate=0.1, epochs=epochs)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("0", "client_rule.epochs: epochs must be > 0, but got epochs=0"),
        ("{kind='uniform', from=3, to=2}", "client_rule.epochs.from: from must be <= to"),
        ("{kind='uniform', from=0, to=2}", "client_rule.epochs.from: from must be >= 1"),
        ("{kind='uniform', from=1}", "client_rule.epochs.to: missing"),
        ("{kind='uniform', form=1, to=2}", "client_rule.epochs.form: unknown key, given 1; did you mean 'from'?"),
        ("{kind='uniform', from=1.5, to=2}", "client_rule.epochs.from: 1.5; expected an integer"),
        ("{kind='normal', from=1, to=2}", "client_rule.epochs.kind: unknown kind 'normal'"),
        ("'all'", "client_rule.epochs.kind: unknown kind 'all'"),
        ("true", "client_rule.epochs: True; expected an integer or a number or a kind or a table with a kind"),
    ],
)
def test_a_scenario_says_where_its_passes_are_wrong(given, said):
    with pytest.raises(ScenarioError) as caught:
        Scenario.load("quickstart", [f"client_rule.epochs={given}"])
    assert said in str(caught.value)


@dataclass(frozen=True, kw_only=True)
class Opaque(ClientRule):
    """A rule that cannot say what so many steps cost."""

    schedule: ClassVar[Schedule] = Schedule(4, epochs=DRAWN)
    work = wires = init_client = begin = loss = step = finish = None


def test_a_rule_that_draws_must_say_what_steps_cost():
    rest = {"upload": (), "weighting": SampleWeights(), "merge": Mean(), "server_optimizer": ServerSgd()}
    (problem,) = check_method(Method(broadcast=FullModel(), client_rule=Opaque(), **rest), 0)
    assert problem.where == "client_rule"
    assert "work_of" in problem.expected


def test_a_kind_of_your_own_draws_as_well():
    @dataclass(frozen=True, kw_only=True)
    class EveryOther(Epochs):
        most = 2

        def draw(self, key, clients, nth):
            return 1 + nth % 2

    schedule = Schedule(5, epochs=EveryOther())
    assert schedule.n_steps(np.array([10, 10]), TaskNames(0, np.array([3, 3]), np.array([0, 1]))).tolist() == [2, 4]
