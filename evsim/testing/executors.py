"""What every executor must do, as tests to inherit: give `make`, get the rest.

class TestMyExecutor(ExecutorContract, ZooContract):
    def make(self):
        return MyExecutor()
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, fields, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from typing_extensions import override

from evsim.algorithms.base import ClientRule, State
from evsim.algorithms.sgd import Sgd
from evsim.algorithms.sums import WeightedSums
from evsim.algorithms.tree import Payload
from evsim.base import registry, rng
from evsim.base.errors import ModelError, TrainingError
from evsim.testing.objectives import labels_of, model_of
from evsim.testing.zoo import FAILING, N_CLASSES, SIDE, STOCHASTIC, TOO_MUCH, ZOO, made
from evsim.training.data.gathered import Gathered
from evsim.training.data.samples import Inputs, TrainingData
from evsim.training.data.skew import Noise, Rotation, Seen, Skew, SkewedRows
from evsim.training.data.transforms.base import Transform
from evsim.training.data.transforms.images import Flip, PadAndCrop
from evsim.training.data.transforms.mask import Mask
from evsim.training.data.transforms.normalize import Normalize
from evsim.training.executors.agreement import largest_difference, tolerance
from evsim.training.executors.base import Executor, Job, Result, TrainTask
from evsim.training.executors.serial import Serial
from evsim.training.executors.sums import Block, added_up
from evsim.training.models.leaves import averaged, trained
from evsim.training.objectives.base import Objective
from evsim.training.objectives.next_token import NextToken

#: Samples per client: none, one, less than a batch, a partial last batch, whole batches.
SIZES = (7, 0, 1, 13, 20, 3, 8, 13)
#: Length of the texts of a test.
TIME = 6
#: Options that make a model of the registry small, and one that predicts once per sample.
SMALL: dict[str, dict[str, Any]] = {
    "cnn": {"channels": (4, 6), "hidden": 8, "norm": "group"},
    "mlp": {"hidden": (8,), "dropout": 0.2},
    "gru": {"hidden": 6},
    "resnet": {"depth": 10, "width": 4},
    "mobilenet_v2": {"width": 0.1, "dropout": 0.2},
    "char_lstm": {"embedding": 4, "hidden": 6},
    "transformer": {"heads": 2, "width": 8, "dropout": 0.2, "predicts": "last"},
}
#: The same without a mini-batch of one, for batches of 4.
PAIRS = (6, 0, 3, 12, 7, 4)

#: One transform of each kind, for images of one channel.
TRANSFORMS: dict[str, Transform] = {
    "normalize": Normalize(mean=(0.3,), deviation=(0.5,)),
    "pad_and_crop": PadAndCrop(pixels=2),
    "flip": Flip(),
    "mask": Mask(rows=3, columns=2, bands=2),
}


class ExecutorContract(ABC):
    """Results equal those of `Serial` to rounding, come in order, and depend on nothing but the task."""

    @abstractmethod
    def make(self) -> Executor:
        """The executor."""

    @pytest.mark.parametrize("name", sorted(registry.entries("client_rule")))
    def test_every_client_rule_trains_as_serially(self, name: str) -> None:
        rule = make_rule(name)
        compare(self.make(), make_job(mlp(), rule), make_tasks)

    def test_clipped_gradients_and_nesterov_momentum_train_as_serially(self) -> None:
        rule = make_rule("sgd", clip_norm=0.5, momentum=0.9, nesterov=True)
        compare(self.make(), make_job(mlp(), rule), make_tasks)

    @pytest.mark.parametrize("kind", ["epochs", "steps"])
    def test_rules_that_keep_state_and_look_first_train_as_serially(self, kind: str) -> None:
        rule = make_rule("scaffold", option=1, **{kind: 3})
        compare(self.make(), make_job(mlp(), rule), make_tasks)

    @pytest.mark.parametrize("model", ["mlp", "dropout", "group_norm", "batch_norm", "shared", "cell"])
    def test_every_model_trains_as_serially(self, model: str) -> None:
        sizes = tuple(2 * size for size in SIZES) if model == "batch_norm" else SIZES
        compare(self.make(), make_job(MODELS[model](), sizes=sizes), make_tasks)

    @pytest.mark.parametrize("kind", sorted(registry.built_in("model")))
    def test_every_built_in_model_trains_as_serially_and_is_batched(self, kind: str) -> None:
        compare(self.make(), make_model_job(kind), make_tasks)

    @pytest.mark.parametrize("kind", ["char_lstm", "gru", "transformer"])
    def test_models_that_tell_what_follows_every_token_train_as_serially(self, kind: str) -> None:
        compare(self.make(), make_model_job(kind, predicts="every"), make_tasks)

    @pytest.mark.parametrize("kind", ["char_lstm", "resnet", "transformer"])
    def test_sums_of_built_in_models_are_those_of_the_results(self, kind: str) -> None:
        compare_sums(self.make(), make_model_job(kind), rounds=1)

    @pytest.mark.parametrize("model", ["gru", "gru_dropout"])
    @pytest.mark.filterwarnings("ignore:the model cannot be trained in batches")
    def test_models_that_may_not_be_batched_train_as_serially(self, model: str) -> None:
        compare(self.make(), make_job(MODELS[model]()), make_tasks)

    @pytest.mark.parametrize("kind", sorted(registry.entries("objective")))
    def test_every_objective_trains_as_serially_with_what_a_rule_adds(self, kind: str) -> None:
        compare(self.make(), objective_job(registry.load("objective", kind)(), make_rule("fedprox")), make_tasks)

    @pytest.mark.parametrize("kind", sorted(registry.entries("objective")))
    def test_sums_of_every_objective_are_those_of_the_results_with_a_look_before(self, kind: str) -> None:
        compare_sums(self.make(), objective_job(registry.load("objective", kind)(), make_rule("qfedavg")))

    def test_single_precision_agrees_to_the_stated_tolerance(self) -> None:
        compare(self.make(), make_job(mlp(), dtype=torch.float32), make_tasks)

    def test_half_precision_forward_passes_agree_to_the_stated_tolerance(self) -> None:
        compare(self.make(), make_job(mlp(), dtype=torch.float32, autocast=True), make_tasks)

    def test_tasks_of_different_versions_train_together(self) -> None:
        compare(self.make(), make_job(mlp()), lambda job: make_tasks(job, versions=3))

    def test_a_result_depends_on_its_task_alone(self) -> None:
        job = make_job(MODELS["dropout"]())
        tasks = make_tasks(job)
        with opened(self.make(), job) as run:
            together = run(tasks)
            backwards = run(tasks[::-1])[::-1]
            alone = [run([task])[0] for task in tasks]
        for one, two, three in zip(together, backwards, alone, strict=True):
            assert largest_difference(one, two) < 1e-9
            assert largest_difference(one, three) < 1e-9

    def test_results_come_in_the_order_of_the_tasks_however_many(self) -> None:
        job = make_job(mlp())
        tasks = [task for k in range(30) for task in make_tasks(job, nth=k)]
        with opened(self.make(), job) as run:
            assert [(r.task.client, r.task.nth) for r in run(tasks)] == [(t.client, t.nth) for t in tasks]
            assert run([]) == []

    def test_nobody_but_empty_clients_leaves_the_model_as_it_was(self) -> None:
        job = make_job(mlp())
        tasks = [task for task in make_tasks(job) if job.data.size(task.client) == 0]
        with opened(self.make(), job) as run:
            (result,) = run(tasks)
        assert result.steps == 0
        assert np.isnan(result.mean_loss)
        assert all(float(leaf.abs().max()) == 0.0 for leaf in result.update["model"].values())

    def test_a_diverging_client_spoils_no_other(self) -> None:
        job = make_job(mlp(), Sgd(learning_rate=0.1, batch_size=4))
        _shift(job, float("inf"), 4)
        with opened(self.make(), job) as run:
            finite = [bool(torch.isfinite(r.update["model"]["1.weight"]).all()) for r in run(make_tasks(job))]
        assert finite == [client != 4 for client in range(len(SIZES))]

    @pytest.mark.parametrize("model", ["mlp", "dropout", "group_norm", "batch_norm"])
    def test_sums_are_those_of_the_results(self, model: str) -> None:
        sizes = tuple(2 * size for size in SIZES) if model == "batch_norm" else SIZES
        compare_sums(self.make(), make_job(MODELS[model](), sizes=sizes))

    @pytest.mark.parametrize("name", ["scaffold", "fednova", "qfedavg"])
    def test_sums_of_rules_that_send_more_and_keep_states_are_those_of_the_results(self, name: str) -> None:
        compare_sums(self.make(), make_job(mlp(), make_rule(name)))

    def test_sums_in_single_precision_agree_to_the_stated_tolerance(self) -> None:
        compare_sums(self.make(), make_job(mlp(), dtype=torch.float32))

    def test_an_update_that_is_not_finite_is_left_out_of_the_sums(self) -> None:
        job = make_job(mlp(), Sgd(learning_rate=0.1, batch_size=4))
        _shift(job, float("inf"), 4, 6)
        compare_sums(self.make(), job)

    @pytest.mark.parametrize("later", [False, True], ids=["in memory", "read later"])
    def test_images_in_bytes_train_as_their_numbers_do(self, later: object) -> None:
        job = make_job(mlp())
        images = np.tile(np.arange(256, dtype=np.uint8), 1 + len(job.data.x) * SIDE * SIDE // 256)
        images = images[: len(job.data.x) * SIDE * SIDE].reshape(-1, 1, SIDE, SIDE)
        stored = Gathered(images[::-1], np.arange(len(images))[::-1]) if later else torch.from_numpy(images)
        self._assert_trains_alike(job, torch.from_numpy(images / 255.0), Inputs(stored, torch.float64))

    @pytest.mark.parametrize("skew", [Noise(level=0.5), Rotation(angles=(0.0, 90.0, 30.0))], ids=["noise", "rotation"])
    def test_inputs_that_are_made_when_they_are_read_train_as_those_made_before(self, skew: Skew) -> None:
        job = make_job(mlp())
        images = np.random.default_rng(0).random((len(job.data.x), 1, SIDE, SIDE), dtype=np.float32)
        rows = np.arange(len(images))
        change = SkewedRows(skew, Seen(rows % 3, rows, 3, 7), np.dtype(np.float32))
        later = Gathered(images, change=change)
        self._assert_trains_alike(job, torch.from_numpy(later[:]).double(), Inputs(later, torch.float64))

    @pytest.mark.parametrize("name", [*TRANSFORMS, "all"])
    def test_every_transform_makes_the_same_inputs_as_serially(self, name: str) -> None:
        transforms = tuple(TRANSFORMS.values()) if name == "all" else (TRANSFORMS[name],)
        job = make_job(mlp())
        assert isinstance(job.data.x, torch.Tensor)
        plain, x = job.data.x, Inputs(job.data.x, torch.float64, transforms)
        assert not torch.equal(x[:], plain) or transforms[0].draws
        compare(self.make(), replace(job, data=replace(job.data, x=x)), make_tasks)

    def _assert_trains_alike(self, job: Job, *inputs: torch.Tensor | Inputs) -> None:
        found = []
        for x in inputs:
            with opened(self.make(), replace(job, data=replace(job.data, x=x))) as run:
                found.append([result.update["model"] for result in run(make_tasks(job))])
        for one, other in zip(*found, strict=True):
            assert all(torch.equal(one[name], other[name]) for name in one)


class ZooContract(ABC):
    """Modules as people write them train as with `Serial`, and fail as with it."""

    @abstractmethod
    def make(self) -> Executor:
        """The executor."""

    @pytest.mark.parametrize("name", sorted(ZOO | STOCHASTIC))
    @pytest.mark.filterwarnings("ignore:the model cannot be trained in batches")
    def test_every_module_of_the_zoo_trains_as_serially(self, name: str) -> None:
        rule = Sgd(learning_rate=0.1, batch_size=4, momentum=0.5, weight_decay=0.1)
        compare(self.make(), make_job(made((ZOO | STOCHASTIC)[name]), rule, sizes=PAIRS), make_tasks)

    @pytest.mark.parametrize("name", ["flagged", "frozen", "narrow", "noisy"])
    @pytest.mark.filterwarnings("ignore:the model cannot be trained in batches")
    def test_sums_of_modules_of_the_zoo_are_those_of_the_results(self, name: str) -> None:
        compare_sums(self.make(), make_job(made((ZOO | STOCHASTIC)[name]), sizes=PAIRS))

    @pytest.mark.parametrize("sums", [False, True])
    @pytest.mark.parametrize("name", sorted(FAILING))
    @pytest.mark.filterwarnings("ignore:the model cannot be trained in batches")
    def test_errors_are_those_of_serial_training_and_name_the_first_task_that_fails(
        self, name: str, *, sums: bool
    ) -> None:
        job = make_job(made(FAILING[name]), sizes=(8, 6, 7, 1, 8, 1, 4, 9))
        _shift(job, 2 * TOO_MUCH, 3, 5)
        said = []
        for executor in (Serial(), self.make()):
            runner = executor.open(job)
            with pytest.raises(TrainingError) as caught:
                list(runner.sums(make_tasks(job), {"": np.ones(8)}) if sums else runner.run(make_tasks(job)))
            runner.close()
            said.append(str(caught.value))
        assert said[0] == said[1]
        assert f"model {type(job.model).__name__} (client 3, task 103, model version 0): " in said[0]


def compare_sums(executor: Executor, job: Job, rounds: int = 3) -> None:
    """An executor's sums are those of the results of `Serial`."""
    tasks = [task for nth in range(rounds) for task in make_tasks(job, versions=2, nth=nth)]
    draws = rng.uniform(rng.key(0, "weights"), np.arange(len(tasks)))
    weights = {"": draws, "control": np.ones(len(tasks))}
    with opened(Serial(), job) as run:
        expected = added_up(run(tasks), weights)
    runner = executor.open(job)
    try:
        found, blocks = _joined(list(runner.sums(tasks, weights)), len(tasks))
    finally:
        runner.close()
    assert sorted(place for block in blocks for place in block.places.tolist()) == list(range(len(tasks)))
    assert found.finite.tolist() == expected.finite.tolist()
    allowed = tolerance(job)
    np.testing.assert_allclose(found.mean_square_loss, expected.mean_square_loss, rtol=2 * allowed)
    assert found.sums.weights == pytest.approx(expected.sums.weights, rel=1e-12)
    assert set(found.sums.totals) == set(expected.sums.totals)
    for name, leaves in expected.sums.totals.items():
        size = max((float(leaf.abs().max()) for leaf in leaves.values() if leaf.numel()), default=0.0)
        for k, leaf in leaves.items():
            assert float((found.sums.totals[name][k].double() - leaf).abs().max()) <= allowed * max(size, 1e-12)
    for state, other in zip(expected.states, found.states, strict=True):
        assert _state_gap(state, other) <= allowed


def compare(executor: Executor, job: Job, tasks_of: Callable[[Job], list[TrainTask]]) -> None:
    """An executor's results are those of `Serial`, which do something."""
    tasks = tasks_of(job)
    with opened(Serial(), job) as run:
        expected = run(tasks)
    assert any(bool(leaf.any()) for leaf in expected[0].update["model"].values())
    with opened(executor, job) as run:
        assert_agree(job, expected, run(tasks))


def _joined(blocks: Sequence[Block], count: int) -> tuple[Block, Sequence[Block]]:
    """All blocks as one, in the order of the tasks; and the blocks."""
    sums = WeightedSums()
    finite, square, states = np.zeros(count, np.bool_), np.empty(count), [State() for _ in range(count)]
    for block in blocks:
        sums.join(block.sums)
        finite[block.places], square[block.places] = block.finite, block.mean_square_loss
        for place, state in zip(block.places.tolist(), block.states, strict=True):
            states[place] = state
    return Block(np.arange(count), sums, finite, square, states), blocks


def assert_agree(job: Job, expected: Sequence[Result], found: Sequence[Result]) -> None:
    """Every part of the results is the same to rounding."""
    allowed = tolerance(job)
    assert [r.task.task for r in found] == [r.task.task for r in expected]
    for right, other in zip(expected, found, strict=True):
        assert other.steps == right.steps
        assert set(other.update) == set(right.update)
        assert largest_difference(right, other) <= allowed
        assert _state_gap(right.state, other.state) <= allowed
        assert other.mean_loss == pytest.approx(right.mean_loss, rel=allowed, nan_ok=True)
        assert other.mean_square_loss == pytest.approx(right.mean_square_loss, rel=2 * allowed, nan_ok=True)
        assert dict(other.metrics) == pytest.approx(dict(right.metrics), rel=allowed, abs=allowed, nan_ok=True)


@contextmanager
def opened(executor: Executor, job: Job) -> Iterator[Callable[[Sequence[TrainTask]], list[Result]]]:
    """An executor's runner as a function from tasks to a list of results; closed at the end."""
    runner = executor.open(job)
    try:
        yield lambda tasks: list(runner.run(tasks))
    finally:
        runner.close()


#: What a rule requires that is no rate: names of the last layer of `mlp`, and passes for it.
_OTHERS: dict[str, Any] = {"head": ("3.*",), "head_epochs": 1}


def make_rule(kind: str, **options: Any) -> ClientRule:
    """A client rule of the registry: batch size 4 and two passes where it has them, 0.1 for every required number."""
    rule = registry.load("client_rule", kind)
    usual: dict[str, Any] = {"batch_size": 4} | ({} if "epochs" in options or "steps" in options else {"epochs": 2})
    required = [each.name for each in fields(rule) if each.default is MISSING and each.default_factory is MISSING]
    usual |= {name: _OTHERS.get(name, 0.1) for name in required}
    known = {each.name for each in fields(rule)}
    made: ClientRule = rule(**{name: value for name, value in (usual | options).items() if name in known})
    return made


def _shift(job: Job, by: float, *clients: int) -> None:
    """Add a number to all inputs of some clients."""
    assert isinstance(job.data.x, torch.Tensor)
    for client in clients:
        job.data.x[job.data.of_client(client)] += by


def make_job(
    model: nn.Module,
    rule: ClientRule | None = None,
    *,
    sizes: Sequence[int] = SIZES,
    dtype: torch.dtype = torch.float64,
    autocast: bool = False,
) -> Job:
    """A job on random 8x8 images; the rows of a client are spread over the data set."""
    total = sum(sizes)
    key = rng.key(0, "executor contract")
    x = torch.from_numpy(rng.normal(key, np.arange(total * SIDE * SIDE)).reshape(total, 1, SIDE, SIDE)).to(dtype)
    y = torch.from_numpy((rng.hash64(key, 1, np.arange(total)) % np.uint64(N_CLASSES)).astype(np.int64))
    index = np.argsort(rng.hash64(key, 2, np.arange(total)))
    data = TrainingData(x, y, index, np.concatenate([[0], np.cumsum(sizes)]))
    rule = rule or Sgd(learning_rate=0.1, batch_size=4, epochs=2)
    return Job(model.to(dtype), rule, data, dtype, autocast, torch.device("cpu"), seed=7)


def objective_job(objective: Objective, rule: ClientRule | None = None) -> Job:
    """The same with labels as an objective wants them, and a model whose outputs fit it."""
    job = make_job(model_of(objective, SIDE * SIDE), rule)
    return replace(job, data=replace(job.data, y=labels_of(objective, len(job.data.x))), objective=objective)


def make_model_job(kind: str, **options: Any) -> Job:
    """A job of a small model of the registry, on images or, if that is what it wants, on texts."""
    sizes, tokens = (5, 0, 3), 11
    model = registry.load("model", kind)(**{**SMALL.get(kind, {}), **options})
    total, rule = sum(sizes), Sgd(learning_rate=0.1, batch_size=4, momentum=0.5, weight_decay=0.1)
    try:
        module = model.build(shape=(1, SIDE, SIDE), n_classes=N_CLASSES, n_tokens=None, seed=0)
    except ModelError:  # it reads texts
        module = model.build(shape=(TIME,), n_classes=N_CLASSES, n_tokens=tokens, seed=0)
        job = make_job(module, rule, sizes=sizes)
        draws = rng.hash64(rng.key(0, "texts"), np.arange(total * TIME)) % np.uint64(tokens)
        x = torch.from_numpy(draws.astype(np.int64).reshape(total, TIME))
        if options.get("predicts") != "every":
            return replace(job, data=replace(job.data, x=x))
        y = torch.cat([x[:, 1:] % N_CLASSES, torch.full((total, 1), -1)], 1)  # what follows the last one is not known
        return replace(job, data=replace(job.data, x=x, y=y), objective=NextToken())
    return make_job(module, rule, sizes=sizes)


def make_tasks(job: Job, *, versions: int = 1, nth: int = 0) -> list[TrainTask]:
    """One task per client, from states that a first task left; clients take turns with the versions."""
    messages = [_message(job, version) for version in range(versions)]
    tasks = []
    for client in range(len(job.data.offsets) - 1):
        version = client % versions
        state = {**_used_state(job, client, messages[version]), **_known(job, client)}
        tasks.append(TrainTask(100 + client, client, nth, version, messages[version], state))
    return tasks


def mlp(dropout: float = 0.0) -> nn.Module:
    """Flatten, 8 hidden units, classes."""

    def make() -> nn.Module:
        hidden = [nn.Linear(SIDE * SIDE, 8), nn.ReLU(), *([nn.Dropout(dropout)] if dropout else [])]
        return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(8, N_CLASSES))

    return made(make)


def _message(job: Job, version: int) -> Payload:
    """What a server might send: the model moved a little by version, and what else the rule reads."""
    extra = job.rule.receives - {"model", "buffers"}
    params = {name: leaf.detach().clone() for name, leaf in trained(job.model).items()}
    buffers = {name: leaf.detach().clone() for name, leaf in averaged(job.model).items()}
    model = {name: leaf + 0.05 * version for name, leaf in params.items()}
    return {"model": model, "buffers": buffers, **{name: {k: 0.01 * v for k, v in params.items()} for name in extra}}


def _used_state(job: Job, client: int, received: Payload) -> State:
    state = job.rule.init_client(received)
    if not state:
        return state
    runner = Serial().open(job)
    (result,) = runner.run([TrainTask(0, client, 99, 0, received, {**state, **_known(job, client)})])
    return result.state


def _known(job: Job, client: int) -> State:
    """What the rule `knows` of a client: its number of samples as it is, of anything else a number of its own."""
    told = {name: job.data.size(client) if name == "samples" else client + 1 for name in job.rule.knows}
    return {"client": {name: torch.tensor(value) for name, value in told.items()}} if told else {}


def _state_gap(a: State, b: State) -> float:
    assert {name: set(leaves) for name, leaves in a.items()} == {name: set(leaves) for name, leaves in b.items()}
    gaps = [float((leaf - b[name][k]).abs().max()) for name, leaves in a.items() for k, leaf in leaves.items()]
    return max(gaps, default=0.0)


def _convolutional(norm: Callable[[int], nn.Module]) -> nn.Module:
    def make() -> nn.Module:
        block = [nn.Conv2d(1, 4, 3, padding=1), norm(4), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout2d(0.2)]
        return nn.Sequential(*block, nn.Flatten(), nn.Linear(4 * 16, N_CLASSES))

    return made(make)


class _Recurrent(nn.Module):
    """Reads an image as a sequence of rows."""

    def __init__(self, layers: int = 1, dropout: float = 0.0) -> None:
        super().__init__()
        self.gru = nn.GRU(SIDE, 6, num_layers=layers, dropout=dropout, batch_first=True)
        self.out = nn.Linear(6, N_CLASSES)

    @override
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        states, _ = self.gru(x.squeeze(1))
        logits: torch.Tensor = self.out(states[:, -1])
        return logits


class _Cell(nn.Module):
    """A recurrent cell written out, used at every row of an image; dropout is used at every row too."""

    def __init__(self) -> None:
        super().__init__()
        self.inputs, self.state = nn.Linear(SIDE, 6), nn.Linear(6, 6)
        self.dropout, self.out = nn.Dropout(0.3), nn.Linear(6, N_CLASSES)

    @override
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        state = x.new_zeros(x.shape[0], 6)
        for row in x.squeeze(1).unbind(1):
            state = self.dropout(torch.tanh(self.inputs(row) + self.state(state)))
        logits: torch.Tensor = self.out(state)
        return logits


class _Shared(nn.Module):
    """One linear layer used under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(SIDE * SIDE, SIDE * SIDE)
        self.second = self.first
        self.out = nn.Linear(SIDE * SIDE, N_CLASSES)

    @override
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.out(torch.tanh(self.second(torch.tanh(self.first(x.flatten(1))))))
        return logits


#: Models by name, for executors' tests.
MODELS: dict[str, Callable[[], nn.Module]] = {
    "mlp": mlp,
    "dropout": lambda: mlp(0.4),
    "group_norm": lambda: _convolutional(lambda channels: nn.GroupNorm(2, channels)),
    "batch_norm": lambda: _convolutional(nn.BatchNorm2d),
    "shared": lambda: made(_Shared),
    "cell": lambda: made(_Cell),
    "gru": lambda: made(_Recurrent),
    "gru_dropout": lambda: made(lambda: _Recurrent(2, 0.3)),
}
