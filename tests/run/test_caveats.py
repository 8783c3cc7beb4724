"""Caveats measured on tables made by hand: each appears with its measure, and not without its cause."""

from __future__ import annotations

import time

import numpy as np
import pandas as pd
import pytest

from evsim.run.caveats import lost_slots, measured

HOUR = 3_600_000
ROUNDS = {"kind": "synchronous", "cohort_goal": 4, "over_commitment": 1.5, "reporting_deadline": 600}
BUFFER = {"kind": "buffered", "concurrency": 4, "buffer_size": 2}
TASK = {"kind": "train", "client": 0, "round": 0, "dispatched_at": 0, "ended_at": 60, "known_at": 60} | {
    "outcome": "aggregated"
}
STEP = {"round": 0, "started_at": 0, "closed_at": 100, "reason": "goal", "applied": True, "invited": 6, "reports": 4}


def frame(row, changes, nullable=()):
    found = pd.DataFrame([row | change for change in changes], columns=list(row))
    return found.astype(dict.fromkeys(nullable, "Int64"))


def tables(tasks=({},) * 4, steps=({},), values=(0.1,) * 20, online=(9, 9), triggers=()):
    at = np.arange(len(values)) * 50
    evaluations = {"at": at, "version": at // 50, "trigger": "grid", "split": "test", "metric": "loss", "value": values}
    return {
        "tasks": frame(TASK, tasks, ("ended_at", "known_at")),
        "server_steps": frame(STEP, steps),
        "evaluations": pd.DataFrame(evaluations),
        "availability": pd.DataFrame({"at": np.arange(len(online)) * 1000 // len(online), "online": online}),
    }


def told(found, aggregation=ROUNDS, **manifest):
    known = {"end": {"at": 1000}, "training": "real"} | manifest
    return {each.key: each.measure for each in measured(found, known, {"aggregation": aggregation})}


def test_a_sound_run_has_none():
    assert told(tables()) == {}
    full = [{"client": n, "ended_at": None, "known_at": None, "outcome": "in_flight"} for n in range(4)]
    assert told(tables(tasks=full), BUFFER) == {}


def test_slots_of_lost_devices_are_held_until_the_loss_is_known():
    rows = [
        {"outcome": "dropped", "ended_at": 200, "known_at": 700},
        {"outcome": "dropped", "ended_at": 600, "known_at": None},
        {"outcome": "dropped", "ended_at": 100, "known_at": 400, "kind": "query"},
        {"known_at": 900},
    ]
    found = tables(tasks=rows)
    known = {"end": {"at": 1000}}
    assert lost_slots(found, known, {"aggregation": BUFFER}) == (0.9, 4)
    assert told(found, BUFFER)["slots_held_by_lost"] == "0.9 of 4 slots on average"
    assert lost_slots(found, known, {"aggregation": ROUNDS}) is None
    assert "slots_held_by_lost" not in told(found)


def test_tasks_that_a_buffer_stopped_outlast_its_timeout():
    rows = [{}] * 90 + [{"outcome": "aborted"}] * 9 + [{"outcome": "aborted", "kind": "query"}]
    assert told(tables(tasks=rows), BUFFER)["timed_out"] == "9% of tasks"
    assert "timed_out" not in told(tables(tasks=[{}] * 99 + [{"outcome": "aborted"}]), BUFFER)
    assert "timed_out" not in told(tables(tasks=rows))  # a round stops stragglers at its close


def test_a_round_without_a_choice_is_told_by_who_was_idle_or_by_fewer_invited_than_wanted():
    steps = [{"invited": 6}, {"invited": 5}, {"invited": 6}, {"invited": 6}]
    assert told(tables(steps=steps))["no_choice"] == "in 25% of rounds"
    found = tables(steps=steps)
    found["server_steps"]["idle"] = [6, 5, 7, 6]
    assert told(found)["no_choice"] == "in 75% of rounds"
    found["server_steps"]["idle"] = [60, 50, 70, 60]
    assert "no_choice" not in told(found)


def test_a_buffer_with_a_free_slot_has_nobody_left_to_choose():
    rows = [{"dispatched_at": 0, "known_at": end} for end in (1000, 1000, 1000, 400)]
    assert told(tables(tasks=rows), BUFFER)["no_choice"] == "in 60% of the time"


def test_rounds_without_deadline_and_spare_wait_for_the_slowest():
    rows = [{"round": 0, "ended_at": at} for at in (10, 20, 30, 90)]
    rows += [{"round": 1, "ended_at": at} for at in (150, 160)]
    steps = [{"closed_at": 90, "invited": 4}, {"round": 1, "started_at": 90, "closed_at": 190, "invited": 4}]
    alone = {"kind": "synchronous", "cohort_goal": 4}
    # (90 - 30) + (190 - 150) of 90 + 100
    assert told(tables(rows, steps), alone)["slowest_client"].startswith("53% of the time")
    for other in ({"over_commitment": 1.3}, {"reporting_deadline": 600}, {"pacing": {"kind": "oort"}}):
        assert "slowest_client" not in told(tables(rows, steps), alone | other)


def test_short_cohorts_failed_rounds_and_stragglers():
    steps = [{"invited": 3}, {"invited": 6}, {"applied": False, "invited": 2}]
    assert told(tables(steps=steps))["short_cohorts"] == "50% of applied rounds, down to 3 of 4"
    assert told(tables(steps=steps))["failed_rounds"] == "1 of 3"
    spared = tables(steps=steps)
    spared["server_steps"]["goal"] = [2, 4, 2]  # of three invited two are wanted: one may be lost
    assert "short_cohorts" not in told(spared)
    rows = [{"client": 1, "outcome": "late"}, {"client": 2, "outcome": "late"}, {"client": 2}, {"client": 3}]
    assert told(tables(tasks=rows))["stragglers_lost"] == "50% of reports; 1 clients reported late only"


def test_work_without_a_step_is_said():
    never = tables(tasks=[{"client": 1}, {"client": 2}], steps=[{"applied": False}])
    assert told(never)["no_steps"] == "2 tasks given"
    assert "no_steps" not in told(tables(tasks=[{"client": 1}], steps=[{"applied": True}]))


def test_nothing_to_do_and_nobody_there():
    assert told(tables(tasks=(), online=(0, 2, 0, 0)))["no_tasks"] == "at most 2 clients were online at a time"
    assert told(tables(online=(0, 2, 0, 0)))["nobody_online"] == "75% of the time, up to 0.5 s on end"
    assert "nobody_online" not in told(tables(online=(1,) * 10))


def test_divergence_says_when():
    found = tables(values=(0.1,) * 12 + (float("nan"),) * 8)
    assert told(found)["diverged"] == "loss is nan at server step 12, after 0.6 s"
    steps = [{}, {"round": 1, "reason": "invalid", "closed_at": 300, "applied": False}]
    assert told(tables(steps=steps))["diverged"] == "no finite update in round 1, after 0.3 s"


def test_a_metric_without_a_value_is_no_divergence():
    found = tables()
    rows = found["evaluations"]
    values = np.where(np.arange(len(rows)) < 3, np.nan, 0.5)
    found["evaluations"] = pd.concat([rows, rows.assign(metric="auc", value=values)], ignore_index=True)
    assert told(found) == {"undefined_metric": "in 3 of 20 evaluations"}
    rows.loc[:2, "value"] = np.nan  # where the loss has none either, that is what is said
    found["evaluations"] = pd.concat([rows, rows.assign(metric="auc", value=values)], ignore_index=True)
    assert set(told(found)) == {"diverged"}


def test_a_column_that_an_older_folder_lacks_takes_its_check_away_and_no_other():
    found = tables(steps=[{"applied": False, "invited": 5}])
    del found["tasks"]["ended_at"], found["server_steps"]["reason"]
    assert list(told(found, ROUNDS)) == ["no_steps", "no_choice", "failed_rounds"]


def test_few_evaluations_only_where_something_learns():
    found = tables(values=(0.1,) * 4)
    assert told(found)["few_evaluations"] == "4 in 1 s"
    assert "few_evaluations" not in told(found, training="none")


def test_the_trace_begins_anew():
    assert told(tables(), period_ms=400)["repeated_period"] == "2.5 passes of 0.4 s"
    assert told(tables(), population={"period_ms": 400})["repeated_period"] == "2.5 passes of 0.4 s"
    assert "repeated_period" not in told(tables(), period_ms=1000)


def test_a_small_model_that_stands_for_a_big_one():
    cost = {"model_bytes": 40_000_000, "true_model_bytes": 10_000, "sample_scale": 80}
    assert told(tables(), cost=cost)["charged_cost"] == "a model of 4,000 times its bytes and 80 times the samples"
    assert "charged_cost" not in told(tables(), cost=cost, training="none")
    assert "charged_cost" not in told(tables(), cost={"model_bytes": 10, "true_model_bytes": 10, "sample_scale": 1})


@pytest.mark.parametrize("aggregation", [ROUNDS, BUFFER, {"kind": "synchronous", "cohort_goal": 4}, {}], ids=str)
@pytest.mark.parametrize("end", [0, 1000])
def test_a_run_in_which_nothing_happened_is_measured(aggregation, end):
    found = tables(tasks=(), steps=(), values=(), online=())
    assert "no_tasks" in told(found, aggregation, end={"at": end})


@pytest.mark.parametrize("aggregation", [BUFFER, {"kind": "synchronous", "cohort_goal": 4}], ids=["buffer", "rounds"])
def test_a_million_tasks_take_less_than_a_second(aggregation):
    count = 1_000_000
    draws = np.random.default_rng(0)
    begin = np.sort(draws.integers(0, 7 * 24 * HOUR, count))
    end = begin + draws.integers(1, HOUR, count)
    outcome = pd.Categorical.from_codes(draws.integers(0, 3, count), ["aggregated", "dropped", "late"])
    tasks = {"kind": pd.Categorical(["train"]).repeat(count), "client": draws.integers(0, 10_000, count)}
    tasks |= {"round": np.arange(count) // 50, "dispatched_at": begin, "outcome": outcome}
    tasks |= {name: pd.array(end, dtype="Int64") for name in ("ended_at", "known_at")}
    steps = [{"round": each, "closed_at": 100 * each + 100, "started_at": 100 * each} for each in range(20_000)]
    found = tables(steps=steps) | {"tasks": pd.DataFrame(tasks)}
    started = time.process_time()
    assert told(found, aggregation, end={"at": 8 * 24 * HOUR})
    assert time.process_time() - started < 1
