"""A few server steps in small: every kind gets through them; what does not work of others' code is named by `check`."""

from __future__ import annotations

import json
import threading
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from evsim.base import registry
from evsim.base.caveat import Caveat
from evsim.cli import app
from evsim.run.assembly import open_all
from evsim.run.rehearsal import rehearse
from evsim.scenario import Scenario

DRY = """
training = "none"
stop = { server_steps = 2, virtual_time = "3h" }
client_rule = { kind = "sgd", learning_rate = 0.1, batch_size = 4 }
aggregation = { kind = "synchronous", cohort_goal = 3 }
cost = { model_bytes = 10_000, samples_per_client = 5 }
population = { clients = 8, availability = "always", \
speed = { compute_ms_per_sample = 1, download_kbps = 800, upload_kbps = 800 } }
"""
TRAINS = [
    "training=real",
    "model=softmax",
    "data={ dataset = { kind = 'synthetic', alpha = 0, beta = 0 }, partition = 'natural' }",
    "cost.samples_per_client=",
]
AGGREGATIONS = {
    "synchronous": [
        {"cohort_goal": 3},
        {"cohort_goal": 3, "over_commitment": 1.5, "reporting_deadline": "1min", "on_close": "abort"},
        {"cohort_goal": 3, "late_reports": "keep", "pacing": {"kind": "quantile"}},
    ],
    "buffered": [
        {"concurrency": 4, "buffer_size": 2},
        {"concurrency": 4, "buffer_size": 1, "max_staleness": 1, "task_timeout": "none"},
        {"concurrency": 4, "buffer_size": 50, "period": "1min"},
    ],
}
OPTIONS = {
    "power_of_choice": {"d": 5},
    "power_of_choice_stale": {"d": 5},
    "refl_ips": {"predictor": "daily"},
    "longest_stay": {"predictor": "oracle"},
    "fedcs": {"deadline": "10min"},
}
ELSEWHERE = {"manager"}  # is a class of the user's, and tested beside it
WAYS = [(kind, own) for kind in AGGREGATIONS for own in AGGREGATIONS[kind]]
PRODUCT = list(product(range(len(WAYS)), sorted(set(registry.built_in("selection")) - ELSEWHERE)))


@pytest.fixture
def dry(tmp_path, monkeypatch):
    """A small scenario in the working directory."""
    monkeypatch.chdir(tmp_path)
    Path("s.toml").write_text(DRY, encoding="utf-8")


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """The small scenario with training, open: neither aggregation nor selection play a part in that."""
    path = tmp_path_factory.mktemp("open") / "s.toml"
    path.write_text(DRY, encoding="utf-8")
    return open_all(Scenario.load(path, TRAINS), "cpu")


def rehearsed(scenario: Scenario, patience_s: float = 30.0) -> list[Caveat]:
    return list(rehearse(scenario, open_all(scenario, "cpu"), patience_s))


def test_every_aggregation_is_in_the_product():
    assert set(AGGREGATIONS) == set(registry.built_in("aggregation"))


@pytest.mark.parametrize(("way", "selection"), PRODUCT, ids=str)
def test_every_kind_gets_through(dry, opened, way, selection):
    kind, own = WAYS[way]
    tables = {"aggregation": {"kind": kind, **own}, "selection": {"kind": selection, **OPTIONS.get(selection, {})}}
    scenario = Scenario.load("s.toml", [*TRAINS, *(f"{slot}={_inline(table)}" for slot, table in tables.items())])
    assert list(rehearse(scenario, opened)) == []


def _inline(table) -> str:
    pairs = (
        f"{key} = {_inline(value) if isinstance(value, dict) else json.dumps(value)}" for key, value in table.items()
    )
    return f"{{ {', '.join(pairs)} }}"


# --- what others wrote ------------------------------------------------------------------------------------------------

CLASS = """
from dataclasses import dataclass
import numpy as np
from evsim.aggregation.base import Aggregator
from evsim.aggregation.synchronous import Synchronous
from evsim.selection.uniform import Uniform
from evsim.base.units import FOREVER

def begin(server, deadline=FOREVER):
    clients = yield from server.select_clients(3, minimum=3)
    cohort = server.open_round(3, deadline)
    server.give(cohort, clients)
    return cohort, clients

@dataclass(frozen=True, kw_only=True)
class Mine(Aggregator):
    cohort_goal: int = 3
    minimum_clients = 3
    reports_per_step = 3
    def run(self, server):
{body}
"""
ROUND = """
cohort, clients = yield from begin(server)
reason = yield from server.collect(cohort)
server.close(cohort, reason, keep_late=False)
"""
WAITS = """
buffer = server.open_buffer(2)
clients = yield from server.select_clients(3, minimum=3)
server.give(buffer, clients)
yield from server.wait(or_check_in=False, until=5000)
yield from server.wait(or_check_in=False, until=10)
"""
#: By what it does: the body of `run`, and what is said of it.
WRONG = {
    "raises first": ("raise RuntimeError('not today')\nyield", "RuntimeError: not today", "raise RuntimeError"),
    "raises later": (f"{ROUND}server.apply(cohort, cohort.reports, reason)\n1 / 0", "ZeroDivisionError", "1 / 0"),
    "cannot close": (
        "cohort, clients = yield from begin(server)\nserver.close(cohort, 'goal')",
        "TypeError: Desk.close() missing 1 required keyword-only argument: 'keep_late'",
        "server.close(cohort, 'goal')",
    ),
    "yields nonsense": ("yield 3", "yielded 3; expected what yield from gives", "yield 3"),
    "yields a generator": ("yield server.select_clients(3, minimum=3)", "yielded <generator", "yield server.select"),
    "asks for the past": (
        "cohort, clients = yield from begin(server, server.now - 5)\nyield from server.collect(cohort)",
        "asked for instant -5 ms, but the clock stands at 0 ms: nothing happens in the past",
        "yield from server.collect(cohort)",
    ),
    "waits for the past": (
        WAITS,
        "asked for instant 10 ms",
        "until=10)",
    ),
    "gives busy clients work": (
        "cohort, clients = yield from begin(server)\nserver.give(cohort, clients[:1])",
        "a client was given a task that is not idle",
        "server.give(cohort, clients[:1])",
    ),
    "gives a client two tasks": (
        "cohort = server.open_round(3, FOREVER)\nserver.give(cohort, np.zeros(20, np.int64))\nyield",
        "or two tasks at once",
        "server.give",
    ),
    "counts from behind": (
        "cohort = server.open_round(3, FOREVER)\nserver.give(cohort, np.array([-1]))\nyield",
        "a client was given a task that is not idle",
        "server.give",
    ),
    "gives nobody work": (
        "cohort = server.open_round(3, FOREVER)\nserver.give(cohort, np.array([1000]))\nyield",
        "IndexError",
        "server.give",
    ),
    "merges what did not come": (
        f"{ROUND}server.apply(cohort, cohort.reports + 100, reason)",
        "did not report so far",
        "server.apply",
    ),
    "merges too early": (
        "cohort, clients = yield from begin(server)\nserver.apply(cohort, cohort.tasks, 'goal')",
        "apply: task 0 did not report so far",
        "server.apply",
    ),
    "merges twice": (
        f"{ROUND}server.apply(cohort, cohort.reports, reason)\nserver.apply(cohort, cohort.reports, reason)",
        "was merged already; expected each report once",
        "server.apply",
    ),
}


def _write(body: str) -> None:
    indented = "".join(f"        {line}\n" for line in body.strip().splitlines())
    Path("mine.py").write_text(CLASS.format(body=indented), encoding="utf-8")


MINE = "aggregation={ kind = 'mine.py:Mine' }"


@pytest.mark.parametrize("name", WRONG)
def test_check_names_an_aggregation_that_does_not_work(dry, name):
    body, said, line = WRONG[name]
    _write(body)
    done = CliRunner().invoke(app, ["check", "s.toml", "-o", MINE], catch_exceptions=False)
    assert done.exit_code == 2, done.output
    assert done.stderr.startswith("evsim: aggregation Mine: ")
    assert said in done.stderr
    assert "\n  mine.py, line " in done.stderr
    assert line in done.stderr
    assert len(done.stderr) < 600


@pytest.mark.parametrize("name", ["yields nonsense", "asks for the past", "gives busy clients work"])
def test_a_run_names_it_too(dry, name):
    body, said, line = WRONG[name]
    _write(body)
    done = CliRunner().invoke(app, ["run", "s.toml", "-o", MINE, "--out", "r"], catch_exceptions=False)
    assert done.exit_code == 2, done.output
    assert "evsim: aggregation Mine: " in done.stderr
    assert said in done.stderr
    assert line in done.stderr


def test_a_process_that_is_no_generator_is_named(dry):
    _write("return [1]")
    done = CliRunner().invoke(app, ["check", "s.toml", "-o", MINE], catch_exceptions=False)
    assert (done.exit_code, done.stderr.splitlines()[-1]) == (
        2,
        "evsim: aggregation Mine.run: gave [1]; expected a generator, a function with yield in it",
    )


@pytest.mark.parametrize(
    ("slot", "base", "method", "when"),
    [
        ("selection", "Uniform", "select", "given[1].round > 1"),
        ("selection", "Uniform", "feedback", "len(given[1].clients)"),
        ("pacing", "Pacing", "next", "given[-1] == 3"),
    ],
    ids=str,
)
def test_a_selector_and_a_pacing_that_fail_in_a_later_round_are_named(dry, slot, base, method, when):
    Path("mine.py").write_text(
        "from dataclasses import dataclass\n"
        "from evsim.aggregation.pacing import QuantileDeadline as Pacing\n"
        "from evsim.selection.uniform import Uniform\n"
        "@dataclass(frozen=True, kw_only=True)\n"
        f"class Mine({base}):\n"
        f"    def {method}(self, *given):\n"
        f"        if {when}: raise RuntimeError('not today')\n"
        f"        return super().{method}(*given)\n",
        encoding="utf-8",
    )
    key = "aggregation.pacing" if slot == "pacing" else slot
    done = CliRunner().invoke(
        app, ["check", "s.toml", "-o", f"{key}={{ kind = 'mine.py:Mine' }}"], catch_exceptions=False
    )
    assert done.exit_code == 2, done.output
    assert done.stderr.startswith(f"evsim: {slot} Mine: RuntimeError: not today\n  mine.py, line 7, in {method}: ")


@pytest.mark.parametrize(
    ("body", "where"),
    [
        ("while True:\n    pass\nyield", ", in mine.py, line "),
        ("while not server.finished:\n    yield from server.select_clients(3, minimum=3)", ", in mine.py, line "),
    ],
    ids=["never asks", "asks and never gives"],
)
def test_a_loop_without_end_is_given_up_and_told(dry, body, where):
    _write(body)
    (said,) = rehearsed(Scenario.load("s.toml", [MINE]), patience_s=0.2)
    assert said.key == "not_rehearsed"
    assert said.measure.startswith("after 0.2 s: 0 of 3 rounds or buffers closed, 0 s of virtual time")
    assert where in said.measure
    assert not [each for each in threading.enumerate() if each.name == "evsim-rehearsal"]  # it does not go on behind


def test_a_process_that_waits_and_never_steps_is_given_up_by_events(dry):
    _write(
        "while True:\n    cohort, clients = yield from begin(server)\n"
        "    reason = yield from server.collect(cohort)\n    server.close(cohort, reason, keep_late=True)"
    )
    scenario = Scenario.load("s.toml", [MINE, "stop.virtual_time="])
    (said,) = rehearsed(scenario)
    assert (said.key, said.measure.startswith("0 of 3 rounds")) == ("not_rehearsed", True)
    assert said.measure.endswith("given up after 390 events")


@pytest.mark.parametrize(
    "change",
    ["aggregation={ kind = 'mine.py:Mine' }", "cost.model_bytes=10_000_000_000"],
    ids=["returns at once", "tasks longer than the run"],
)
def test_a_run_that_would_end_without_a_step_is_told(dry, change):
    _write("return\nyield")
    (said,) = rehearsed(Scenario.load("s.toml", [change]))
    assert (said.key, said.measure) == ("no_step_in_small", "0 of 3 rounds or buffers closed, 3h of virtual time")


def test_others_code_sees_clients_by_their_numbers_and_a_large_population_costs_nothing_else(dry):
    _write("assert server.view.n_clients == 3000\n" + ROUND + "server.apply(cohort, cohort.reports, reason)\n" * 1)
    mine = rehearsed(Scenario.load("s.toml", [MINE, "population.clients=3000"]))
    assert [each.key for each in mine] == []
    assert rehearsed(Scenario.load("s.toml", ["population.clients=3000"])) == []
    empty = open_all(Scenario.load("s.toml"), "cpu")
    assert np.all(empty.samples > 0)
