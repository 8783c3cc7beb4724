"""Clients that hold parts of the model and do unequal work: HeteroFL's loop, every executor, prices, faults."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from evsim.algorithms.base import ClientInfo, GroupedBroadcast, Method
from evsim.algorithms.broadcast import FullModel
from evsim.algorithms.heterofl import HeteroFL
from evsim.algorithms.local_sgd import LocalSgd
from evsim.algorithms.mean import Mean
from evsim.algorithms.robust import Median
from evsim.algorithms.server_sgd import ServerSgd
from evsim.algorithms.sgd import Sgd
from evsim.algorithms.top_k import TopK
from evsim.algorithms.weighting import SampleWeights
from evsim.base import registry
from evsim.base.errors import EvsimError, PolicyError, ScenarioError, TrainingError
from evsim.results import load_run
from evsim.run.simulation import Simulation
from evsim.scenario import Scenario
from evsim.traces.formats import columnar
from evsim.traces.formats.csv import read_speed as read_csv_speed
from evsim.training.executors.batched import Batched
from evsim.training.executors.serial import Serial
from evsim.training.executors.workers import Workers
from evsim.training.learning.learning import Learning, Setting
from evsim.verify import verify
from tests.algorithms.oracle import CLASSES, INPUTS, SEED, SIZES, Drive, client_batches, problem

PAGE = Path(__file__).parents[2].joinpath("docs", "extending.md").read_text(encoding="utf-8")
RATES, HIDDEN, RATE = (1.0, 0.5, 0.2), 7, 0.3
GROUPS = (1, 0, 2, 2, 1, 2)  # of the problem's six clients


@pytest.fixture(scope="module")
def hetero(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("user")
    (code,) = re.findall(r"```python\n(import math.*?class Scattered.*?)```", PAGE, flags=re.DOTALL)
    (folder / "scattered.py").write_text(code, encoding="utf-8")
    (toml,) = re.findall(r"```toml\n(extends[^`]*scattered.py.*?)```", PAGE, flags=re.DOTALL)
    (folder / "scattered.toml").write_text(toml, encoding="utf-8")
    (folder / "s.toml").write_text(toml.replace("scattered.py:Scattered", "heterofl"), encoding="utf-8")
    return folder, registry.load("broadcast", "scattered.py:Scattered", folder)


def model() -> torch.nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return torch.nn.Sequential(torch.nn.Linear(INPUTS, HIDDEN), torch.nn.Tanh(), torch.nn.Linear(HIDDEN, CLASSES))


def learning(broadcast: Any, executor: Any = None, sizes: Any = None, **slots: Any) -> Learning:
    data = problem()
    slow = np.array([2.0, 1.0, 5.0, 4.0, 3.0, 6.0])  # classes of two: 1 0 2 1 1 2 by speed; groups are given below
    clients = replace(ClientInfo.unknown(np.array(SIZES)), compute_ms=slow)
    parts = {"upload": (), "weighting": SampleWeights(), "merge": Mean(), "server_optimizer": ServerSgd(), **slots}
    method = Method(broadcast=broadcast, **{"client_rule": rule(), **parts})
    setting = Setting(seed=SEED, precision="float64", cohort_goal=3, clients=clients, batch_sizes=sizes)
    return Learning(method, model(), data, executor or Serial(threads=1), setting)


def rule(**options: Any) -> Sgd:
    return Sgd(learning_rate=RATE, batch_size=4, epochs=2, **options)


@dataclass(frozen=True, kw_only=True)
class Given(GroupedBroadcast):
    """Groups as given; the hidden units of a group are any positions."""

    units: tuple[tuple[int, ...], ...] = tuple(tuple(range(ceil(rate * HIDDEN))) for rate in RATES)
    of: tuple[int, ...] = GROUPS

    @property
    def n_groups(self) -> int:
        return len(self.units)

    def groups(self, clients: ClientInfo) -> Any:
        return np.array(self.of)[clients.client]

    def wires(self, model: Any) -> Any:
        return model

    def send(self, server: Any) -> Any:
        return {"model": server["model"], "buffers": server["buffers"]}

    def part(self, leaf: str, shape: tuple[int, ...], group: int) -> Any:
        units = np.array(self.units[group])
        return {"0.weight": (units, None), "0.bias": (units,), "2.weight": (None, units), "2.bias": None}[leaf]


# -- the textbook ------------------------------------------------------------------------------------------------------

Tree = dict[str, torch.Tensor]


def textbook(rounds: Any, units: Any, of: Any, limits: Any = None, sizes: Any = None) -> Tree:
    """HeteroFL's loop: cut, train, average each number over those that hold it; lost clients change nothing."""
    data, whole = problem(), {name: leaf.detach().double() for name, leaf in model().named_parameters()}
    nth = dict.fromkeys(range(len(SIZES)), 0)
    for asked, lost in rounds:
        total = {name: torch.zeros_like(leaf) for name, leaf in whole.items()}
        weight = {name: torch.zeros_like(leaf) for name, leaf in whole.items()}
        for client in asked:
            own = rule() if sizes is None else replace(rule(), batch_size=int(sizes[client]))
            steps = client_batches(own, data, client, nth[client])
            nth[client] += 1
            if client in lost:
                continue
            hold = torch.tensor(units[of[client]])
            start = {
                "0.weight": whole["0.weight"][hold],
                "0.bias": whole["0.bias"][hold],
                "2.weight": whole["2.weight"][:, hold],
                "2.bias": whole["2.bias"],
            }
            w = {name: leaf.clone().requires_grad_() for name, leaf in start.items()}
            for x, y in steps[: None if limits is None else limits[client]]:
                h = torch.tanh(torch.tensor(x) @ w["0.weight"].T + w["0.bias"])
                loss = torch.nn.functional.cross_entropy(h @ w["2.weight"].T + w["2.bias"], torch.tensor(y))
                grads = torch.autograd.grad(loss, list(w.values()))
                w = {
                    name: (leaf - RATE * grad).detach().requires_grad_()
                    for (name, leaf), grad in zip(w.items(), grads, strict=True)
                }
            n = SIZES[client]
            for name, where in (("0.weight", hold), ("0.bias", hold), ("2.bias", slice(None))):
                total[name][where] += n * (w[name] - start[name]).detach()
                weight[name][where] += n
            total["2.weight"][:, hold] += n * (w["2.weight"] - start["2.weight"]).detach()
            weight["2.weight"][:, hold] += n
        whole = {name: leaf + total[name] / weight[name].clamp(min=1) for name, leaf in whole.items()}
    return whole


ROUNDS = [((0, 2, 3), (2,)), ((1, 3, 4, 5), ()), ((2, 5), ()), ((0, 1, 2, 3, 4, 5), (1, 4)), ((3,), ())]
UNITS = Given().units
ANY_UNITS = ((0, 1, 2, 3, 4, 5, 6), (6, 0, 3), (2,))


def driven(server: Learning, limits: Any = None) -> Tree:
    drive = Drive(server)
    for asked, lost in ROUNDS:
        tasks = np.arange(drive.n_tasks, drive.n_tasks + len(asked))
        nth = np.array([drive.nth[client] for client in asked])
        for client in asked:
            drive.nth[client] += 1
        drive.n_tasks += len(asked)
        most = None if limits is None else np.array([limits[client] for client in asked])
        server.dispatched(tasks, np.array(asked), nth, most)
        gone = np.isin(asked, lost)
        server.discard(tasks[gone].tolist())
        server.apply(tasks[~gone])
    server.close()
    return {name: torch.from_numpy(leaf) for name, leaf in server.tensors().items()}


def assert_close(one: Tree, other: Tree, atol: float = 1e-9) -> None:
    for name, leaf in one.items():
        torch.testing.assert_close(other[name], leaf, rtol=0, atol=atol)


@pytest.mark.parametrize("units", [UNITS, ANY_UNITS], ids=["first", "any"])
def test_parts_agree_with_the_textbook_under_partial_participation_and_drop_outs(units: Any) -> None:
    assert_close(textbook(ROUNDS, units, GROUPS), driven(learning(Given(units=units))))


BY_SPEED = (0, 0, 2, 1, 1, 2)  # of the speeds in `learning`


@pytest.mark.parametrize("executor", [None, Batched(threads=1), Batched(chunk=2, threads=1)], ids=str)
def test_heterofl_agrees_with_the_textbook(executor: Any) -> None:
    broadcast = HeteroFL(first="0", last="2", rates=RATES)
    assert_close(textbook(ROUNDS, UNITS, BY_SPEED), driven(learning(broadcast, executor)))


def test_scattered_channels_of_the_page_agree_with_the_textbook(hetero: Any) -> None:
    broadcast = hetero[1](first="0", last="2", rates=RATES)
    units = tuple(tuple(broadcast.channels(HIDDEN, rate)) for rate in RATES)
    assert set(units[2]) != set(UNITS[2])
    assert_close(textbook(ROUNDS, units, BY_SPEED), driven(learning(broadcast)))


def test_scattered_channels_run_from_the_scenario_of_the_page(hetero: Any, tmp_path: Path) -> None:
    folder = Simulation(Scenario.load(hetero[0] / "scattered.toml", SHORT)).run(tmp_path / "run")
    assert verify(folder).ok


@pytest.mark.parametrize("rates", [(), (1.0, 0.0), (1.5,)])
def test_rates_that_are_no_shares_are_refused(rates: Any) -> None:
    with pytest.raises(PolicyError, match="rates must"):
        HeteroFL(first="0", last="2", rates=rates)


def test_one_group_that_holds_everything_is_the_same_as_none() -> None:
    alone = driven(learning(Given(units=(tuple(range(HIDDEN)),), of=(0,) * 6)))
    assert_close(driven(learning(FullModel())), alone, atol=1e-14)


LIMITS = (1, 3, 0, 2, 1, 0)


@pytest.mark.parametrize("executor", [Batched(threads=1), Batched(chunk=2, threads=1), Workers(workers=2)], ids=str)
@pytest.mark.parametrize("upload", [(), (TopK(share=0.4),)], ids=["plain", "top-k"])
def test_every_executor_agrees_with_serial_with_groups_and_unequal_work(executor: Any, upload: Any) -> None:
    serial = driven(learning(Given(), upload=upload), LIMITS)
    assert_close(serial, driven(learning(Given(), executor, upload=upload), LIMITS))
    if not upload:
        assert_close(textbook(ROUNDS, UNITS, GROUPS, [n or None for n in LIMITS]), serial)


SIZED = np.array([4, 1, 3, 2, 4, 1])


@pytest.mark.parametrize(
    "executor", [None, Batched(threads=1), Batched(chunk=2, threads=1), Workers(workers=2)], ids=str
)
def test_batch_sizes_of_ones_own_agree_with_the_textbook(executor: Any) -> None:
    """With groups and unequal work at once, under partial participation and drop-outs."""
    limits = (1, 9, 0, 7, 1, 0)
    found = driven(learning(Given(), executor, SIZED), limits)
    assert_close(textbook(ROUNDS, UNITS, GROUPS, [n or None for n in limits], SIZED), found)
    plain = driven(learning(Given(), executor), limits)
    assert max(float((found[name] - leaf).abs().max()) for name, leaf in plain.items()) > 1e-3


def test_reports_tell_the_steps_of_their_own_batch_size() -> None:
    server = learning(Given(), sizes=SIZED)
    clients = np.arange(6)
    server.dispatched(clients, clients, np.zeros(6, np.int64))
    metas = server._pending.metas(list(range(6)), 0)
    assert [each.steps for each in metas] == [2 * ceil(n / b) for n, b in zip(SIZES, SIZED, strict=True)]


def test_a_checkpoint_keeps_what_each_group_was_sent() -> None:
    one, other = learning(Given(), sizes=SIZED), learning(Given(), sizes=SIZED)
    tasks, clients = np.arange(4), np.array([0, 1, 2, 3])
    one.dispatched(tasks, clients, np.zeros(4, np.int64))
    one.apply(tasks[:2])
    other.restore(one.checkpoint())
    for server in (one, other):
        server.dispatched(np.array([4]), np.array([5]), np.array([0]))
        server.apply(np.array([2, 3, 4]))
    assert_close({k: torch.from_numpy(v) for k, v in one.tensors().items()},
                 {k: torch.from_numpy(v) for k, v in other.tensors().items()}, atol=0)  # fmt: skip


# -- on the clock ------------------------------------------------------------------------------------------------------

SHORT = ["stop.server_steps=5", "executor.kind=serial", "population.clients=90", "aggregation.minimum_cohort=10"]


@pytest.mark.filterwarnings("ignore::evsim.base.caveat.CaveatWarning")
@pytest.mark.parametrize("more", [[], ["work={kind='by_deadline', deadline='4min'}", "client_rule.epochs=6"]])
@pytest.mark.parametrize(
    "aggregation", [[], ["aggregation={kind='buffered', concurrency=9, buffer_size=3, task_timeout='20min'}"]]
)
def test_heterofl_runs_and_every_price_is_recomputed(hetero: Any, tmp_path: Path, more: Any, aggregation: Any) -> None:
    overrides = [*SHORT[: 3 if aggregation else 4], *more, *aggregation]
    run = load_run(Simulation(Scenario.load(hetero[0] / "s.toml", overrides)).run(tmp_path / "run"))
    group = run.clients["group"].to_numpy()
    assert np.bincount(group).tolist() == [30, 30, 30]
    down = run.manifest["cost"]["bytes_down_of_groups"]
    assert down[0] == run.manifest["cost"]["bytes_down"] == 40_000_000
    n = {rate: 64 * ceil(32 * rate) + ceil(32 * rate) + 10 * ceil(32 * rate) + 10 for rate in (1.0, 0.5, 0.25)}
    assert down == [round(40_000_000 * n[rate] / n[1.0]) for rate in (1.0, 0.5, 0.25)]
    done = run.tasks[run.tasks["outcome"] == "aggregated"]
    assert (done["bytes_down"].to_numpy() == np.array(down)[group[done["client"]]]).all()
    assert run.tasks["max_steps"].notna().any() == bool(more)
    verdict = verify(tmp_path / "run")
    assert verdict.ok, [check for check in verdict.checks if not check.ok]


def test_work_by_deadline_is_what_the_device_promises(tmp_path: Path) -> None:
    speed = "{compute_ms_per_sample={kind='log_normal', median=20, sigma=1.0}, download_kbps=9000, upload_kbps=9000}"
    work = ["client_rule.epochs=20", "work={kind='by_deadline', deadline='10min'}"]
    overrides = [*SHORT, *work, f"population.speed={speed}"]
    run = load_run(Simulation(Scenario.load("quickstart", overrides)).run(tmp_path / "run"))
    own, tasks = run.clients, run.tasks
    transfer = 2 * np.rint(40_000_000 * 8 / 9000)
    step = own["compute_ms_per_sample"] * 5 * 3 * 80  # batch, training factor, scale
    fit = np.maximum(np.floor((600_000 - 2 * 40_000_000 * 8 / 9000) / step), 1).to_numpy()
    expected = fit[tasks["client"]]
    scheduled = 20 * 4
    assert (tasks["steps"].to_numpy() == np.minimum(expected, scheduled)).all()
    assert 0 < (expected < scheduled).mean() < 1
    assert (tasks["planned_compute_ms"] + transfer <= 600_001)[expected > 1].all()
    assert verify(tmp_path / "run").ok


def test_work_by_class_gives_shares_of_the_schedule(tmp_path: Path) -> None:
    overrides = [*SHORT, "client_rule.epochs=5", "work={kind='by_class', shares=[1.0, 0.5, 0.11]}"]
    run = load_run(Simulation(Scenario.load("quickstart", overrides)).run(tmp_path / "run"))
    rank = run.clients["compute_ms_per_sample"].rank(method="first").to_numpy() - 1
    expected = np.array([20, 10, 3])[(rank // 30).astype(int)]
    assert (run.tasks["steps"].to_numpy() == expected[run.tasks["client"]]).all()
    assert verify(tmp_path / "run").ok


def _phones(folder: Path, effort: list[object], name: str = "Local Effort") -> None:
    rows = [f"p{i},{10 + i},9000,9000,{each}" for i, each in enumerate(effort)]
    header = f"device,compute_ms_per_sample,download_kbps,upload_kbps,{name}"
    (folder / "phones.csv").write_text("\n".join([header, *rows]) + "\n")


def _by_column(
    folder: Path, work: str, columns: str = "columns=['local_effort']", more: list[str] | None = None
) -> Scenario:
    speed = f"population.speed={{path='{folder / 'phones.csv'}', {columns}}}"
    join = "population.join={kind='modulo'}"
    own = ["client_rule.epochs=5", speed, join, f"work={{kind='by_column', {work}}}", *(more or [])]
    return Scenario.load("quickstart", [*SHORT, *own])


@pytest.mark.parametrize(
    ("work", "effort", "expected"),
    [
        ("steps_in='local_effort'", [1, 7, 20, 300], [1, 7, 20, 20]),
        ("share_in='local_effort'", [0.05, 0.3, 0.51, 1], [1, 6, 11, 20]),
    ],
)
def test_work_by_column_is_what_the_trace_says(tmp_path: Path, work: str, effort: Any, expected: Any) -> None:
    _phones(tmp_path, effort)
    run = load_run(Simulation(_by_column(tmp_path, work)).run(tmp_path / "run"))
    device = run.clients["speed_device"].to_numpy()[run.tasks["client"]]
    steps = run.tasks["steps"].to_numpy()
    assert (steps == np.array(expected)[device]).all()
    assert set(device) == {0, 1, 2, 3}
    exact = (10 + device) * steps * 5 * 3 * 80  # batch, training factor, scale
    assert (run.tasks["planned_compute_ms"] == exact).all()
    assert verify(tmp_path / "run").ok


@pytest.mark.filterwarnings("ignore::evsim.base.caveat.CaveatWarning")
@pytest.mark.parametrize(
    ("rule", "work", "more"),
    [
        ("sgd", "steps_in='local_effort', batch_size_in='local_effort'", []),
        ("scaffold", "batch_size_in='local_effort'", ["broadcast.kind=scaffold", "server_optimizer.kind=scaffold"]),
        ("adam", "batch_size_in='local_effort'", []),
        ("qfedavg", "share_in='share', batch_size_in='local_effort'", ["server_optimizer.kind=qfedavg"]),
    ],
)
@pytest.mark.parametrize("executor", ["serial", "batched"])
def test_batch_size_by_column_is_trained_and_priced(
    tmp_path: Path, rule: str, work: str, more: list[str], executor: str
) -> None:
    effort, options = [1, 2, 3, 5], "q=1.0, " if rule == "qfedavg" else ""
    _phones(tmp_path, [f"{each},0.5" for each in effort], "local_effort,share")
    scenario = _by_column(
        tmp_path,
        work,
        "columns=['local_effort', 'share']",
        [
            f"client_rule={{kind='{rule}', {options}learning_rate=0.05, batch_size=5, drop_last=true, epochs=2}}",
            *(["weighting.kind=uniform", *more] if more else []),
            f"executor={{kind='{executor}'}}",
        ],
    )
    run = load_run(Simulation(scenario).run(tmp_path / "run"))
    own = np.array(effort)[run.clients["speed_device"]]
    assert (run.clients["batch_size"] == own).all()
    client, n = run.tasks["client"].to_numpy(), run.tasks["samples"].to_numpy()
    passes, steps = n // own[client], run.tasks["steps"].to_numpy()
    scheduled = 2 * passes
    expected = {"steps_in": np.minimum(own[client], scheduled), "share_in": passes}.get(work[:8], scheduled)
    assert (steps == expected).all()
    verdict = verify(tmp_path / "run")
    assert verdict.ok, [check for check in verdict.checks if not check.ok]


def test_batch_size_by_class_is_trained_as_a_run_of_everybody_with_it_would_be(tmp_path: Path) -> None:
    """One class of 2 at a rule of 5 is the run at a rule of 2."""
    one = [*SHORT, "client_rule.batch_size=5", "work={kind='by_class', batch_sizes_of=[2]}"]
    runs = [
        load_run(Simulation(Scenario.load("quickstart", given)).run(tmp_path / name))
        for name, given in (("one", one), ("other", [*SHORT, "client_rule.batch_size=2"]))
    ]
    first, second = (run.tasks.drop(columns="max_steps") for run in runs)
    assert first.equals(second)
    assert runs[0].evaluations["value"].tolist() == runs[1].evaluations["value"].tolist()
    classes = [*SHORT, "work={kind='by_class', shares=[1.0, 0.5], batch_sizes_of=[5, 2, 1]}"]
    run = load_run(Simulation(Scenario.load("quickstart", classes)).run(tmp_path / "classes"))
    rank = (run.clients["compute_ms_per_sample"].rank(method="first").to_numpy() - 1).astype(int)
    own = np.array([5, 2, 1])[rank // 30]
    assert (run.clients["batch_size"] == own).all()
    scheduled = -(-run.clients["samples"].to_numpy() // own)
    expected = np.where(rank < 45, scheduled, -(-scheduled // 2))
    assert (run.tasks["steps"].to_numpy() == expected[run.tasks["client"]]).all()
    assert verify(tmp_path / "classes").ok


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (
            ["work={kind='by_class', batch_sizes_of=[50]}"],
            "work.batch_sizes_of: 50; expected at most client_rule.batch",
        ),
        (["work={kind='by_class', batch_sizes_of=[0]}"], "batch_sizes_of must be >= 1"),
        (["work={kind='by_class'}"], "shares must not be empty"),
        (
            ["work={kind='by_class', batch_sizes_of=[2]}", "client_rule.partial_work=true"],
            "batch sizes that differ beside client_rule.partial_work",
        ),
    ],
)
def test_batch_sizes_that_cannot_be_are_refused(tmp_path: Path, more: list[str], words: str) -> None:
    with pytest.raises(EvsimError, match=words):
        Simulation(Scenario.load("quickstart", [*SHORT, *more])).run(tmp_path / "run")


def test_further_columns_pass_through_a_trace_folder(tmp_path: Path) -> None:
    _phones(tmp_path, [1, 7, 20, ""])
    given = read_csv_speed(tmp_path / "phones.csv", columns=["local_effort"])
    columnar.write(tmp_path / "trace", speed=given)
    again = columnar.read_speed(tmp_path / "trace", columns=["local_effort"])
    np.testing.assert_array_equal(again.more["local_effort"], [1, 7, 20, np.nan])
    assert again.fingerprint() == given.fingerprint() != columnar.read_speed(tmp_path / "trace").fingerprint()
    np.testing.assert_array_equal(again.take([2, 0, 0]).more["local_effort"], [20, 1, 1])


@pytest.mark.parametrize(
    ("effort", "work", "columns", "words"),
    [
        ([3, 0], "steps_in='local_effort'", "columns=['local_effort']", "0 for device 1; expected a whole number >= 1"),
        ([3, 1.5], "steps_in='local_effort'", "columns=['local_effort']", "1.5 for device 1"),
        ([3, ""], "steps_in='local_effort'", "columns=['local_effort']", "nothing for device 1"),
        ([1, 1.5], "share_in='local_effort'", "columns=['local_effort']", "expected a share in"),
        ([3, 1], "steps_in='effort'", "columns=['local_effort']", "column 'effort'; expected a column that is read"),
        ([3, 1], "steps_in='effort'", "columns=['local_effort', 'effort']", "no column 'effort'"),
        ([3, "x"], "steps_in='local_effort'", "columns=['local_effort']", "a number"),
        ([3, 1], "steps_in='local_effort'", "columns='local_effort'", "expected a list of names of columns"),
        ([3, 1], "steps_in='a', share_in='b'", "columns=['local_effort']", "one of steps_in and share_in is needed"),
        (
            [3, 6],
            "batch_size_in='local_effort'",
            "columns=['local_effort']",
            "6 for device 1; expected a whole number from",
        ),
        ([3, 1], "steps_in='a'", "format='csv'", "unknown column 'Local Effort'"),
    ],
)
def test_columns_that_say_no_work_are_refused(tmp_path: Path, effort: Any, work: str, columns: str, words: str) -> None:
    _phones(tmp_path, effort)
    with pytest.raises(EvsimError, match=words):
        Simulation(_by_column(tmp_path, work, columns)).run(tmp_path / "run")


# -- bad input ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("broadcast", "words"),
    [
        (Given(of=(0, 0, 1, 1, 0, 1)), "group 2 of 3 has no client with data; expected clients in every group"),
        (Given(of=(0, 0, 1, 1, 3, 2)), "group 3 for client 4; expected groups from 0 to 2"),
        (Given(of=(0, 0, -1, 1, 1, 2)), "group -1 for client 2"),
        (Given(units=(*UNITS[:2], (0, 7))), r"positions \[0, 7\] along a dimension of 7"),
        (Given(units=(*UNITS[:2], (1, 1))), r"positions \[1, 1\]"),
    ],
)
def test_groups_and_parts_that_are_not_there_are_refused(broadcast: Any, words: str) -> None:
    with pytest.raises(PolicyError, match=words):
        learning(broadcast)


@dataclass(frozen=True, kw_only=True)
class Misfit(Given):
    def part(self, leaf: str, shape: tuple[int, ...], group: int) -> Any:
        return None if leaf == "2.weight" else super().part(leaf, shape, group)


@dataclass(frozen=True, kw_only=True)
class Fewer(Given):
    def part(self, leaf: str, shape: tuple[int, ...], group: int) -> Any:
        last = np.arange(CLASSES - (group == 1))
        return {"2.weight": (last, None), "2.bias": (last,)}.get(leaf)


def test_a_part_that_does_not_fit_is_refused_with_its_group() -> None:
    with pytest.raises(
        TrainingError, match=r"broadcast Misfit \(group 1, while its part of the model is tried\): Runt"
    ):
        learning(Misfit())
    with pytest.raises(
        TrainingError, match=r"Fewer, group 1: a part of the model that gives outputs of shape \(2, 2\)"
    ):
        learning(Fewer())


def test_a_merge_of_whole_models_is_refused(hetero: Any) -> None:
    with pytest.raises(ScenarioError, match=r"merge: Median merges whole models, and broadcast HeteroFL sends parts"):
        Scenario.load(hetero[0] / "s.toml", ["merge.kind=median"])
    server = learning(Given(), merge=Median())
    server.dispatched(np.arange(2), np.arange(2), np.zeros(2, np.int64))
    with pytest.raises(EvsimError, match="only weighted sums can merge"):
        server.apply(np.arange(2))


ZERO = """
from dataclasses import dataclass
import numpy as np
from evsim.algorithms.workload import Workload

@dataclass(frozen=True)
class Zero(Workload):
    def steps(self, clients, scheduled, promised):
        return {body}
"""


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("np.where(clients.client == 3, 0, scheduled)", "work Zero.steps: 0 steps for client 3; expected at least 1"),
        ("scheduled / 2", "work Zero.steps: ndarray .* float64; expected an array of 90 integers"),
        ("scheduled.nothing", r"work Zero \(step steps\): AttributeError"),
    ],
)
def test_work_of_zero_steps_is_refused(tmp_path: Path, body: str, words: str) -> None:
    (tmp_path / "zero.py").write_text(ZERO.format(body=body), encoding="utf-8")
    scenario = Scenario.load("quickstart", [*SHORT, f"work.kind={tmp_path}/zero.py:Zero"])
    with pytest.raises(EvsimError, match=words):
        Simulation(scenario).run(tmp_path / "run")


def test_work_of_a_page_that_is_equal_in_time(tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n([^`]*class EqualTime.*?)```", PAGE, flags=re.DOTALL)
    (tmp_path / "mine.py").write_text(code, encoding="utf-8")
    more = [f"work={{kind='{tmp_path}/mine.py:EqualTime', seconds=200.0}}", "client_rule.epochs=9"]
    run = load_run(Simulation(Scenario.load("quickstart", [*SHORT, *more])).run(tmp_path / "run"))
    assert run.tasks["steps"].nunique() > 5
    assert verify(tmp_path / "run").ok


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ('keep=["3.*"]', "keep: leaves of a model; expected nothing here"),
        ("broadcast={kind='heterofl', first='1', last='3'}", "broadcast: HeteroFL sends parts of a model"),
    ],
)
def test_a_dry_run_has_no_model_to_cut(hetero: Any, override: str, words: str) -> None:
    (hetero[0] / "dry.toml").write_text('extends = "replay"\n', encoding="utf-8")
    with pytest.raises(ScenarioError, match=words):
        Scenario.load(hetero[0] / "dry.toml", [override], paths_from=hetero[0])


@dataclass(frozen=True, kw_only=True)
class OwnRate(LocalSgd):
    """The rate falls with the tasks that a client was given and rises with the time of a sample."""

    knows = ("compute_ms", "nth", "group")

    def begin(self, received: Any, state: Any, version: Any) -> Any:
        known = state["client"]
        rate = self.learning_rate * (1 + known["compute_ms"]) / (4.0 + known["nth"] + known["group"])
        return {**super().begin(received, state, version), "own": {"rate": rate}}

    def rate(self, carry: Any) -> Any:
        return carry["own"]["rate"]

    def direction(self, grads: Any, carry: Any, received: Any, state: Any) -> Any:
        return grads


@pytest.mark.parametrize("executor", [Batched(threads=1), Batched(chunk=2, threads=1), Workers(workers=2)], ids=str)
def test_what_a_rule_knows_of_its_client_is_the_same_in_every_executor(executor: Any) -> None:
    own = OwnRate(learning_rate=RATE, batch_size=4, epochs=2)
    serial = driven(learning(Given(), client_rule=own))
    assert_close(serial, driven(learning(Given(), executor, client_rule=own)))
    assert_close(serial, driven(learning(Given(), executor, client_rule=own, merge=Mean(), upload=(TopK(share=1.0),))))


def test_a_weighting_and_a_merge_know_the_clients_of_a_step() -> None:
    seen: list[Any] = []

    @dataclass(frozen=True, kw_only=True)
    class Looking(SampleWeights):
        def weights(self, reports: Any) -> Any:
            seen.append(reports.info)
            return super().weights(reports)

    server = learning(Given(), weighting=Looking())
    drive = Drive(server)
    server.apply(drive.dispatch((0, 1, 2)))
    server.apply(drive.dispatch((2, 0)))
    assert seen[0].client.tolist() == [0, 1, 2]
    assert seen[1].client.tolist() == [0, 2]
    assert seen[1].nth.tolist() == [1, 1]
    assert seen[1].group.tolist() == [GROUPS[0], GROUPS[2]]
    assert seen[1].samples.tolist() == [SIZES[0], SIZES[2]]
    assert seen[1].compute_ms.tolist() == [2.0, 5.0]
