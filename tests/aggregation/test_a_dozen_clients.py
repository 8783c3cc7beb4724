"""A dozen clients by hand: who works when, from which version, with what weight, and the model after each step.

Nothing is drawn, so that a pencil suffices. The model is one number w, at first 0. Client c has one sample, its target,
and goes half way to it: its update is (target - w) / 2. Four clients are at work at a time; the next to be asked is the
next idle one in the circle 0, 1, ... 11, 0, 1, ... Times are seconds.

Each schedule stands here as a table, is made again from durations and absences by a loop written from the papers, which
shares no code with the package, and is run. Timelines must be equal, models equal to 1e-12.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from decimal import Decimal
from fractions import Fraction
from io import StringIO
from pathlib import Path
from typing import Any, final

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.numpy import load_file
from typing_extensions import override

from evsim import Scenario, Simulation
from evsim.algorithms.base import Apply, Batch, Carry, Criterion, LossValue, Reports, State
from evsim.algorithms.local_sgd import LocalSgd
from evsim.algorithms.tree import Payload, Tree
from evsim.base.vocabulary import IntArray
from evsim.selection.base import ClientView, Selector
from evsim.selection.base import Outcomes as Feedback
from evsim.training.data.base import DataSet, Samples

# client    0   1  2   3   4  5  6   7   8    9  10  11
TARGETS = (24, 40, 8, 16, 48, 0, 0, 32, 64, -16, -8, 0)
LASTS = (13, 15, 5, 6, 12, 29, 29, 29, 6, 10, 3, 29)  # a task: 1 s of download, computing, 1 s of upload
AWAY = {5: (7, 18), 6: (34, 94)}  # client: leaves, is back; the others are always there
AT_WORK, TIMEOUT = 4, 30  # no task of a client that stays lasts as long as the timeout
DAY = 86_400

Steps = list[tuple[int, list[int], Any]]

# -- the tables --------------------------------------------------------------------------------------------------------

# Buffers of two; a staleness of 3 is too much. Client 5 is lost at 7, and its slot is free when it is back, at 18.
# Client 6 is lost at 34 and not back in time, so its slot is free 30 s after the task began, at 43. Client 11 works on
# version 3 until 55, and by then there are three more. A slot refilled at the instant of a step gets the new version.
TASKS = """
 task  client  sent  ended  known  version  outcome     staleness  weight  step
    0       0     0     13     13        0  aggregated          1    1/R2     2
    1       1     0     15     15        0  aggregated          1    1/R2     2
    2       2     0      5      5        0  aggregated          0       1     1
    3       3     0      6      6        0  aggregated          0       1     1
    4       4     5     17     17        0  aggregated          2    1/R3     3
    5       5     6      7     18        1  dropped             -       -     -
    6       6    13     34     43        1  dropped             -       -     -
    7       7    15     44     44        2  aggregated          2    1/R3     5
    8       8    17     23     23        2  aggregated          0       1     3
    9       9    18     28     28        2  aggregated          1    1/R2     4
   10      10    23     26     26        3  aggregated          0       1     4
   11      11    26     55     55        3  stale               3       -     -
   12       0    28     41     41        4  aggregated          0       1     5
   13       1    41     56     56        4  aggregated          2    1/R3     7
   14       2    43     48     48        4  aggregated          1    1/R2     6
   15       3    44     50     50        5  aggregated          0       1     6
   16       4    48     60     60        5  aggregated          1    1/R2     7
   17       5    50      -      -        6  in_flight           -       -     -
   18       7    55      -      -        6  in_flight           -       -     -
   19       8    56      -      -        6  in_flight           -       -     -
"""
R2, R3, R6 = math.sqrt(2), math.sqrt(3), math.sqrt(6)
WEIGHTS = {"1": 1.0, "1/R2": 1 / R2, "1/R3": 1 / R3}

# FedBuff: w + (s d + s' d') / 2 with s = 1 / sqrt(1 + staleness). Instant, tasks, model after each step.
STEPS: Steps = [
    (0, [], 0),
    (6, [2, 3], 6),  # d = 4, 8
    (15, [0, 1], 6 + 8 * R2),  # 12, 20
    (23, [4, 8], 41 / 2 + 6 * R2 + 4 * R3),  # 24, 29 - 4 R2
    (28, [9, 10], 91 / 8 + 7 / 4 * R2 + 3 * R3),  # -11 - 4 R2, -57/4 - 3 R2 - 2 R3
    (44, [7, 12], 465 / 32 + 21 / 16 * R2 + 53 / 12 * R3 - 2 / 3 * R6),  # 13 - 4 R2, 101/16 - 7/8 R2 - 3/2 R3
    # -27/16 - 7/8 R2 - 3/2 R3, 47/64 - 21/32 R2 - 53/24 R3 + 1/3 R6
    (50, [14, 15], 1851 / 128 + 9 / 16 * R2 + 53 / 16 * R3 - 7 / 8 * R6),
    # 229/16 - 7/8 R2 - 3/2 R3, 1071/64 - 21/32 R2 - 53/24 R3 + 1/3 R6
    (60, [13, 16], 1713 / 128 + 1215 / 256 * R2 + 563 / 96 * R3 - 151 / 96 * R6),
]

# The same timeline with s = 1 / (1 + staleness) and divided by the sum of the weights: w + (s d + s' d') / (s + s').
CONVEX_STEPS: Steps = [
    (0, [], Fraction(0)),
    (6, [2, 3], Fraction(6)),  # (4 + 8) / 2
    (15, [0, 1], Fraction(22)),  # (12/2 + 20/2) / 1
    (23, [4, 8], Fraction(175, 4)),  # (24/3 + 21) / (4/3)
    (28, [9, 10], Fraction(121, 6)),  # (-19/2 - 207/8) / (3/2)
    (44, [7, 12], Fraction(1097, 48)),  # (5/3 + 23/12) / (4/3)
    (50, [14, 15], Fraction(445, 24)),  # (-73/24 - 329/96) / (3/2)
    (60, [13, 16], Fraction(2885, 96)),  # (119/36 + 1207/192) / (5/6)
]

# FedAsync: every report is a step, w <- (1 - a) w + a y with a = 1/2 / (1 + staleness), y = (target + base) / 2.
FEDASYNC_TASKS = """
 task  client  sent  ended  known  version  outcome     staleness  step
    0       0     0     13     13        0  aggregated          2     3
    1       1     0     15     15        0  stale               3     -
    2       2     0      5      5        0  aggregated          0     1
    3       3     0      6      6        0  aggregated          1     2
    4       4     5     17     17        1  aggregated          2     4
    5       5     6      7     18        2  dropped             -     -
    6       6    13      -      -        3  in_flight           -     -
    7       7    15      -      -        3  in_flight           -     -
    8       8    17     23     23        4  aggregated          0     5
    9       9    18      -      -        4  in_flight           -     -
   10      10    23     26     26        5  aggregated          0     6
"""
FEDASYNC_STEPS: Steps = [
    (0, [], Fraction(0)),
    (5, [2], Fraction(2)),  # a = 1/2, y = 4
    (6, [3], Fraction(7, 2)),  # a = 1/4, y = 8, from version 0
    (13, [0], Fraction(59, 12)),  # a = 1/6, y = 12, from version 0
    (17, [4], Fraction(595, 72)),  # a = 1/6, y = 25, from version 1
    (23, [8], Fraction(2131, 96)),  # a = 1/2, y = 32 + 595/144
    (26, [10], Fraction(1875, 128)),  # a = 1/2, y = -4 + 2131/192
]

# -- the loop ----------------------------------------------------------------------------------------------------------


@dataclass
class Task:
    """One row of the tables; what is not known yet at the end of the run is made empty by `as_of`."""

    client: int
    sent: int
    ended: int
    known: int
    version: int
    outcome: str
    staleness: int | None = None
    step: int | None = None


Move = Callable[[list[Any], list[Task]], Any]  # (all models so far, the buffer) -> the next model


def start(client: int, now: int, version: int) -> Task:
    """A task sent now: it arrives if the client stays; a loss is known when the client is back, or at the timeout."""
    leaves, back = AWAY.get(client, (DAY, DAY))
    arrives = now + LASTS[client]
    if now < leaves < arrives:
        return Task(client, now, leaves, min(back, now + TIMEOUT), version, "dropped")
    return Task(client, now, arrives, arrives, version, "in_flight")


def next_in_circle(after: int, now: int, working: Sequence[int]) -> int:
    """The first client of the circle after this one that is there and has nothing to do."""
    circle = [(after + i) % 12 for i in range(1, 13)]
    away = [client for client, (leaves, back) in AWAY.items() if leaves <= now < back]
    return next(client for client in circle if client not in away and client not in working)


def by_the_paper(
    move: Move, first: Any, *, steps: int, buffer_size: int = 2, most: int = 2
) -> tuple[pd.DataFrame, list[Any]]:
    """The server of FedBuff (Nguyen et al. 2022, algorithm 1) until so many steps are made: all tasks, all models."""
    tasks, models, buffer, at_work, now = list[Task](), [first], list[Task](), list[Task](), 0
    while len(models) <= steps:
        while len(at_work) < AT_WORK:
            client = next_in_circle(tasks[-1].client if tasks else -1, now, [task.client for task in at_work])
            at_work.append(start(client, now, len(models) - 1))
            tasks.append(at_work[-1])
        at_work.sort(key=lambda task: task.known)
        task = at_work.pop(0)
        now = task.known
        assert now < at_work[0].known, "two endings of one instant: their order would be drawn"
        if task.outcome == "dropped":
            continue
        task.staleness = len(models) - 1 - task.version
        task.outcome = "stale" if task.staleness > most else "aggregated"
        buffer += [task] if task.outcome == "aggregated" else []
        if len(buffer) == buffer_size:
            models.append(move(models, buffer))
            for used in buffer:
                used.step = len(models) - 1
            buffer = []
    return pd.DataFrame([as_of(task, now) for task in tasks]).rename_axis("task").reset_index().convert_dtypes(), models


def as_of(task: Task, end: int) -> dict[str, Any]:
    """The row of a task in a record that ends at this instant."""
    known = {"known": task.known if task.known <= end else None}
    if task.ended > end:
        return asdict(task) | known | {"ended": None, "outcome": "in_flight"}
    return asdict(task) | known


def update(task: Task, models: list[Any]) -> Any:
    return (TARGETS[task.client] - models[task.version]) / 2


def fedbuff(models: list[Any], buffer: list[Task]) -> Any:
    """Divided by the buffer's size whatever the weights are; the server's learning rate is 1."""
    roots = [Decimal(1 + (task.staleness or 0)).sqrt() for task in buffer]
    return models[-1] + sum(update(task, models) / root for task, root in zip(buffer, roots, strict=True)) / 2


def convex(models: list[Any], buffer: list[Task]) -> Any:
    weights = [Fraction(1, 1 + (task.staleness or 0)) for task in buffer]
    total = sum(weight * update(task, models) for task, weight in zip(buffer, weights, strict=True))
    return models[-1] + total / sum(weights)


def fedasync(models: list[Any], buffer: list[Task]) -> Any:
    """Xie et al. 2019, algorithm 1."""
    (task,) = buffer
    share = Fraction(1, 2) / (1 + (task.staleness or 0))
    return (1 - share) * models[-1] + share * (models[task.version] + update(task, models))


# -- the run -----------------------------------------------------------------------------------------------------------


@final
@dataclass(frozen=True, kw_only=True)
class Circle(Selector[int]):
    """The next idle clients after the last one asked, by id; the state is where to begin."""

    @override
    def init(self, n_clients: int) -> int:
        return 0

    @override
    def select(self, state: int, view: ClientView, n: int, key: int) -> tuple[IntArray, int]:
        chosen = view.idle[np.argsort((view.idle - state) % view.n_clients)][:n]
        return chosen, int(chosen[-1]) + 1 if len(chosen) else state

    @override
    def feedback(self, state: int, reports: Feedback) -> int:
        return state


@final
@dataclass(frozen=True, kw_only=True)
class ToTarget(LocalSgd):
    """Gradient descent on (w - target)^2 / 2: at rate 1/2 a step goes half way."""

    @override
    def loss(self, apply: Apply, carry: Carry, buffers: Tree, batch: Batch, criterion: Criterion) -> LossValue:
        x, _ = batch
        logits, buffers = apply(carry["train"], buffers, x)
        return (logits[:, 0] - x[:, 0]) ** 2 / 2, buffers

    @override
    def direction(self, grads: Tree, carry: Carry, received: Payload, state: State) -> Tree:
        return grads


@final
class OneNumber(torch.nn.Module):
    """Logits (w, 0) for every input."""

    def __init__(self) -> None:
        super().__init__()
        self.w = torch.nn.Parameter(torch.zeros(()))

    @override
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        w = self.w.expand(len(x))
        return torch.stack([w, torch.zeros_like(w)], dim=-1)


@final
@dataclass(frozen=True, kw_only=True)
class Targets(DataSet):
    """Client c has its target; the test set is one sample of label 1, whose loss ln(1 + e^w) tells w."""

    @override
    def load(self, *, n_clients: int | None, seed: int, folder: Path) -> Samples:
        x = np.array([*TARGETS, 0], np.float32)[:, None]
        test = np.arange(13) == 12
        return Samples(x, test.astype(np.int64), 2, np.where(test, -1, np.arange(13)), "targets", is_test=test)


def scenario(folder: Path, **tables: Any) -> Scenario:
    sessions = ["device,start_s,stop_s"]
    for client in range(12):
        leaves, back = AWAY.get(client, (DAY, DAY))
        sessions += [f"{client},0,{leaves}"] + ([f"{client},{back},{DAY}"] if back < DAY else [])
    (folder / "sessions.csv").write_text("\n".join(sessions))
    speeds = [f"{client},{1000 * (lasts - 2)},8000,8000" for client, lasts in enumerate(LASTS)]
    (folder / "speeds.csv").write_text("\n".join(["device,compute_ms_per_sample,download_kbps,upload_kbps", *speeds]))
    shared = {
        "precision": "float64",
        "population": {"clients": 12, "availability": "sessions.csv", "speed": "speeds.csv", "join": "modulo"},
        "data": {"dataset": {"kind": f"{__name__}:Targets"}, "partition": "natural"},
        "cost": {"model_bytes": 1_000_000, "training_factor": 1},
        "model": {"kind": f"{__name__}:OneNumber"},
        "client_rule": {"kind": f"{__name__}:ToTarget", "learning_rate": 0.5},
        "selection": {"kind": f"{__name__}:Circle"},
        "executor": {"kind": "serial"},
        "evaluation": {"every": 1},
    }
    return Scenario.from_dict({**shared, **tables}, folder=folder)


def buffered(buffer_size: int) -> dict[str, Any]:
    limits = {"max_staleness": 2, "task_timeout": f"{TIMEOUT}s"}
    return {"kind": "buffered", "concurrency": AT_WORK, "buffer_size": buffer_size, **limits}


FEDBUFF = {"algorithm": "fedbuff", "aggregation": buffered(2)}
HARMONIC = {"kind": "polynomial_staleness", "exponent": 1}


@final
class Run:
    """What the folder of a finished run says."""

    def __init__(self, scenario: Scenario, folder: Path) -> None:
        Simulation(scenario, device="cpu").run(folder)
        self.tasks = pd.read_parquet(folder / "tasks.parquet")
        self.steps = pd.read_parquet(folder / "server_steps.parquet")
        found = pd.read_parquet(folder / "evaluations.parquet")
        loss = found[found["metric"] == "loss"].set_index("version")["value"]
        self.evaluated = loss + np.log1p(-np.exp(-loss))  # w from ln(1 + e^w)
        self.model = load_file(folder / "model.safetensors")["w"].item()


# -- the comparisons ---------------------------------------------------------------------------------------------------


def table(text: str) -> pd.DataFrame:
    return pd.read_csv(StringIO(text), sep=r"\s+", na_values="-", dtype={"weight": "string"}).convert_dtypes()


def assert_close(found: Sequence[float], expected: Sequence[Any]) -> None:
    np.testing.assert_allclose(np.array(found), [float(number) for number in expected], rtol=0, atol=1e-12)


def assert_run(run: Run, tasks: pd.DataFrame, steps: Steps) -> None:
    """Every task, every step and every model of the run."""
    names = {"dispatched_at": "sent", "ended_at": "ended", "known_at": "known", "server_step": "step"}
    found = run.tasks.rename(columns=names)[list(tasks.columns)].convert_dtypes()
    in_ms = tasks.assign(**{name: tasks[name] * 1000 for name in ("sent", "ended", "known")})
    pd.testing.assert_frame_equal(found, in_ms)
    assert run.steps["version"].tolist() == list(range(1, len(steps)))
    assert run.steps["closed_at"].tolist() == [1000 * at for at, _, _ in steps[1:]]
    merged = run.tasks.groupby("server_step")["task"].agg(list)
    assert merged.tolist() == [used for _, used, _ in steps[1:]]
    assert run.evaluated.index.tolist() == list(range(len(steps)))
    assert_close(run.evaluated.tolist(), [model for _, _, model in steps])
    assert_close([run.model], [steps[-1][2]])


def test_the_tables_are_what_the_papers_say() -> None:
    expected = table(TASKS).drop(columns="weight")
    tasks, models = by_the_paper(fedbuff, Decimal(0), steps=7)
    pd.testing.assert_frame_equal(tasks, expected)
    assert_close([model for _, _, model in STEPS], models)
    tasks, models = by_the_paper(convex, Fraction(0), steps=7)
    pd.testing.assert_frame_equal(tasks, expected)
    assert models == [model for _, _, model in CONVEX_STEPS]
    tasks, models = by_the_paper(fedasync, Fraction(0), steps=6, buffer_size=1)
    pd.testing.assert_frame_equal(tasks, table(FEDASYNC_TASKS))
    assert models == [model for _, _, model in FEDASYNC_STEPS]


@pytest.mark.parametrize("executor", ["serial", "batched"])
def test_fedbuff(tmp_path: Path, executor: str) -> None:
    chosen = scenario(tmp_path, **FEDBUFF, executor={"kind": executor}, stop={"server_steps": 7})
    run, expected = Run(chosen, tmp_path / "run"), table(TASKS)
    assert_run(run, expected.drop(columns="weight"), STEPS)
    used = run.tasks[run.tasks["outcome"] == "aggregated"]
    columns = [used[name].to_numpy(np.int64) for name in ("client", "samples", "staleness")]
    weights = chosen.weighting.weights(Reports(*columns))[""]
    assert_close(weights.tolist(), expected["weight"].dropna().map(WEIGHTS).tolist())


@pytest.mark.parametrize("steps", range(1, 7))
def test_a_run_of_fewer_steps_is_the_beginning_of_the_longer_one(tmp_path: Path, steps: int) -> None:
    run = Run(scenario(tmp_path, **FEDBUFF, stop={"server_steps": steps}), tmp_path / "run")
    tasks, _ = by_the_paper(fedbuff, Decimal(0), steps=steps)
    assert_run(run, tasks, STEPS[: steps + 1])
    whole, end = table(TASKS), STEPS[steps][0]
    assert tasks["task"].tolist() == whole.loc[whole["sent"] < end, "task"].tolist()
    over = whole["known"].fillna(DAY) <= end
    pd.testing.assert_frame_equal(tasks[over[: len(tasks)]], whole[over].drop(columns="weight"))


def test_the_variant_that_divides_by_the_sum_of_the_weights(tmp_path: Path) -> None:
    method = {"weighting": HARMONIC, "merge": {"kind": "mean"}}
    run = Run(scenario(tmp_path, **FEDBUFF, **method, stop={"server_steps": 7}), tmp_path / "run")
    assert_run(run, table(TASKS).drop(columns="weight"), CONVEX_STEPS)


def test_fedasync(tmp_path: Path) -> None:
    method = {"weighting": HARMONIC, "merge": {"kind": "mixing", "alpha": 0.5}}
    run = Run(scenario(tmp_path, aggregation=buffered(1), **method, stop={"server_steps": 6}), tmp_path / "run")
    assert_run(run, table(FEDASYNC_TASKS), FEDASYNC_STEPS)
