"""The learning side of a run: the server's model, and the server step.

Training is deferred: a task's inputs are fixed when it is dispatched, and it is trained when the server uses its
report. The timeline hears of it only through `Feedback`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, final

import numpy as np
import torch

from evsim.algorithms import tree
from evsim.algorithms.base import Method, State, StatefulMerge, StepInfo, SummingMerge
from evsim.algorithms.sums import WeightedSums
from evsim.algorithms.tree import Payload, Tree
from evsim.base import rng
from evsim.base.profiling import part
from evsim.base.vocabulary import Feedback, IntArray
from evsim.training.data.samples import Inputs, TrainingData, fits, inputs
from evsim.training.executors.base import Executor, Job, TrainTask
from evsim.training.executors.sums import Weights
from evsim.training.executors.threads import limited_threads
from evsim.training.learning.client_state import ClientStates
from evsim.training.learning.evaluation import evaluate, per_client, summarize
from evsim.training.learning.pending import Pending
from evsim.training.learning.reports import Seen, averaged, feedback_of

if TYPE_CHECKING:
    from evsim.base.vocabulary import FloatArray
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
        state_budget: bytes of client states kept in memory; what is more lies on disk.
        state_folder: where; None for a temporary folder.
    """

    seed: int
    precision: str = "float32"
    device: str = "cpu"
    cohort_goal: int = 0
    state_budget: int = 1 << 30
    state_folder: Path | None = None


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
        self._test = self._placed(data)
        self._n_clients = data.n_clients
        self._server = self._initial_state()
        autocast = setting.precision == "bfloat16"
        job = Job(self._model, method.client_rule, self._data, self._dtype, autocast, self._device, setting.seed)
        self._runner = executor.open(job)
        self._sums_suffice = isinstance(method.merge, SummingMerge) and not method.upload
        self.client_states = ClientStates(setting.state_budget, setting.state_folder)
        self._pending = Pending(method, job, self._runner, self.client_states, self._n_clients)
        self._sent: tuple[int, Payload] | None = None
        self.version = 0

    @property
    def plan(self) -> Mapping[str, object]:
        """The executor's plan."""
        streamed = {"samples": "streamed from host memory"} if self._data.streamed else {}
        return {**self._runner.plan, **streamed}

    # -- what the timeline asks -------------------------------------------------------------------------------------

    def dispatched(self, tasks: IntArray, clients: IntArray, nth: IntArray, max_steps: IntArray | None = None) -> None:
        """Fix the inputs of new tasks: they train the current version, for at most so many steps (0: no limit)."""
        received, limits = self._received(), np.zeros_like(tasks) if max_steps is None else max_steps
        columns = zip(tasks.tolist(), clients.tolist(), nth.tolist(), limits.tolist(), strict=True)
        self._pending.add([TrainTask(t, client, k, self.version, received, {}, n) for t, client, k, n in columns])

    def discard(self, tasks: Iterable[int]) -> None:
        """Forget tasks that will never be used."""
        self._pending.discard(tasks)

    @part("merge")
    @limited_threads(1)  # an update is small, and waiting for a second thread can cost more than adding it
    def train(self, tasks: IntArray) -> Feedback:
        """Train accepted tasks now; their updates wait for `apply`. Utilities are those of `apply`."""
        trained = self._pending.train_early(self._pending.in_order(tasks), self.version)
        return feedback_of(tasks, {task: (trained[task].utility, True) for task in tasks.tolist()})

    @part("merge")
    @limited_threads(1)  # an update is small, and waiting for a second thread can cost more than adding it
    def apply(self, tasks: IntArray) -> Feedback:
        """Train the tasks, merge their updates in (client, task) order, step the optimizer: the next version.

        Where the merge is a sum and nothing changes updates on their way, executors add up what they train. Without a
        single finite update nothing changes, and the feedback says so.

        Raises:
            TrainingError: if the merge needs more updates; the model is then as it was.
        """
        order = self._pending.in_order(tasks)
        weights = self._method.weighting.weights(self._pending.reports(order, self.version))
        info = StepInfo(self.version, self._n_clients, self._goal, len(order), self._seed)
        acc = self._method.merge.init(self._server, info)
        if self._sums_suffice and isinstance(acc, WeightedSums) and not self._pending.some_are_trained:
            seen = self._pending.add_up(order, weights, acc)
        else:
            acc, seen = self._add_each(order, weights, acc)
        usable = sum(valid for _, valid in seen.values())
        if usable:
            self._step(acc, replace(info, n_reports=usable))
        self.discard(order)
        return feedback_of(tasks, seen, dict(zip(order, weights[""].tolist(), strict=True)))

    @part("evaluation")
    def evaluate(self, batch_size: int) -> dict[str, float]:
        """Loss and accuracy of the current version on the central test set."""
        return summarize(*evaluate(self._model, self._current(), *self._test, batch_size))

    @part("evaluation")
    def evaluate_clients(self, batch_size: int) -> dict[str, FloatArray]:
        """Loss and accuracy of the current version on each client's own samples."""
        return per_client(*evaluate(self._model, self._current(), self._data.x, self._data.y, batch_size), self._data)

    @part("evaluation")
    def losses(self, clients: IntArray, max_samples: int | None = None, batch_size: int = 1024) -> FloatArray:
        """Mean loss of the current version on each client's samples, or on so many drawn at random; NaN for none."""
        rows = [self._some_rows(client, max_samples) for client in clients.tolist()]
        sizes = np.array([len(own) for own in rows], np.int64)
        if not sizes.sum():
            return np.full(len(rows), np.nan)
        picked = self._data.rows(np.concatenate(rows))
        each, _ = evaluate(self._model, self._current(), self._data.x[picked], self._data.y[picked], batch_size)
        totals = np.bincount(np.repeat(np.arange(len(rows)), sizes), each.cpu().numpy(), len(rows))
        return np.asarray(np.divide(totals, sizes, out=np.full(len(rows), np.nan), where=sizes > 0))

    def tensors(self) -> dict[str, np.ndarray]:
        """Parameters and buffers of the current version, for the run folder."""
        params, buffers = self._current()
        return {name: leaf.cpu().numpy() for name, leaf in {**params, **buffers}.items()}

    def close(self) -> None:
        """Release the executor and the client states."""
        self._runner.close()
        self.client_states.close()

    def _placed(self, data: FederatedData) -> tuple[torch.Tensor | Inputs, torch.Tensor]:
        """The test set; on the device if it fits there."""
        x, y = inputs(data.x_test, self._dtype, tokens=data.n_tokens is not None), torch.as_tensor(data.y_test)
        return (x.to(self._device), y.to(self._device)) if fits(self._device, x, y) else (x, y)

    # -- the server's state -----------------------------------------------------------------------------------------

    def _initial_state(self) -> State:
        # copies, since the module's own tensors are only a template from here on
        params = {name: leaf.detach().clone().double() for name, leaf in self._model.named_parameters()}
        buffers = {name: leaf.detach().clone() for name, leaf in self._model.named_buffers()}
        merge = self._method.merge
        kept = merge.init_state(params) if isinstance(merge, StatefulMerge) else {}
        return {"model": params, "buffers": buffers, **self._method.server_optimizer.init(params), **kept}

    def _current(self) -> tuple[Tree, Tree]:
        return tree.cast(self._server["model"], self._dtype), tree.cast(self._server["buffers"], self._dtype)

    def _received(self) -> Payload:
        """What clients get from the current version, cast to the precision of training; one object per version."""
        if self._sent is None or self._sent[0] != self.version:
            message = self._method.broadcast.send(self._server)
            self._sent = self.version, {name: tree.cast(leaves, self._dtype) for name, leaves in message.items()}
        return self._sent[1]

    def _add_each(self, order: Sequence[int], weights: Weights, acc: object) -> tuple[object, Seen]:
        """Train, encode and merge one update after the other."""
        seen: Seen = {}
        metas = self._pending.metas(order, self.version)
        for position, (task, resolved) in enumerate(self._pending.resolve(order, self.version)):
            if resolved.update is not None:
                own = {name: float(values[position]) for name, values in weights.items()}
                acc = self._method.merge.add(acc, resolved.update, own, metas[position])
            seen[task] = resolved.utility, resolved.update is not None
        return acc, seen

    def _step(self, acc: object, info: StepInfo) -> None:
        merge, server = self._method.merge, self._server
        merged = merge.finish(acc, server, info)
        kept = merge.next_state(acc, server, info) if isinstance(merge, StatefulMerge) else {}
        if "model" in merged:  # else every report weighs nothing
            buffers = {name: averaged(leaf, merged["buffers"][name]) for name, leaf in server["buffers"].items()}
            stepped = self._method.server_optimizer.apply(server, merged, info)
            self._server = {**stepped, "buffers": buffers, **kept}
        self.version += 1

    def _some_rows(self, client: int, max_samples: int | None) -> IntArray:
        own = self._data.of_client(client)
        if max_samples is None or max_samples >= len(own):
            return own
        draws = rng.hash64(rng.key(self._seed, "query", self.version), client, np.arange(len(own)))
        return own[np.argsort(draws, kind="stable")[:max_samples]]
