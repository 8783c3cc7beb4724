"""The learning side of a run: the server's model, the tasks waiting to be trained, and the server step.

Training is deferred: a task's inputs are fixed when it is dispatched, and it is trained when the server uses its
report. The timeline hears of it only through `Feedback`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np
import torch

from evsim import rng
from evsim.algorithms import tree
from evsim.algorithms.base import Method, ReportMeta, State, StepInfo
from evsim.events import Feedback, IntArray
from evsim.training.base import Executor, Job, Result, TrainingData, TrainTask, inputs
from evsim.training.evaluation import evaluate, per_client, summarize

if TYPE_CHECKING:
    from evsim.algorithms.tree import Payload, Tree
    from evsim.events import FloatArray
    from evsim.training.data.base import FederatedData

__all__ = ["Learning", "Method", "Setting"]

_DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.float32}


@final
@dataclass(frozen=True, kw_only=True)
class Setting:
    """How a run trains.

    Attributes:
        seed: of the run.
        precision: "float32", "float64", or "bfloat16" (float32 parameters, forward pass under autocast).
        device: where training runs.
        cohort_goal: reports a server step wants; 0 if the aggregator has no such number.
    """

    seed: int
    precision: str = "float32"
    device: str = "cpu"
    cohort_goal: int = 0


@final
class Learning:
    """Holds the model and improves it from reports.

    Args:
        method: the algorithm.
        model: a freshly initialised module; its parameters are version 0.
        data: the clients' samples and the test set.
        executor: how tasks are trained.
        setting: seed, precision, device.
    """

    def __init__(
        self, method: Method, model: torch.nn.Module, data: FederatedData, executor: Executor, setting: Setting
    ) -> None:
        self._method, self._seed, self._goal = method, setting.seed, setting.cohort_goal
        self._device, self._dtype = torch.device(setting.device), _DTYPES[setting.precision]
        self._model = model.to(self._device, self._dtype).train()
        self._data = TrainingData.of(data, self._dtype, self._device)
        self._test = inputs(data.x_test, self._dtype, self._device), torch.as_tensor(data.y_test).to(self._device)
        self._n_clients = data.n_clients
        self._server = self._initial_state()
        autocast = setting.precision == "bfloat16"
        job = Job(self._model, method.client_rule, self._data, self._dtype, autocast, self._device, setting.seed)
        self._runner = executor.open(job)
        self._waiting: dict[int, tuple[int, int, int, Payload]] = {}  # task -> client, nth, version, received
        self._trained: dict[int, Result] = {}  # trained before they were needed
        self._client_states: dict[int, dict[str, State]] = {}
        self._sent: tuple[int, Payload] | None = None
        self.version = 0

    @property
    def plan(self) -> Mapping[str, object]:
        """The executor's plan."""
        return self._runner.plan

    # -- what the timeline asks -------------------------------------------------------------------------------------

    def dispatched(self, tasks: IntArray, clients: IntArray, nth: IntArray) -> None:
        """Fix the inputs of new tasks: they train the current version."""
        received = self._received()
        for task, client, k in zip(tasks.tolist(), clients.tolist(), nth.tolist(), strict=True):
            self._waiting[task] = (client, k, self.version, received)

    def discard(self, tasks: Iterable[int]) -> None:
        """Forget tasks that will never be used."""
        for task in tasks:
            self._waiting.pop(task, None)
            self._trained.pop(task, None)

    def train(self, tasks: IntArray) -> Feedback:
        """Train tasks now; their updates wait for `apply`. Utilities are those of `apply`."""
        for result in self._results(sorted(tasks.tolist())):
            self._trained[result.task.task] = result
        seen = {task: self._trained[task] for task in tasks.tolist()}
        return _feedback(tasks, {task: (_utility(result), True) for task, result in seen.items()})

    def apply(self, tasks: IntArray) -> Feedback:
        """Train the tasks, merge their updates in (client, task) order, step the optimizer: the next version.

        Without a single finite update nothing changes, and the feedback says so.
        """
        order = sorted(tasks.tolist(), key=lambda task: (self._waiting[task][0], task))
        metas = [self._meta(task) for task in order]
        weights = self._method.weighting.weights(
            np.array([meta.samples for meta in metas]), np.array([meta.staleness for meta in metas])
        )
        info = StepInfo(self.version, self._n_clients, self._goal, len(order), self._seed)
        acc = self._method.merge.init(self._server, info)
        seen: dict[int, tuple[float, bool]] = {}
        for position, (result, meta) in enumerate(zip(self._results(order), metas, strict=True)):
            update = self._accept(result, meta)
            if update is not None:
                own = {name: float(values[position]) for name, values in weights.items()}
                acc = self._method.merge.add(acc, update, own, meta)
            seen[meta.task] = (_utility(result), update is not None)
        if any(valid for _, valid in seen.values()):
            self._step(self._method.merge.finish(acc, self._server, info), info)
        self.discard(order)
        return _feedback(tasks, seen)

    def evaluate(self, batch_size: int) -> dict[str, float]:
        """Loss and accuracy of the current version on the central test set."""
        return summarize(*evaluate(self._model, self._current(), *self._test, batch_size))

    def evaluate_clients(self, batch_size: int) -> dict[str, FloatArray]:
        """Loss and accuracy of the current version on each client's own samples."""
        return per_client(*evaluate(self._model, self._current(), self._data.x, self._data.y, batch_size), self._data)

    def tensors(self) -> dict[str, np.ndarray]:
        """Parameters and buffers of the current version, for the run folder."""
        params, buffers = self._current()
        return {name: leaf.cpu().numpy() for name, leaf in {**params, **buffers}.items()}

    def close(self) -> None:
        """Release the executor."""
        self._runner.close()

    # -- inside -----------------------------------------------------------------------------------------------------

    def _initial_state(self) -> State:
        # copies, since the module's own tensors are only a template from here on
        params = {name: leaf.detach().clone().double() for name, leaf in self._model.named_parameters()}
        buffers = {name: leaf.detach().clone() for name, leaf in self._model.named_buffers()}
        return {"model": params, "buffers": buffers, **self._method.server_optimizer.init(params)}

    def _current(self) -> tuple[Tree, Tree]:
        return tree.cast(self._server["model"], self._dtype), tree.cast(self._server["buffers"], self._dtype)

    def _received(self) -> Payload:
        """What clients get from the current version, cast to the precision of training; one object per version."""
        if self._sent is None or self._sent[0] != self.version:
            message = self._method.broadcast.send(self._server)
            self._sent = self.version, {name: tree.cast(leaves, self._dtype) for name, leaves in message.items()}
        return self._sent[1]

    def _results(self, order: list[int]) -> Iterator[Result]:
        """Results in the order given; one pass of the executor where no client state is chained between the tasks."""
        pending = [task for task in order if task not in self._trained]
        clients = [self._waiting[task][0] for task in pending]
        if len(set(clients)) == len(clients) or not any(self._client_states.values()):
            fresh = self._runner.run([self._train_task(task) for task in pending])
        else:  # a later task of the same client starts from the state the earlier one left
            fresh = (next(iter(self._runner.run([self._train_task(task)]))) for task in pending)
        for task in order:
            yield self._trained[task] if task in self._trained else next(fresh)

    def _meta(self, task: int) -> ReportMeta:
        client, _, version, received = self._waiting[task]
        samples = self._data.size(client)
        steps = int(self._method.client_rule.schedule.n_steps(np.array([samples]))[0])
        return ReportMeta(
            client, task, samples, steps, version, self.version - version, self._seed, self._n_clients, received
        )

    def _train_task(self, task: int) -> TrainTask:
        client, nth, version, received = self._waiting[task]
        state = self._client_states.get(client, {}).get("rule")
        if state is None:
            state = self._method.client_rule.init_client(received)
        return TrainTask(task, client, nth, version, received, state)

    def _accept(self, result: Result, meta: ReportMeta) -> Payload | None:
        """The update as the server sees it, float64; None if it is not finite. Keeps the client's next state."""
        if not tree.is_finite(result.update):
            return None
        update = {name: tree.cast(leaves, torch.float64) for name, leaves in result.update.items()}
        states = {"rule": result.state}
        old = self._client_states.get(meta.client, {})
        for place, transform in enumerate(self._method.upload):
            name = f"upload{place}"
            state = old[name] if name in old else transform.init_client(update)
            key = rng.key(self._seed, "upload", place, meta.client, result.task.nth)
            update, states[name] = transform.encode(update, state, meta, key)
        if any(states.values()):
            self._client_states[meta.client] = states
        return update

    def _step(self, merged: Payload, info: StepInfo) -> None:
        buffers = self._server["buffers"]
        if "buffers" in merged:
            gained = merged["buffers"]
            buffers = {name: _averaged(leaf, gained[name]) for name, leaf in buffers.items()}
        stepped = self._method.server_optimizer.apply(self._server, merged, info)
        self._server = {**stepped, "buffers": buffers}
        self.version += 1


def _averaged(buffer: torch.Tensor, gained: torch.Tensor) -> torch.Tensor:
    """Buffers are averaged and nothing else; integer ones are rounded."""
    total = buffer.double() + gained
    return total if buffer.is_floating_point() else total.round().to(buffer.dtype)


def _utility(result: Result) -> float:
    """Root of the mean squared per-sample loss (Oort's statistical utility per sample)."""
    return float(result.mean_square_loss**0.5)


def _feedback(tasks: IntArray, seen: Mapping[int, tuple[float, bool]]) -> Feedback:
    utility, valid = zip(*(seen[task] for task in tasks.tolist()), strict=True)
    return Feedback(tasks, np.array(utility), np.array(valid))
