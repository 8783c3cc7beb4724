"""Partial work: a client that would miss the deadline does the steps that fit, on the clock and in training."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evsim.algorithms.base import Schedule
from evsim.algorithms.fedprox import FedProx
from evsim.algorithms.scaffold import ScaffoldSgd
from evsim.results import load_run
from evsim.run.simulation import Simulation
from evsim.scenario import Scenario
from evsim.training.executors.batched import Batched
from tests.algorithms.oracle import SIZES, Drive, client_batches, learning, local, parameters, problem

TIGHT = [
    "population.clients=40",
    "population.availability=always",
    "executor.kind=serial",
    "stop.rounds=3",
    "stop.target_accuracy=0.999",
    "aggregation={kind='synchronous',cohort_goal=30,minimum_cohort=30,minimum_reports=1,reporting_deadline='60s'}",
    "cost={model_bytes=1000,sample_scale=50}",
    "client_rule={kind='fedprox',mu=0.1,learning_rate=0.1,batch_size=4,epochs=4}",
]


@given(st.integers(0, 30), st.integers(1, 8), st.integers(1, 4), st.booleans(), st.integers(0, 200))
@settings(max_examples=50, derandomize=True, deadline=None)
def test_steps_and_samples_of_a_cut_task_agree_with_the_list_of_its_batches(n, batch, amount, by_epochs, processed):
    schedule = Schedule(batch, epochs=amount) if by_epochs else Schedule(batch, steps=3 * amount)
    one_pass = [min(batch, n - start) for start in range(0, n, batch)]
    steps = int(schedule.n_steps(np.array([n]))[0])
    sizes = (one_pass * 12 * batch)[:steps]
    whole = [k for k in range(steps + 1) if sum(sizes[:k]) <= processed][-1]
    assert int(schedule.n_steps_within(np.array([n]), np.array([processed]))[0]) == whole
    assert int(schedule.n_processed_in(np.array([n]), np.array([whole]))[0]) == sum(sizes[:whole])


def test_training_stops_after_the_steps_that_fit():
    rule = FedProx(mu=0.5, learning_rate=0.2, batch_size=4, epochs=3)
    data = problem()
    drive = Drive(learning(data, client_rule=rule))
    w = parameters(drive.server)
    limits = {0: 0, 1: 4, 3: 1}
    drive.server.dispatched(np.arange(3), np.array(list(limits)), np.zeros(3, int), np.array(list(limits.values())))
    drive.server.apply(np.arange(3))
    ys = [
        local(w, client_batches(rule, data, k, 0)[: limit or None], 0.2, lambda g, y: g + 0.5 * (y - w))
        for k, limit in limits.items()
    ]
    sizes = [SIZES[k] for k in limits]
    np.testing.assert_allclose(parameters(drive.server), np.average(ys, axis=0, weights=sizes), rtol=0, atol=1e-12)


def test_stacked_clients_stop_each_after_its_own_steps():
    found = []
    for executor in (None, Batched(chunk=4)):
        rule = FedProx(mu=0.5, learning_rate=0.2, batch_size=4, epochs=3, momentum=0.5)
        drive = Drive(learning(problem(), executor=executor, client_rule=rule))
        limits = np.array([3, 0, 9, 1, 0, 2])
        drive.server.dispatched(np.arange(6), np.arange(6), np.zeros(6, int), limits)
        drive.server.apply(np.arange(6))
        found.append(parameters(drive.server))
    np.testing.assert_allclose(found[0], found[1], rtol=0, atol=1e-12)


def test_scaffold_counts_the_steps_that_were_really_taken():
    rule = ScaffoldSgd(learning_rate=0.2, batch_size=4, epochs=3)
    from evsim.algorithms.scaffold import Scaffold, WithControl

    drive = Drive(learning(problem(), client_rule=rule, broadcast=WithControl(), server_optimizer=Scaffold()))
    w = parameters(drive.server)
    drive.server.dispatched(np.arange(1), np.array([3]), np.zeros(1, int), np.array([2]))
    drive.server.apply(np.arange(1))
    moved = parameters(drive.server) - w
    state = drive.server.client_states.get(3)["rule"]["control"]
    control = np.concatenate([state["weight"].numpy().ravel(), state["bias"].numpy()])
    np.testing.assert_allclose(control, -moved / (2 * 0.2), rtol=0, atol=1e-14)


@pytest.mark.parametrize("option", [1, 2])
def test_the_pass_before_the_first_step_takes_its_share_of_the_time(option):
    rule, n = ScaffoldSgd(learning_rate=0.2, batch_size=5, epochs=2, option=option), np.array([10])
    assert rule.n_steps_within(n, np.array([15])).tolist() == [1 if option == 1 else 3]
    assert rule.work_of(n, np.array([1])).samples.tolist() == [15 if option == 1 else 5]


def _tasks(folder, partial):
    scenario = Scenario.load("quickstart", [*TIGHT, f"client_rule.partial_work={str(partial).lower()}"])
    return load_run(Simulation(scenario).run(folder, None)).tasks


def test_slow_clients_report_what_fits_instead_of_being_late(tmp_path):
    full, cut = _tasks(tmp_path / "full", partial=False), _tasks(tmp_path / "cut", partial=True)
    first_full, first_cut = full[full["round"] == 0], cut[cut["round"] == 0]
    assert first_full["client"].tolist() == first_cut["client"].tolist()
    lasted = (first_full["ended_at"] - first_full["dispatched_at"]).to_numpy()
    one_step = lasted / 20  # 20 samples in batches of 4, 4 times: transfers take a few ms here
    cut_short = (lasted > 60_000) & (one_step < 59_900)
    assert cut_short.sum() > 20
    assert set(first_full["outcome"][cut_short]) == {"late"}
    rows = first_cut[cut_short]
    assert set(rows["outcome"]) == {"aggregated"}
    assert ((rows["ended_at"] - rows["dispatched_at"]) <= 60_000).all()
    steps, rest = np.divmod(rows["charged_samples"].to_numpy(), 200)  # a batch of 4 samples, each charged 50 times
    assert not rest.any()
    longer = one_step[cut_short] * (steps + 1)
    assert (longer > 59_900).all()  # one step more would not have fitted
    others = ~cut_short & (first_cut["outcome"] != "in_flight").to_numpy()
    assert others.any()
    assert first_cut["compute_ms"][others].tolist() == first_full["compute_ms"][others].tolist()
