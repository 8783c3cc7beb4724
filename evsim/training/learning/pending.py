"""Dispatched tasks until they are trained or discarded, and the states their clients keep.

Only accepted tasks are ever trained, so a client's state is a chain over its accepted tasks: it advances when such a
task is resolved with a finite update.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from typing import TYPE_CHECKING, Any, final

import numpy as np
import torch

from evsim.algorithms import tree
from evsim.algorithms.base import KeepsModel, Method, ReportMeta, Reports, State
from evsim.algorithms.schedule import TaskNames
from evsim.algorithms.tree import Payload
from evsim.base import rng
from evsim.base.errors import TrainingError
from evsim.base.profiling import parts_of
from evsim.base.user_code import user_code
from evsim.base.vocabulary import IntArray
from evsim.training.executors.base import Job, Result, Runner, TrainTask
from evsim.training.executors.sums import Block, Weights, weights_at
from evsim.training.learning.client_state import ClientStates, States
from evsim.training.learning.kept import PLACE, Kept
from evsim.training.learning.reports import Resolved, Seen

if TYPE_CHECKING:
    from evsim.algorithms.clients import ClientInfo
    from evsim.algorithms.sums import WeightedSums

_KNOWN = "client"  # the entry of a task's state that holds what the rule `knows`
_STATES_AT_ONCE = 256 << 20  # bytes of client states handed to the executor in one go


@final
class Pending:
    """Knows the tasks that wait, and has them trained.

    Args:
        method: the algorithm.
        job: what executors know.
        runner: the open executor.
        states: of the clients; kept by the caller.
        known: what the server knows of all clients, their groups included.
        kept: leaves that stay on the clients.
    """

    def __init__(
        self, method: Method, job: Job, runner: Runner, states: ClientStates, known: ClientInfo, kept: Kept
    ) -> None:
        self._method, self._job, self._runner, self._states = method, job, runner, states
        self._known, self._knows, self._kept = known, method.client_rule.knows, kept
        with_data = np.diff(job.data.offsets) > 0
        self._places = np.cumsum(with_data) - 1  # a client's number among those with data
        self.n_clients = int(with_data.sum())  # clients that can be drawn, which is what N means everywhere
        self._waiting: dict[int, TrainTask] = {}  # a state, if clients keep any, is looked up when the task is trained
        self._early: dict[int, Resolved] = {}  # trained before the server step that uses them

    def add(self, tasks: Iterable[TrainTask]) -> None:
        """Take new tasks, without their clients' states."""
        self._waiting.update((each.task, each) for each in tasks)

    def discard(self, tasks: Iterable[int]) -> None:
        """Forget tasks that will never be used, or were."""
        for task in tasks:
            self._waiting.pop(task, None)
            self._early.pop(task, None)

    def kept(self) -> dict[str, Any]:
        """Everything about tasks that wait, for a checkpoint: the message of each version once."""
        waiting = self._waiting.values()
        rows = [[each.task, each.client, each.nth, each.version, each.max_steps, each.batch_size] for each in waiting]
        received = {self._message_name(each.version, each.client): each.received for each in waiting}
        early = [[task, each.update, each.utility] for task, each in self._early.items()]
        return {"waiting": rows, "received": received, "early": early}

    def restore(self, kept: Mapping[str, Any]) -> None:
        """Become what `kept` told of another run."""
        received = kept["received"]
        self._waiting = {
            task: TrainTask(task, client, nth, version, received[self._message_name(version, client)], {}, *how)
            for task, client, nth, version, *how in kept["waiting"]
        }
        self._early = {task: Resolved(update, utility) for task, update, utility in kept["early"]}

    def _message_name(self, version: int, client: int) -> str:
        return f"{version}/{int(self._known.group[client])}"

    def clients(self, tasks: Sequence[int]) -> list[int]:
        """Whose tasks these are."""
        return [self._waiting[task].client for task in tasks]

    def in_order(self, tasks: IntArray) -> list[int]:
        """The tasks in the order in which they are merged: by client, then by task."""
        return sorted(tasks.tolist(), key=lambda task: (self._waiting[task].client, task))

    def reports(self, tasks: Sequence[int], version: int) -> Reports:
        """What a weighting may look at, when the server is at a version."""
        waiting = [self._waiting[task] for task in tasks]
        clients = np.array([each.client for each in waiting], np.int64)
        staleness = np.array([version - each.version for each in waiting], np.int64)
        return Reports(clients, self._sizes(clients), staleness, lambda: self._info(tasks, clients))

    def _info(self, tasks: Sequence[int], clients: IntArray) -> ClientInfo:
        """What is known of the clients of some tasks, with their data sizes as they are trained on."""
        nth = np.array([self._waiting[task].nth for task in tasks], np.int64)
        return replace(self._known.at(clients, nth), samples=self._sizes(clients))

    def metas(self, tasks: Sequence[int], version: int) -> list[ReportMeta]:
        """What the server knows about each report, when it is at a version."""
        columns = self.reports(tasks, version)
        nth = np.array([self._waiting[task].nth for task in tasks], np.int64)
        names = TaskNames(self._job.seed, columns.client, nth)
        schedule = self._method.client_rule.schedule
        sizes = np.array([self._waiting[task].batch_size or schedule.batch_size for task in tasks], np.int64)
        scheduled = schedule.n_steps(columns.samples, names, sizes).tolist()
        found, known = [], cache(lambda: columns.info)
        for place, task in enumerate(tasks):
            own, steps = self._waiting[task], scheduled[place]
            samples, staleness = int(columns.samples[place]), int(columns.staleness[place])
            run = (self._job.seed, self.n_clients, own.received, int(self._places[own.client]))
            done = min(steps, own.max_steps or steps)
            about = partial(_one_of, known, place)
            found.append(ReportMeta(own.client, task, samples, done, own.version, staleness, *run, about))
        return found

    # -- training ---------------------------------------------------------------------------------------------------

    def train_early(self, order: Sequence[int], version: int) -> Mapping[int, Resolved]:
        """Train tasks now, and keep what they gave until they are used."""
        self._early |= dict(self.resolve(order, version))
        return self._early

    @property
    def some_are_trained(self) -> bool:
        """Whether results of `train_early` wait."""
        return bool(self._early)

    def resolve(self, order: Sequence[int], version: int) -> Iterator[tuple[int, Resolved]]:
        """Train what is not trained yet; pairs in the order given."""
        fresh = self._results([task for task in order if task not in self._early])
        for task in order:
            yield task, self._early[task] if task in self._early else self._finish(next(fresh), version)

    def add_up(self, order: Sequence[int], weights: Weights, sums: WeightedSums) -> Seen:
        """Train tasks and add their finite updates to the sums."""
        seen: Seen = {}
        start = 0
        for some in self._segments(order):
            own = weights_at(weights, slice(start, start := start + len(some)))
            for block in parts_of("forward/backward", self._runner.sums(self._train_tasks(some), own)):
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
            own = _without_what_is_known(state)
            if finite and own:
                self._states.put(self._waiting[task].client, {"rule": own})
        return seen

    def _results(self, tasks: Sequence[int]) -> Iterator[Result]:
        """Results in the order given; a later task of a client starts from the state the earlier one left."""
        for some in self._segments(tasks):
            yield from parts_of("forward/backward", self._runner.run(self._train_tasks(some)))

    def _segments(self, tasks: Sequence[int]) -> Iterator[list[int]]:
        """Runs of tasks that can be trained together: all of them unless clients keep states."""
        if not tasks:
            return
        size = self._state_bytes(tasks[0])
        if not size:
            yield list(tasks)
            return
        limit, some = max(_STATES_AT_ONCE // size, 1), list[int]()
        for task in tasks:
            again = some and self._waiting[some[-1]].client == self._waiting[task].client
            if again or len(some) == limit:
                yield some
                some = []
            some.append(task)
        yield some

    def _train_tasks(self, tasks: Sequence[int]) -> list[TrainTask]:
        waiting = [self._waiting[task] for task in tasks]
        if self._state_bytes(tasks[0]):
            waiting = [replace(each, state=self._state_of(each)) for each in waiting]
        if self._kept:
            waiting = [self._kept.task(each, self._own_of(each.client)) for each in waiting]
        return self._told(tasks, waiting) if self._knows else waiting

    def _told(self, tasks: Sequence[int], waiting: list[TrainTask]) -> list[TrainTask]:
        """Tasks whose rule reads what is known of its client; that is no part of the state that the client keeps."""
        info = self._info(tasks, np.array([each.client for each in waiting], np.int64))
        columns = {name: torch.from_numpy(np.ascontiguousarray(getattr(info, name))) for name in self._knows}
        columns = {name: column.to(self._job.device) for name, column in columns.items()}
        return [
            replace(each, state={**each.state, _KNOWN: {name: column[place] for name, column in columns.items()}})
            for place, each in enumerate(waiting)
        ]

    def _state_bytes(self, task: int) -> int:
        """Size of the state that a client keeps for its rule; 0 if the rule keeps none."""
        state = self._method.client_rule.init_client(self._waiting[task].received)
        size = sum(leaf.nbytes for leaves in state.values() for leaf in leaves.values())
        return size + (self._kept.n_bytes(self._waiting[task].received) if self._kept else 0)

    def _own_of(self, client: int) -> State | None:
        """The leaves that a client keeps; None if it has none yet."""
        own = self._states.get(client).get(PLACE)
        return None if own is None else self._moved(own)

    def own_payload(self, client: int, received: Payload) -> Payload | None:
        """What a client would use that got this message; None if it is the message itself."""
        rule, own = self._method.client_rule, self._own_of(client) if self._kept else None
        used = received if own is None else self._kept.into(received, own)
        state = self._states.get(client).get("rule") if isinstance(rule, KeepsModel) else None
        if state is None or not isinstance(rule, KeepsModel):
            return None if own is None else used
        with user_code(TrainingError, slot="client_rule", cls=rule, step="own_model", client=client):
            return rule.own_model(used, self._moved(state))

    @property
    def keeps_models(self) -> bool:
        """Whether clients would use something else than the global model."""
        return bool(self._kept) or isinstance(self._method.client_rule, KeepsModel)

    def _state_of(self, task: TrainTask) -> State:
        kept = self._states.get(task.client).get("rule")
        return self._method.client_rule.init_client(task.received) if kept is None else self._moved(kept)

    def _finish(self, result: Result, version: int) -> Resolved:
        """Send the update through the upload chain; the client's states advance if the update is finite."""
        utility = float(result.mean_square_loss**0.5)  # Oort's statistical utility per sample
        if not tree.is_finite(result.update):
            return Resolved(None, utility)
        update, states = self._encode(result, version)
        if self._method.upload and not tree.is_finite(update):
            return Resolved(None, utility)
        if any(states.values()):
            self._states.put(result.task.client, states)
        return Resolved(update, utility)

    def _encode(self, result: Result, version: int) -> tuple[Payload, States]:
        task, sent = result.task, result.update
        states: States = {"rule": _without_what_is_known(result.state)}
        if self._kept:
            sent, states[PLACE] = self._kept.taken(result)
        update = {name: tree.double(leaves) for name, leaves in sent.items()}
        if not self._method.upload:
            return update, states
        old, (meta,) = self._states.get(task.client), self.metas([task.task], version)
        for place, transform in enumerate(self._method.upload):
            name = f"upload{place}"
            state = self._moved(old[name]) if name in old else transform.init_client(update)
            key = rng.key(self._job.seed, "upload", place, task.client, task.nth)
            with user_code(TrainingError, slot="upload", cls=transform, client=task.client, task=task.task):
                update, states[name] = transform.encode(update, state, meta, key)
        return update, states

    def _moved(self, state: State) -> State:
        """A client's state on the device."""
        to = self._job.device
        return {name: tree.apply(lambda leaf: leaf.to(to), leaves) for name, leaves in state.items()}

    def _sizes(self, clients: IntArray) -> IntArray:
        offsets = self._job.data.offsets
        return offsets[clients + 1] - offsets[clients]


def _one_of(known: Callable[[], ClientInfo], place: int) -> ClientInfo:
    return known().at(np.array([place]))


def _without_what_is_known(state: State) -> State:
    return {name: leaves for name, leaves in state.items() if name != _KNOWN} if _KNOWN in state else state
