"""Runs that must be clean, folders that cannot be read, and what the command says."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from evsim import Scenario, Simulation, load_run
from evsim.base.errors import RunFolderError
from evsim.cli import app
from evsim.results.metrics import device_time_shares, traffic
from evsim.verify import verify
from tests.verify.worlds import BASE, OPTIONS, SELECTORS, aggregations, cases, run

BUNDLED = {
    "quickstart": ['executor.kind="serial"', "stop.server_steps=3"],
    "replay": ['stop.virtual_time="1h"', "population.clients=2000"],
    "algorithms/digits": ['executor.kind="serial"', "stop.server_steps=3"],
    "algorithms/synthetic": ['executor.kind="serial"', "stop.server_steps=3"],
    "asynchronous/fedbuff_vs_synchronous": ['executor.kind="serial"', "stop.server_steps=3"],
    "selection/oort_vs_uniform": ['executor.kind="serial"', "stop.server_steps=4"],
}


def violations(folder: Path, trace: str | None = None) -> list[str]:
    return [f"{check.name}: {check.violation}" for check in verify(folder, trace).checks if not check.ok]


def _few() -> list[str]:
    """Every aggregation with a selector that asks and one that does not, each with another option."""
    whoms, whats = ("uniform", "oort", "by samples", "last loss"), list(OPTIONS)
    found = []
    for i, how in enumerate(aggregations()):
        found.append(f"{how}; {whoms[i % len(whoms)]}; {whats[i % len(whats)]}")
        found.append(f"{how}; asking; {whats[(i + 1) % len(whats)]}")
    return found


@pytest.mark.parametrize("name", _few())
def test_a_run_recomputes(tmp_path, name):
    folder = run(tmp_path / "run", cases()[name], {"stop": {"virtual_time": "3h"}})
    assert len(pq.read_table(folder / "tasks.parquet")) >= 8
    assert violations(folder) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", cases())
def test_every_run_recomputes(tmp_path, name):
    assert violations(run(tmp_path / "run", cases()[name])) == []


@pytest.mark.parametrize("name", BUNDLED)
def test_bundled_scenarios_recompute(tmp_path, name):
    scenario = Scenario.load(name, overrides=BUNDLED[name])
    folder = Simulation(scenario, device="cpu").run(tmp_path / "run")
    trace = scenario.population.availability
    assert violations(folder, trace if isinstance(trace, str) else None) == []


def test_rounds_that_find_few_clients_and_spare_a_share_of_them_recompute(tmp_path):
    share = {"short_cohort": "share", "over_commitment": 1.6, "minimum_cohort": 2, "reporting_deadline": "6min"}
    change = {"aggregation": aggregations()["rounds, deadline"] | share, "population": {"clients": 24}}
    folder = run(tmp_path / "run", change, {"stop": {"virtual_time": "3h"}})
    steps = pq.read_table(folder / "server_steps.parquet").to_pandas()
    few = steps[(steps["invited"] < 8) & (steps["invited"] > 2)]
    assert (few["goal"] < few["invited"]).all()
    assert len(few) >= 4
    assert violations(folder) == []


def test_an_instant_that_brings_several_steps_is_evaluated_once_and_recomputes(tmp_path):
    """Equal devices report at once, and as many as two buffers hold."""
    buffer = {"kind": "buffered", "concurrency": 8, "buffer_size": 4}
    data = {"dataset": "digits", "partition": {"kind": "iid", "samples_per_client": 20}}
    speed = {"compute_ms_per_sample": 20, "download_kbps": 5000, "upload_kbps": 2000}
    population = {"clients": 30, "availability": "always", "speed": speed}
    equal = {"population": population, "data": data, "aggregation": buffer}
    tables = {**BASE, **equal, "evaluation": {"every": 3}, "stop": {"server_steps": 12}}
    folder = Simulation(Scenario.from_dict(tables), device="cpu").run(tmp_path / "run")
    steps = pq.read_table(folder / "server_steps.parquet").to_pandas()
    assert steps["closed_at"].duplicated().any()
    evaluated = pq.read_table(folder / "evaluations.parquet").to_pandas()
    assert (evaluated.loc[evaluated["trigger"] == "step", "version"] % 3 > 0).any()
    assert violations(folder) == []


@pytest.mark.parametrize("rate", [0.1, 1e15])
def test_invalid_updates_are_told_from_merged_ones(tmp_path, rate):
    change = {"client_rule": {"learning_rate": rate, "weight_decay": rate, "epochs": 3}, "stop": {"virtual_time": "2h"}}
    folder = run(tmp_path / "run", change, {"aggregation": aggregations()["rounds, keep all"]})
    assert violations(folder) == []
    outcomes = pq.read_table(folder / "tasks.parquet")["outcome"].to_pylist()
    assert ("invalid" in outcomes) == (rate > 1)


@pytest.mark.parametrize(
    "rule",
    [
        {"kind": "scaffold", "option": 1, "learning_rate": 0.1, "batch_size": 20},
        {"kind": "qfedavg", "learning_rate": 0.1, "batch_size": 20, "q": 1.0},
        {"kind": "adam", "learning_rate": 0.1, "batch_size": 20, "steps": 7},
    ],
)
def test_client_rules_with_work_of_their_own_are_priced(tmp_path, rule):
    change = {"client_rule": rule, "stop": {"virtual_time": "1h"}, "aggregation": aggregations()["rounds, deadline"]}
    if rule["kind"] == "scaffold":
        change |= {"broadcast": {"kind": "scaffold"}, "server_optimizer": {"kind": "scaffold"}}
    if rule["kind"] == "qfedavg":
        change |= {"server_optimizer": {"kind": "qfedavg"}, "weighting": {"kind": "uniform"}}
    assert violations(run(tmp_path / "run", change)) == []


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    change = {"aggregation": aggregations()["rounds, deadline"], "selection": SELECTORS["uniform"]}
    return run(tmp_path_factory.mktemp("one") / "run", change, {"stop": {"virtual_time": "2h"}})


def test_figures_are_those_of_the_results(folder):
    found, loaded = verify(folder).figures, load_run(folder)
    assert found["wasted_share"] == pytest.approx(device_time_shares(loaded)["wasted"], rel=1e-12)
    assert found["bytes_down"] == traffic(loaded)["bytes_down"].sum()
    assert found["device_time_ms"] == loaded.tasks[["download_ms", "compute_ms", "upload_ms"]].to_numpy().sum()


def test_sessions_that_are_gone_are_a_fault_unless_the_folder_is_older(tmp_path, folder):
    bare = shutil.copytree(folder, tmp_path / "bare")
    sessions = pq.read_table(bare / "sessions.parquet")
    pq.write_table(sessions.slice(0, 0), bare / "sessions.parquet")
    assert not verify(bare).ok
    manifest = json.loads((bare / "manifest.json").read_text(encoding="utf-8"))
    del manifest["format"]
    (bare / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    verdict = verify(bare)
    assert "the rows of sessions" in verdict.lacks
    assert all(check.ok for check in verdict.checks if "online" in check.name)


def test_an_older_folder_says_what_it_lacks_and_checks_the_rest(tmp_path, folder):
    old = shutil.copytree(folder, tmp_path / "old")
    tasks = pq.read_table(old / "tasks.parquet")
    lacking = [name for name in tasks.column_names if name.startswith("planned_") or name in ("order", "nth", "weight")]
    pq.write_table(tasks.drop_columns(lacking), old / "tasks.parquet")
    verdict = verify(old)
    assert verdict.ok
    assert set(verdict.lacks) <= {f"tasks.{name}" for name in lacking}
    assert verdict.lacks
    assert sum(not check.skipped for check in verdict.checks) > 10


@pytest.mark.parametrize(
    ("slot", "unknown"),
    [
        ("aggregation", "outcomes and closes"),
        ("client_rule", "local steps"),
        ("selection", ""),  # whom it chose is never recomputed
        ("weighting", ""),  # any weight that is finite will do
    ],
)
def test_policies_from_elsewhere_are_not_guessed_at(tmp_path, folder, slot, unknown):
    other = shutil.copytree(folder, tmp_path / "other")
    text = (other / "scenario.toml").read_text(encoding="utf-8")
    head, rest = text.split(f"[{slot}]\nkind = ")
    changed = f'{head}[{slot}]\nkind = "mine.py:Mine"\n{rest.split(chr(10), 1)[1]}'
    (other / "scenario.toml").write_text(changed, encoding="utf-8")
    verdict = verify(other)
    assert [check for check in verdict.checks if not check.ok] == []
    assert not unknown or unknown in [check.name for check in verdict.checks if check.skipped]


def test_the_command_ends_with_0_1_or_2(tmp_path, folder):
    runner = CliRunner()
    good = runner.invoke(app, ["verify", str(folder)])
    assert good.exit_code == 0
    assert "everything that was checked is right" in good.output
    broken = shutil.copytree(folder, tmp_path / "broken")
    tasks = pq.read_table(broken / "tasks.parquet").to_pandas()
    tasks.loc[7, "bytes_up"] += 1
    tasks.to_parquet(broken / "tasks.parquet")
    bad = runner.invoke(app, ["verify", str(broken)])
    assert bad.exit_code == 1
    begin = tasks.loc[7, "dispatched_at"]
    assert f"task 7 (client {tasks.loc[7, 'client']}, dispatched at {begin} ms): bytes_up is" in bad.output
    said = json.loads(runner.invoke(app, ["verify", str(broken), "--json"]).output)
    assert not said["ok"]
    assert [check["name"] for check in said["checks"] if check["violation"]] == ["bytes up"]
    (tmp_path / "nothing").mkdir()
    none = runner.invoke(app, ["verify", str(tmp_path / "nothing")])
    assert none.exit_code == 2
    assert "not a run folder, it has no manifest.json" in none.stderr


def test_a_killed_run_is_told(tmp_path):
    (tmp_path / "journal").mkdir()
    with pytest.raises(RunFolderError, match="the run was killed before it wrote its tables; run it again"):
        verify(tmp_path)


@pytest.mark.parametrize("name", ["manifest.json", "scenario.toml", "tasks.parquet"])
def test_a_damaged_folder_is_told(tmp_path, folder, name):
    damaged = shutil.copytree(folder, tmp_path / "damaged")
    (damaged / name).write_text("{ this is [ nothing")
    with pytest.raises(RunFolderError, match=r"(as a run folder|the manifest of a run|expected TOML)"):
        verify(damaged)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"format": 99}, "format 99; expected 2 or older"),
        ({"format": "two"}, "format 'two'; expected 2 or older"),
        ({"end": "x"}, "does not say when the run ended"),
        ({"end": {"at": None}}, "does not say when the run ended"),
        ({"cost": None}, "holds what no run wrote, or lacks what each does"),
    ],
)
def test_a_manifest_that_no_run_wrote_is_told(tmp_path, folder, changes, said):
    shutil.copytree(folder, tmp_path / "run")
    path = tmp_path / "run" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(RunFolderError, match=said):
        verify(tmp_path / "run")


def test_a_table_of_other_types_is_told(tmp_path, folder):
    shutil.copytree(folder, tmp_path / "run")
    path = tmp_path / "run" / "tasks.parquet"
    frame = pq.read_table(path).to_pandas()
    frame.assign(dispatched_at=frame["dispatched_at"].astype(str)).to_parquet(path)
    with pytest.raises(RunFolderError, match="holds what no run wrote"):
        verify(tmp_path / "run")
