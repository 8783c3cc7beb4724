"""The learning side of a run: the server's model, and the server step.

Training is deferred: a task's inputs are fixed when it is dispatched, and it is trained when the server uses its
report. The timeline hears of it only through `Feedback`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import numpy as np
import torch

from evsim.algorithms import tree
from evsim.algorithms.base import Method, State, StatefulMerge, StepInfo, SummingMerge
from evsim.algorithms.clients import ClientInfo
from evsim.algorithms.sums import WeightedSums, spread
from evsim.algorithms.tree import Payload, Tree
from evsim.algorithms.weighting import checked
from evsim.base import rng
from evsim.base.errors import TrainingError
from evsim.base.profiling import part
from evsim.base.user_code import user_code
from evsim.base.vocabulary import Feedback, IntArray
from evsim.training.data.samples import Inputs, TrainingData, fits, inputs, labels
from evsim.training.executors.base import Executor, Job, TrainTask
from evsim.training.executors.probe import batch_of_one, probe, rehearse
from evsim.training.executors.sums import Weights, weights_at
from evsim.training.executors.threads import limited_threads
from evsim.training.learning.client_state import ClientStates
from evsim.training.learning.evaluation import Some, Stored, evaluate
from evsim.training.learning.kept import Kept
from evsim.training.learning.parts import Messages, groups_of
from evsim.training.learning.pending import Pending
from evsim.training.learning.reports import Seen, feedback_of, moved
from evsim.training.models.leaves import averaged, check_leaves, saved, trained
from evsim.training.objectives.base import Groups, Objective
from evsim.training.objectives.classification import Classification
from evsim.training.objectives.groups import taken

if TYPE_CHECKING:
    from evsim.base.caveat import Caveat
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
        cohort_goal: reports a server step is meant to have where it does not say; 0 if there is no such number.
        state_budget: bytes of client states kept in memory; what is more lies on disk.
        state_folder: where; None for a temporary folder.
        objective: what is learnt, and how it is judged.
        clients: what is known of them; None: their data sizes.
        batch_sizes: samples of a mini-batch of each client; None: as the rule says.
    """

    seed: int
    precision: str = "float32"
    device: str = "cpu"
    cohort_goal: int = 0
    state_budget: int = 1 << 30
    state_folder: Path | None = None
    objective: Objective = field(default_factory=Classification)
    clients: ClientInfo | None = None
    batch_sizes: IntArray | None = None


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
        self._objective = setting.objective
        self._device, self._dtype = torch.device(setting.device), _DTYPES[setting.precision]
        check_leaves(model)
        self._model = model.to(self._device, self._dtype)
        self._data = TrainingData.of(data, self._dtype, self._device)
        self._test = self._placed(data)
        self._server = self._initial_state()
        autocast = setting.precision == "bfloat16"
        where = self._dtype, autocast, self._device
        job = Job(self._model, method.client_rule, self._data, *where, setting.seed, setting.objective)
        probe(job)
        self._job = job
        self._runner = executor.open(job)
        kept = Kept.of(method.keep, self._model)
        self._sums_suffice = isinstance(method.merge, SummingMerge) and not method.upload and not kept
        self.client_states = ClientStates(setting.state_budget, setting.state_folder)
        self.client_states.begin()
        clients = setting.clients or ClientInfo.unknown(np.diff(self._data.offsets))
        groups = groups_of(method.broadcast, clients)
        self._messages = Messages(method.broadcast, job, groups)
        known = replace(clients, group=groups)
        own, usual = setting.batch_sizes, method.client_rule.schedule.batch_size
        self._batch_sizes = np.full(len(known), usual, np.int64) if own is None else own
        self._pending = Pending(method, job, self._runner, self.client_states, known, kept)
        self.version = 0
        self._looked_at = -1, False  # a version, and whether it has diverged

    @property
    def diverged(self) -> bool:
        """Whether the current version, as clients get it, holds a number that is not finite.

        Looked at once per version, when asked: in the precision of training, in which a number may be too large that
        the server still holds.
        """
        if self._looked_at[0] != self.version:
            sent = {name: self._sent_as(self._server[name]) for name in ("model", "buffers")}
            self._looked_at = self.version, not tree.is_finite(sent)
        return self._looked_at[1]

    def _sent_as(self, leaves: Tree) -> Tree:
        """Leaves in the precision of training; counters stay what they are."""
        return {name: leaf.to(self._dtype) if leaf.is_floating_point() else leaf for name, leaf in leaves.items()}

    @property
    def plan(self) -> Mapping[str, object]:
        """The executor's plan."""
        streamed = {"samples": "streamed from host memory"} if self._data.streamed else {}
        return {**self._runner.plan, **streamed}

    # -- before a run ------------------------------------------------------------------------------------------------

    def caveats(self) -> list[Caveat]:
        """What may go wrong in training, though it need not."""
        alone = batch_of_one(self._job, np.diff(self._data.offsets), self._batch_sizes)
        return [] if alone is None else [alone]

    def rehearse(self) -> None:
        """Train one pass of the clients that differ most, evaluate a few samples, and throw it all away.

        Raises:
            TrainingError: if the model, the client rule or the broadcast raises anything.
        """
        rehearse(self._job, self._messages.whole(self.version, self._message))
        x, y = self._test
        self._judged((x[:2], y[:2]), 0, batch_size=2)

    # -- what the timeline asks -------------------------------------------------------------------------------------

    def dispatched(self, tasks: IntArray, clients: IntArray, nth: IntArray, max_steps: IntArray | None = None) -> None:
        """Fix the inputs of new tasks: they train the current version, for at most so many steps (0: no limit)."""
        limits = np.zeros_like(tasks) if max_steps is None else max_steps
        sizes = self._batch_sizes[clients]
        columns = zip(*(each.tolist() for each in (tasks, clients, nth, limits, sizes)), strict=True)
        of, version, message = self._messages.of, self.version, self._message
        self._pending.add(
            [TrainTask(t, client, k, version, of(client, version, message), {}, n, b) for t, client, k, n, b in columns]
        )

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
    def apply(self, tasks: IntArray, *, by: str = "", goal: int = 0) -> Feedback:
        """Train the tasks, merge their updates in (client, task) order, step the optimizer: the next version.

        Where the merge is a sum and nothing changes updates on their way, executors add up what they train. Without a
        single finite update nothing changes, and the feedback says so; nor where finite updates merge into one that is
        not, which then are all invalid: their clients' states stay as they were.

        Args:
            tasks: whose reports are used.
            by: the aggregator process that makes the step.
            goal: reports that a step of it is meant to have; 0: as the setting says.

        Raises:
            TrainingError: if the merge needs more updates; the model is then as it was.
        """
        order = self._pending.in_order(tasks)
        with self._blaming("weighting"):
            weights = checked(self._method.weighting, self._pending.reports(order, self.version))
        info = StepInfo(self.version, self._pending.n_clients, goal or self._goal, len(order), self._seed, by)
        acc, seen = self._added(order, weights, info) if not self._messages.parts else self._parts(order, weights, info)
        usable = sum(valid for _, valid in seen.values())
        if usable and not self._step(acc, replace(info, n_reports=usable)):
            seen = {task: (utility, False) for task, (utility, _) in seen.items()}
            self.client_states.undo()
        self.client_states.begin()
        self.discard(order)
        return feedback_of(tasks, seen, dict(zip(order, weights[""].tolist(), strict=True)))

    @part("evaluation")
    def evaluate(self, batch_size: int) -> dict[str, float]:
        """Loss and metrics of the current version on the central test set."""
        kept = self._judged(self._test, rng.key(self._seed, "evaluate", self.version), batch_size)
        found = self._objective.measure(kept, Groups.whole(len(self._test[1])))
        return {name: float(value[0]) for name, value in found.items()}

    @part("evaluation")
    def evaluate_clients(self, batch_size: int, clients: IntArray | None = None) -> dict[str, FloatArray]:
        """Loss and metrics of the current version on each client's own samples: those held out, if some are.

        Arrays (clients,), of all clients or of those named; NaN for a client that has none. Where clients keep models
        or leaves of their own, also what each would use: metrics that begin with ``personal_``.
        """
        key, data = rng.key(self._seed, "evaluate clients", self.version), self._data
        index, offsets = data.judged
        if clients is not None:
            index, offsets = taken(index, offsets, clients)
        rows, places = np.unique(index, return_inverse=True)
        if len(rows) == len(data.y):
            kept = self._judged((data.x, data.y), key, batch_size)
        else:
            only = data.rows(rows)
            kept = self._judged((Some(data.x, only), data.y[only]), key, batch_size)
        found = self._objective.measure(kept, Groups(places, offsets))
        if not self._pending.keeps_models:
            return found
        own = {f"personal_{name}": values.copy() for name, values in found.items()}
        for place in range(len(offsets) - 1):
            client = place if clients is None else int(clients[place])
            for name, value in self._personal(
                client, index[offsets[place] : offsets[place + 1]], key, batch_size
            ).items():
                own[f"personal_{name}"][place] = value
        return {**found, **own}

    def _personal(self, client: int, samples: IntArray, key: int, batch_size: int) -> dict[str, float]:
        """Metrics of what one client would use, on some samples; {} if that is the global model, or there are none."""
        received = self._messages.of(client, self.version, self._message)
        own = self._pending.own_payload(client, received) if len(samples) else None
        if own is None:
            return {}
        rows = self._data.rows(samples)
        pair = self._data.x[rows], self._data.y[rows]
        kept = evaluate(
            self._model, (own["model"], own["buffers"]), pair, self._objective.keep, batch_size=batch_size, key=key
        )
        measured = self._objective.measure(kept, Groups.whole(len(samples)))
        return {name: float(value[0]) for name, value in measured.items()}

    @property
    def judged_samples(self) -> IntArray:
        """How many samples each client is evaluated on, (n_clients,)."""
        return np.diff(self._data.judged[1])

    @property
    def holds_out(self) -> bool:
        """Whether clients are evaluated on samples that nobody trains on."""
        return self._data.held is not None

    @part("evaluation")
    def losses(self, clients: IntArray, max_samples: int | None = None, batch_size: int = 1024) -> FloatArray:
        """Mean loss of the current version on each client's samples, or on so many drawn at random; NaN for none."""
        rows = [self._some_rows(client, max_samples) for client in clients.tolist()]
        sizes = np.array([len(own) for own in rows], np.int64)
        if not sizes.sum():
            return np.full(len(rows), np.nan)
        picked = self._data.rows(np.concatenate(rows))
        x, y, key = self._data.x[picked], self._data.y[picked], rng.key(self._seed, "query loss", self.version)
        keep = self._objective.keep_loss
        each = evaluate(self._model, self._current(), (x, y), keep, batch_size=batch_size, key=key)["loss"]
        totals = np.bincount(np.repeat(np.arange(len(rows)), sizes), each.cpu().numpy(), len(rows))
        return np.asarray(np.divide(totals, sizes, out=np.full(len(rows), np.nan), where=sizes > 0))

    def _judged(self, samples: tuple[Stored, torch.Tensor], key: int, batch_size: int) -> Tree:
        """What the objective keeps of each sample."""
        keep = self._objective.keep
        return evaluate(self._model, self._current(), samples, keep, batch_size=batch_size, key=key)

    def tensors(self) -> dict[str, np.ndarray]:
        """The state dict of the current version, frozen parameters included, for the run folder."""
        params, buffers = self._current()
        own = {**saved(self._model), **params, **buffers}
        return {name: leaf.cpu().numpy() for name, leaf in own.items()}

    @property
    def device(self) -> str:
        """Where it trains."""
        return str(self._device)

    # -- checkpoints ------------------------------------------------------------------------------------------------

    def checkpoint(self) -> dict[str, Any]:
        """All that a later run needs to go on from here, but the clients' states (`client_states.live`)."""
        return {"version": self.version, "server": self._server, "pending": self._pending.kept()}

    def restore(self, kept: Mapping[str, Any]) -> None:
        """Become what `checkpoint` told of another run of the same method, model and data."""
        self.version, self._server = kept["version"], kept["server"]
        self._pending.restore(kept["pending"])
        received = kept["pending"]["received"].get(f"{self.version}/0")
        self._messages.restore(self.version, {} if received is None else {0: received})
        self._looked_at = -1, False

    def close(self) -> None:
        """Release the executor and the client states."""
        self._runner.close()
        self.client_states.close()

    def _placed(self, data: FederatedData) -> tuple[torch.Tensor | Inputs, torch.Tensor]:
        """The test set; on the device if it fits there."""
        x = inputs(data.x_test, self._dtype, tokens=data.n_tokens is not None, transforms=data.transforms)
        y = labels(data.y_test, self._dtype)
        return (x.to(self._device), y.to(self._device)) if fits(self._device, x, y) else (x, y)

    # -- the server's state -----------------------------------------------------------------------------------------

    def _initial_state(self) -> State:
        # copies, since the module's own tensors are only a template from here on
        params = {name: leaf.detach().clone().double() for name, leaf in trained(self._model).items()}
        buffers = {name: leaf.detach().clone() for name, leaf in averaged(self._model).items()}
        merge = self._method.merge
        kept = merge.init_state(params) if isinstance(merge, StatefulMerge) else {}
        return {"model": params, "buffers": buffers, **self._method.server_optimizer.init(params), **kept}

    def _current(self) -> tuple[Tree, Tree]:
        return tree.cast(self._server["model"], self._dtype), tree.cast(self._server["buffers"], self._dtype)

    def _message(self) -> Payload:
        """What the current version sends, cast to the precision of training."""
        with self._blaming("broadcast"):
            message = self._method.broadcast.send(self._server)
        return {name: tree.cast(leaves, self._dtype) for name, leaves in message.items()}

    def _added(self, order: Sequence[int], weights: Weights, info: StepInfo) -> tuple[object, Seen]:
        """Train tasks of clients that hold the same leaves, and merge their updates."""
        with self._blaming("merge"):
            acc = self._method.merge.init(self._server, info)
        if self._sums_suffice and isinstance(acc, WeightedSums) and not self._pending.some_are_trained:
            return acc, self._pending.add_up(order, weights, acc)
        return self._add_each(order, weights, acc)

    def _parts(self, order: Sequence[int], weights: Weights, info: StepInfo) -> tuple[object, Seen]:
        """The same where groups hold parts of the model: each group by itself, then number by number."""
        seen: Seen = {}
        sums: dict[int, WeightedSums] = {}
        for group, places in self._messages.by_group(order, self._pending.clients(order)).items():
            some, own = [order[place] for place in places], weights_at(weights, np.array(places))
            acc, heard = self._added(some, own, info)
            if not isinstance(acc, WeightedSums):
                raise TrainingError(
                    "merge: clients hold parts of the model, whose updates only weighted sums can merge"
                )
            sums[group] = acc
            seen |= heard
        whole = {name: self._server[name] for name in self._server if self._server[name]}
        return spread(sums, dict(enumerate(self._messages.parts)), whole), seen

    def _add_each(self, order: Sequence[int], weights: Weights, acc: object) -> tuple[object, Seen]:
        """Train, encode and merge one update after the other."""
        seen: Seen = {}
        metas = self._pending.metas(order, self.version)
        for position, (task, resolved) in enumerate(self._pending.resolve(order, self.version)):
            if resolved.update is not None:
                own = {name: float(values[position]) for name, values in weights.items()}
                with self._blaming("merge"):
                    acc = self._method.merge.add(acc, resolved.update, own, metas[position])
            seen[task] = resolved.utility, resolved.update is not None
        return acc, seen

    def _step(self, acc: object, info: StepInfo) -> bool:
        """The next version; False, and nothing changes, if the merged update is not finite."""
        merge, optimizer, server = self._method.merge, self._method.server_optimizer, self._server
        with self._blaming("merge"):
            merged = merge.finish(acc, server, info)
            if not tree.is_finite(merged):
                return False
            kept = merge.next_state(acc, server, info) if isinstance(merge, StatefulMerge) else {}
        if optimizer.needs <= merged.keys():  # else every report weighs nothing
            with self._blaming("server_optimizer"):
                stepped = optimizer.apply(server, merged, info)
            self._server = {**stepped, "buffers": _moved(server["buffers"], merged.get("buffers", {})), **kept}
        self.version += 1
        return True

    def _blaming(self, slot: str) -> AbstractContextManager[None]:
        """What a policy of the method raises, as a sentence."""
        cls = getattr(self._method, slot)
        return user_code(TrainingError, slot=slot, cls=cls, **{"model version": self.version})

    def _some_rows(self, client: int, max_samples: int | None) -> IntArray:
        own = self._data.of_client(client)
        if max_samples is None or max_samples >= len(own):
            return own
        draws = rng.hash64(rng.key(self._seed, "query", self.version), client, np.arange(len(own)))
        return own[np.argsort(draws, kind="stable")[:max_samples]]


def _moved(buffers: Tree, gained: Tree) -> Tree:
    """The next buffers; those of which nothing came stay as they are."""
    return {name: moved(leaf, gained[name]) if name in gained else leaf for name, leaf in buffers.items()}
