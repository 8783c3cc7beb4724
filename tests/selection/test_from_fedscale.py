"""The examples of docs/from_fedscale.md, as they stand there, run; and a plain manager hears all, at its instant."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from evsim.aggregation.buffered import Buffered
from evsim.aggregation.synchronous import Synchronous
from evsim.base.errors import PolicyError, ScenarioError
from evsim.cli import app
from evsim.results import load_run
from evsim.run.simulation import Simulation
from evsim.scenario import Scenario
from evsim.selection.plain import OFFERED, PlainManager
from evsim.testing.timeline import TinyWorld
from evsim.traces.availability import AvailabilityTrace
from evsim.traces.speed import DeviceSpeed

PAGE = Path(__file__).parents[2].joinpath("docs", "from_fedscale.md").read_text(encoding="utf-8")
CODE = "\n\n".join(re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL))
SCENARIOS = re.findall(r"```toml\n(.*?)```", PAGE, flags=re.DOTALL)
SHORT = ["stop.server_steps=4", "executor.kind=serial"]


@pytest.fixture
def folder(tmp_path):
    """A user's folder with the files of the page."""
    for name in ("managers.py", "fedscale.py"):
        (tmp_path / name).write_text(CODE, encoding="utf-8")
    for number, text in enumerate(SCENARIOS):
        (tmp_path / f"{number}.toml").write_text(text, encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize("number", range(len(SCENARIOS)))
def test_the_scenarios_of_the_page_run(folder, number):
    run = load_run(Simulation(Scenario.load(folder / f"{number}.toml", SHORT)).run(folder / "run"))
    assert run.server_steps["version"].max() == 4


def test_the_random_manager_runs_dry_and_asks_different_clients(folder):
    overrides = [f"selection={{kind = 'manager', target = '{folder}/managers.py:RandomManager'}}"]
    scenario = Scenario.load("replay", [*overrides, "stop.rounds=3", "population.availability=always"])
    run = load_run(Simulation(scenario).run(folder / "run"))
    assert run.server_steps["invited"].tolist() == [65, 65, 65]
    assert run.tasks["client"].nunique() > 100
    assert Scenario.load(folder / "run").selection == scenario.selection


def test_the_prox_and_the_yogi_of_the_page_are_those_that_are_built_in(folder):
    builtin = ["client_rule.kind=fedprox", "client_rule.mu=0.1", "client_rule.learning_rate=0.05"]
    builtin += ["client_rule.batch_size=5", "server_optimizer={kind='fedyogi', preset='fedscale'}"]
    builtin += ["server_optimizer.learning_rate=3e-3", "server_optimizer.tau=1e-8"]
    runs = [
        load_run(Simulation(Scenario.load(folder / "1.toml", [*SHORT, *more])).run(folder / name))
        for name, more in (("mine", []), ("builtin", builtin))
    ]
    np.testing.assert_array_equal(runs[0].evaluations["value"], runs[1].evaluations["value"])


def test_the_table_of_the_page_has_every_method_and_name():
    rows = re.findall(r"^\| `(\w+)` \| (?:when|at)[^|]*\| ([^|]*) \|$", PAGE, flags=re.MULTILINE)
    assert {name: set(re.findall(r"`(\w+)`", names)) - {"success"} | ({"success"} & set(names_of(name)))
            for name, names in rows} == {name: set(names) for name, names in OFFERED.items()}  # fmt: skip


def names_of(method: str) -> tuple[str, ...]:
    return OFFERED[method]


# -- what is told ------------------------------------------------------------------------------------------------------

SPY = """
TOLD = []

class Spy:
    def __init__(self):
        TOLD.clear()
        self.turn = 0
    def register_client(self, client_id, size, duration, cur_time):
        TOLD.append(("in", client_id, cur_time, size))
    def deregister_client(self, client_id, cur_time):
        TOLD.append(("out", client_id, cur_time, None))
    def register_feedback(self, client_id, success, duration, cur_time):
        TOLD.append(("end", client_id, cur_time, success))
    def select_clients(self, num_of_clients, feasible_clients, cur_time):
        self.turn += 1
        chosen = (feasible_clients[self.turn % 3:] + feasible_clients[: self.turn % 3])[:num_of_clients]
        TOLD.extend(("ask", client, cur_time, None) for client in chosen)
        return chosen
"""


def spied(tmp_path: Path, policy: Any, **world: Any) -> tuple[Any, list[tuple[Any, ...]]]:
    (tmp_path / "spy.py").write_text(SPY, encoding="utf-8")
    selector = PlainManager(target=f"{tmp_path}/spy.py:Spy")
    log = TinyWorld(trace=TRACE, speed=SPEED, selector=selector, **world).run(policy, until=9000)
    (module,) = [each for name, each in sys.modules.items() if name.startswith("evsim_plugin_spy") and each.TOLD]
    told = list(module.TOLD)
    module.TOLD.clear()
    return log, told


TRACE = AvailabilityTrace.from_intervals(
    np.repeat(np.arange(7), 2),
    [k * 70 + at for k in range(7) for at in (0, 900)],
    [k * 70 + at for k in range(7) for at in (700 - 50 * k, 1250)],
    n_devices=7,
    period=2000,
)
SPEED = DeviceSpeed.uniform(7, compute_ms_per_sample=9.0, download_kbps=100.0, upload_kbps=100.0)
POLICIES = [
    Synchronous(cohort_goal=3, over_commitment=1.4, reporting_deadline=480),
    Synchronous(cohort_goal=3, minimum_reports=2, reporting_deadline=450, on_close="abort"),
    Buffered(concurrency=4, buffer_size=2, task_timeout=500),
]


@pytest.mark.parametrize("policy", POLICIES, ids=["rounds", "aborting", "buffered"])
def test_every_check_in_and_every_end_is_told_at_its_own_instant(tmp_path, policy):
    log, told = spied(tmp_path, policy)
    edges = TRACE.edges(1, 9001)
    came = [(c, at / 1000) for c, at, inwards in zip(edges.device, edges.at, edges.check_in, strict=True) if inwards]
    at_start = [(c, 0.0) for c in range(7) if TRACE.is_online(np.array([c]), 0)[0]]
    assert [(c, at) for what, c, at, _ in told if what == "in"] == at_start + came
    times = [at for _, _, at, _ in told]
    assert times == sorted(times)
    known = log.tasks[log.tasks["known_at"].between(0, 8999)]
    ends = {(c, at) for what, c, at, _ in told if what == "end"}
    assert {(c, at / 1000) for c, at in zip(known["client"], known["known_at"], strict=True)} - ends == set()
    assert len(known) > 20
    assert set(known["outcome"]) >= {"aggregated", "dropped"}
    last = {(c, at): good for what, c, at, good in told if what == "end"}
    for row in known.itertuples():
        if row.outcome in ("aggregated", "dropped", "late", "aborted"):
            assert last[row.client, row.known_at / 1000] == (row.outcome == "aggregated"), row


@pytest.mark.parametrize("policy", POLICIES, ids=["rounds", "aborting", "buffered"])
def test_nobody_is_seen_to_leave_at_work_until_the_loss_is_known(tmp_path, policy):
    _, told = spied(tmp_path, policy)
    busy: set[int] = set()
    left_after_loss = 0
    for place, (what, client, _, _) in enumerate(told):
        if what == "ask":
            assert client not in busy
            busy.add(client)
        elif what == "end":
            busy.discard(client)
        elif what == "out":
            assert client not in busy
            left_after_loss += told[place - 1][:2] == ("end", client)
    assert left_after_loss > 0


def test_it_is_driven_alike_however_the_timeline_moves(tmp_path):
    plain, told = spied(tmp_path, POLICIES[0])
    again, heard = spied(tmp_path, POLICIES[0], writes_at_once=True, listeners=[Everything()])
    assert (again.timeline_hash, heard) == (plain.timeline_hash, told)


class Everything:
    def reported(self, at: Any, tasks: Any, clients: Any) -> None:
        pass


# -- what a manager may not do -----------------------------------------------------------------------------------------

MANAGER = """
class Mine:
    def register_client(self, client_id): self.last = client_id
    def register_feedback(self, client_id): pass
    def deregister_client(self, client_id): pass
    def select_clients(self, num_of_clients, feasible_clients):
        {body}
"""
BASE = """
stop = { rounds = 3, virtual_time = "3h" }
training = "none"
cost = { model_bytes = 1000, samples_per_client = 10 }
aggregation = { kind = "buffered", concurrency = 3, buffer_size = 2 }
selection = { kind = "manager", target = "mine.py:Mine" }
population = { clients = 8, availability = "always" }
"""


@pytest.fixture
def run_with(tmp_path, monkeypatch):
    """Runs a scenario with a manager that chooses so, from the command line."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s.toml").write_text(BASE, encoding="utf-8")

    def run(text: str, *options: str) -> Any:
        (tmp_path / "mine.py").write_text(text, encoding="utf-8")
        return CliRunner().invoke(app, ["run", "s.toml", "--out", "r", *options], catch_exceptions=False)

    return run


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("return [1, 1]", "returned client 1 twice"),
        ("return [99]", "returned client 99, which does not exist"),
        ("return [-1]", "returned client -1, which does not exist"),
        ("return [0, 1]", "which has a task already"),
        ("return list(range(8))", "returned 8 clients, 3 were wanted"),
        ("return []", "returned nobody"),
        ("return None", "returned NoneType"),
        ("return 'abc'", "returned str"),
        ("return {1, 2}", "returned set"),
        ("return [1.0]", "returned float 1.0 in a list"),
        ("return [True]", "returned bool True in a list"),
        ("return ['3']", "returned str '3' in a list"),
        ("self.n = getattr(self, 'n', 1) - 1; return [1 // (1 + self.n)]", "ZeroDivisionError"),
    ],
)
def test_what_a_manager_may_not_choose_ends_with_a_sentence(run_with, body, said):
    done = run_with(MANAGER.format(body=body))
    assert done.exit_code == 2, done.output
    assert said in done.stderr
    assert "Mine" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_client_that_is_offline_is_refused(run_with):
    availability = "{preset = 'phones', seed = 1}"
    done = run_with(
        MANAGER.format(body="return [next(c for c in range(40) if c not in feasible_clients)]"),
        *("-o", "population.clients=40", "-o", f"population.availability={availability}"),
    )
    assert done.exit_code == 2
    assert re.search(r"Mine.select_clients: returned client \d+, which is not online; expected a list of", done.stderr)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("class Mine:\n    pass", "Mine has no register_client and no register_feedback and no select_clients"),
        (MANAGER.replace("client_id): pass", "client_id, speed): pass", 1), "Mine.register_feedback asks for speed"),
        (MANAGER + "    def __init__(self, mode): pass", "cannot be made with these options: missing a required"),
        ("Mine = 3", "is no class"),
        ("x = 1", "has no attribute 'Mine'"),
        ("1 / 0", "ZeroDivisionError"),
    ],
)
def test_a_class_that_is_no_manager_is_refused_when_the_scenario_is_read(run_with, text, said):
    done = run_with(text.replace("{body}", "return feasible_clients[:1]"))
    assert done.exit_code == 2
    assert said in done.stderr
    assert "selection.target" in done.stderr


def test_a_manager_that_wants_losses_is_refused_in_a_dry_run(run_with):
    text = MANAGER.format(body="return feasible_clients[:1]").replace("client_id): pass", "client_id, reward): pass", 1)
    done = run_with(text)
    assert done.exit_code == 2
    assert "learns from losses" in done.stderr


def test_what_raises_is_named_with_client_instant_and_line(run_with):
    text = MANAGER.format(body="return feasible_clients[:1]").replace("self.last = client_id", "self.x[client_id]")
    done = run_with(text)
    assert done.exit_code == 2
    assert "selection Mine (while register_client, client 0, at 0 s): AttributeError" in done.stderr
    assert "mine.py, line 3, in register_client" in done.stderr


def test_code_is_refused_without_plug_ins(run_with, tmp_path):
    run_with("")
    done = CliRunner().invoke(app, ["check", "s.toml", "--no-plugins"])
    assert done.exit_code == 2
    assert "selection.target: 'mine.py:Mine'" in done.stderr


def test_a_target_must_name_a_class():
    with pytest.raises(PolicyError, match=r"target must be 'file.py:Class'"):
        PlainManager(target="mine.py")
    with pytest.raises(ScenarioError, match=r"selection.target: missing"):
        Scenario.load("replay", ["selection.kind=manager"])
