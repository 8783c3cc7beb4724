"""The learning side of a run: the server's model, the tasks waiting to be trained, and the server step.

Training is deferred: a task's inputs are fixed when it is dispatched, and it is trained when the server uses its
report. The timeline hears of it only through `Feedback`. Only accepted tasks are ever trained, so a client's state is
a chain over its accepted tasks: it advances when such a task is resolved.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, final

import numpy as np
import torch

from evsim import rng
from evsim.algorithms import tree
from evsim.algorithms.base import Method, ReportMeta, State, StatefulMerge, StepInfo, SummingMerge
from evsim.algorithms.sums import WeightedSums
from evsim.algorithms.tree import Payload, Tree
from evsim.events import Feedback, IntArray
from evsim.profiling import part, parts_of
from evsim.training.base import Executor, Job, Result, TrainingData, TrainTask, inputs
from evsim.training.client_state import ClientStates, States
from evsim.training.evaluation import evaluate, per_client, summarize
from evsim.training.reports import Resolved, Waiting, averaged, columns, feedback_of
from evsim.training.sums import Block, Weights, weights_at
from evsim.training.threads import limited_threads

if TYPE_CHECKING:
    from evsim.events import FloatArray
    from evsim.training.data.base import FederatedData

__all__ = ["Learning", "Method", "Setting"]

_DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.float32}
Seen = dict[int, tuple[float, bool]]  # by task: its utility, and whether its update is finite
_STATES_AT_ONCE = 256 << 20  # bytes of client states handed to the executor in one go


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
        self._test = inputs(data.x_test, self._dtype, self._device), torch.as_tensor(data.y_test).to(self._device)
        self._n_clients = data.n_clients
        self._server = self._initial_state()
        autocast = setting.precision == "bfloat16"
        job = Job(self._model, method.client_rule, self._data, self._dtype, autocast, self._device, setting.seed)
        self._runner = executor.open(job)
        self._sums_suffice = isinstance(method.merge, SummingMerge) and not method.upload
        self._waiting: dict[int, Waiting] = {}
        self._early: dict[int, Resolved] = {}  # trained before the server step that uses them
        self.client_states = ClientStates(setting.state_budget, setting.state_folder)
        self._sent: tuple[int, Payload] | None = None
        self.version = 0

    @property
    def plan(self) -> Mapping[str, object]:
        """The executor's plan."""
        return self._runner.plan

    # -- what the timeline asks -------------------------------------------------------------------------------------

    def dispatched(self, tasks: IntArray, clients: IntArray, nth: IntArray, max_steps: IntArray | None = None) -> None:
        """Fix the inputs of new tasks: they train the current version, for at most so many steps (0: no limit)."""
        received, limits = self._received(), np.zeros_like(tasks) if max_steps is None else max_steps
        for task, client, k, limit in zip(tasks.tolist(), clients.tolist(), nth.tolist(), limits.tolist(), strict=True):
            self._waiting[task] = Waiting(client, k, self.version, received, limit)

    def discard(self, tasks: Iterable[int]) -> None:
        """Forget tasks that will never be used."""
        for task in tasks:
            self._waiting.pop(task, None)
            self._early.pop(task, None)

    @part("merge")
    @limited_threads(1)  # an update is small, and waiting for a second thread can cost more than adding it
    def train(self, tasks: IntArray) -> Feedback:
        """Train accepted tasks now; their updates wait for `apply`. Utilities are those of `apply`."""
        for task, resolved in self._resolve(self._in_order(tasks)):
            self._early[task] = resolved
        return feedback_of(tasks, {task: (self._early[task].utility, True) for task in tasks.tolist()})

    @part("merge")
    @limited_threads(1)  # an update is small, and waiting for a second thread can cost more than adding it
    def apply(self, tasks: IntArray) -> Feedback:
        """Train the tasks, merge their updates in (client, task) order, step the optimizer: the next version.

        Without a single finite update nothing changes, and the feedback says so.

        Raises:
            TrainingError: if the merge needs more updates; the model is then as it was.
        """
        order = self._in_order(tasks)
        metas = self._metas(order)
        weights = self._method.weighting.weights(columns(metas))
        info = StepInfo(self.version, self._n_clients, self._goal, len(order), self._seed)
        acc = self._method.merge.init(self._server, info)
        if self._sums_suffice and isinstance(acc, WeightedSums) and not self._early:
            seen = self._add_up(order, weights, acc)
        else:
            acc, seen = self._add_each(order, weights, acc, metas)
        usable = sum(valid for _, valid in seen.values())
        if usable:
            self._step(acc, replace(info, n_reports=usable))
        self.discard(order)
        return feedback_of(tasks, seen)

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
        picked = torch.from_numpy(np.concatenate(rows)).to(self._device)
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

    # -- merging ----------------------------------------------------------------------------------------------------

    def _add_up(self, order: Sequence[int], weights: Weights, sums: WeightedSums) -> Seen:
        """Train and add up where the updates are."""
        seen: Seen = {}
        start = 0
        for some in self._segments(order):
            own = weights_at(weights, slice(start, start := start + len(some)))
            blocks = self._runner.sums([self._train_task(task) for task in some], own)
            for block in parts_of("forward/backward", blocks):
                sums.join(block.sums)
                seen |= self._hear(some, block)
        return seen

    def _hear(self, tasks: Sequence[int], block: Block) -> Seen:
        """Keep the states of a block's accepted tasks; what the timeline hears of them."""
        seen: Seen = {}
        columns = block.places.tolist(), block.finite.tolist(), block.mean_square_loss.tolist(), block.states
        for place, finite, square, state in zip(*columns, strict=True):
            task = tasks[place]
            seen[task] = square**0.5, finite
            if finite and state:
                self.client_states.put(self._waiting[task].client, {"rule": state})
        return seen

    def _add_each(
        self, order: Sequence[int], weights: Weights, acc: object, metas: Sequence[ReportMeta]
    ) -> tuple[object, Seen]:
        """Train, encode and merge one update after the other."""
        seen: Seen = {}
        for position, (task, resolved) in enumerate(self._resolve(order)):
            if resolved.update is not None:
                own = {name: float(values[position]) for name, values in weights.items()}
                acc = self._method.merge.add(acc, resolved.update, own, metas[position])
            seen[task] = resolved.utility, resolved.update is not None
        return acc, seen

    # -- tasks ------------------------------------------------------------------------------------------------------

    def _in_order(self, tasks: IntArray) -> list[int]:
        return sorted(tasks.tolist(), key=lambda task: (self._waiting[task].client, task))

    def _metas(self, tasks: Sequence[int]) -> list[ReportMeta]:
        waiting = [self._waiting[task] for task in tasks]
        samples = np.array([self._data.size(each.client) for each in waiting], np.int64)
        scheduled = self._method.client_rule.schedule.n_steps(samples).tolist()
        found = []
        for task, each, size, steps in zip(tasks, waiting, samples.tolist(), scheduled, strict=True):
            done, staleness = min(steps, each.max_steps or steps), self.version - each.version
            run = (self._seed, self._n_clients, each.received)
            found.append(ReportMeta(each.client, task, size, done, each.version, staleness, *run))
        return found

    def _resolve(self, order: Sequence[int]) -> Iterator[tuple[int, Resolved]]:
        """Train what is not trained yet; pairs in the order given."""
        fresh = self._fresh([task for task in order if task not in self._early])
        for task in order:
            yield task, self._early[task] if task in self._early else self._finish(next(fresh))

    def _fresh(self, tasks: Sequence[int]) -> Iterator[Result]:
        """Results in the order given; a later task of a client starts from the state the earlier one left."""
        for some in self._segments(tasks):
            yield from parts_of("forward/backward", self._runner.run([self._train_task(task) for task in some]))

    def _segments(self, tasks: Sequence[int]) -> Iterator[list[int]]:
        """Runs of tasks that can be trained together: all of them unless clients keep states."""
        if not tasks:
            return
        state = self._method.client_rule.init_client(self._waiting[tasks[0]].received)
        size = sum(leaf.nbytes for leaves in state.values() for leaf in leaves.values())
        limit = len(tasks) if size == 0 else max(_STATES_AT_ONCE // size, 1)
        some: list[int] = []
        for task in tasks:
            again = size and some and self._waiting[some[-1]].client == self._waiting[task].client
            if again or len(some) == limit:
                yield some
                some = []
            some.append(task)
        yield some

    def _train_task(self, task: int) -> TrainTask:
        waiting = self._waiting[task]
        state = self._states_of(waiting.client).get("rule")
        if state is None:
            state = self._method.client_rule.init_client(waiting.received)
        return TrainTask(task, waiting.client, waiting.nth, waiting.version, waiting.received, state, waiting.max_steps)

    def _finish(self, result: Result) -> Resolved:
        """Send the update through the upload chain; the client's states advance if the update is finite."""
        utility = float(result.mean_square_loss**0.5)  # Oort's statistical utility per sample
        if not tree.is_finite(result.update):
            return Resolved(None, utility)
        update, states = self._encode(result)
        if self._method.upload and not tree.is_finite(update):
            return Resolved(None, utility)
        if any(states.values()):
            self.client_states.put(result.task.client, states)
        return Resolved(update, utility)

    def _encode(self, result: Result) -> tuple[Payload, States]:
        task = result.task
        update = {name: tree.double(leaves) for name, leaves in result.update.items()}
        states: States = {"rule": result.state}
        if not self._method.upload:
            return update, states
        old, (meta,) = self._states_of(task.client), self._metas([task.task])
        for place, transform in enumerate(self._method.upload):
            name = f"upload{place}"
            state = old[name] if name in old else transform.init_client(update)
            key = rng.key(self._seed, "upload", place, task.client, task.nth)
            update, states[name] = transform.encode(update, state, meta, key)
        return update, states

    def _states_of(self, client: int) -> States:
        """A client's states on the device."""
        return {
            place: {name: tree.apply(lambda leaf: leaf.to(self._device), leaves) for name, leaves in state.items()}
            for place, state in self.client_states.get(client).items()
        }
