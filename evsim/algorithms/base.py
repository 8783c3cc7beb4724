"""The four steps of a federated algorithm, each a slot that can be replaced alone.

**broadcast** (what is sent) -> **local update** (`ClientRule`) -> **upload** (a chain of transforms) -> **aggregation**
(`Weighting`, `Merge`, `ServerOptimizer`). Every slot is a frozen policy; state is a separate value, a `Payload`: trees
of tensors by name, such as ``{"model": ..., "buffers": ..., "control": ..., "scalars": ...}``.

An update is a *delta*: what the client's model gained over what it received. It is added.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Generic, Literal, TypeVar, final

import numpy as np
import torch
from typing_extensions import override

from evsim.algorithms.clients import ClientInfo, Kept
from evsim.algorithms.schedule import Schedule
from evsim.algorithms.sums import WeightedSums
from evsim.algorithms.tree import Payload, Tree
from evsim.algorithms.wires import Wire, Wires, total_bytes
from evsim.base.policy import Policy
from evsim.base.vocabulary import FloatArray, IntArray
from evsim.cost.work import Work

__all__ = [
    "Apply",
    "Batch",
    "Broadcast",
    "Carry",
    "ClientInfo",
    "ClientRule",
    "Criterion",
    "GroupedBroadcast",
    "KeepsModel",
    "LossValue",
    "Merge",
    "Method",
    "Opening",
    "OpeningPass",
    "PartialWork",
    "ReportMeta",
    "Reports",
    "Schedule",
    "ServerOptimizer",
    "SeveralModels",
    "State",
    "StatefulMerge",
    "StepInfo",
    "SummingMerge",
    "Update",
    "Upload",
    "Weighting",
    "Wire",
    "Wires",
    "WorkBySteps",
    "opening_of",
    "supervised",
    "total_bytes",
]

State = Payload  # of a client or of the server; {} when stateless
Carry = Payload  # what a client rule moves from step to step; "train" holds the parameters
A = TypeVar("A")

#: Runs the model: ``(parameters, buffers, x) -> (logits, new buffers)``.
Apply = Callable[[Tree, Tree, torch.Tensor], tuple[torch.Tensor, Tree]]

#: The objective: ``(outputs, y) -> losses`` of the samples of a mini-batch, (batch,).
Criterion = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


# -- broadcast ---------------------------------------------------------------------------------------------------------


class Broadcast(Policy, ABC):
    """What the server sends to a client.

    Attributes:
        sends: payloads of the message; those beyond model and buffers are entries of the server state.
    """

    sends: ClassVar[frozenset[str]] = frozenset({"model", "buffers"})

    @abstractmethod
    def wires(self, model: Wires) -> Wires:
        """How the message travels, given how the server's model and buffers would."""

    @abstractmethod
    def send(self, server: State) -> Payload:
        """The message for the current server state; has at least "model" and "buffers"."""


class GroupedBroadcast(Broadcast):
    """A message that differs by group of clients: each group holds a part of every leaf, and trains and sends that.

    Groups follow from what is declared, once for a run. A sub-model has leaves of other shapes, so the model must take
    them: `torch.nn` layers do, as long as what one gives fits the next. The merge averages each number over the clients
    that hold it; one that nobody held stays as it is. Bytes on the wire are those of the part, and computing costs
    `compute_share`. Queries and evaluations use the whole model.
    """

    @property
    @abstractmethod
    def n_groups(self) -> int:
        """How many groups there are; each has clients."""

    @abstractmethod
    def groups(self, clients: ClientInfo) -> IntArray:
        """The group of each client, from 0 to n_groups - 1; `clients.group` and `clients.nth` are 0."""

    @abstractmethod
    def part(self, leaf: str, shape: tuple[int, ...], group: int) -> Kept:
        """What a group holds of a parameter or buffer: positions along each dimension; None: all of it.

        Leaves of the same name in other entries of the message, such as a control variate, are cut alike.
        """

    def compute_share(self, group: int, held: float) -> float:
        """What training costs a client of a group, relative to the whole model; `held`: its share of the numbers."""
        return held


class SeveralModels(ABC):
    """A broadcast may also be this: the server keeps several models, and its message holds them all.

    Evaluations then judge each of them beside the server's "model", as metrics that begin with its name and ``_``: on
    the test set, and with `evaluation.per_client` on every client's samples.
    """

    @abstractmethod
    def models(self, message: Payload) -> Mapping[str, Payload]:
        """The models of a message by name; each has "model" and "buffers"."""


# -- local update ------------------------------------------------------------------------------------------------------


@final
@dataclass(frozen=True)
class Update:
    """What a client rule hands over at the end of a task.

    Attributes:
        payload: deltas to send ("model", "buffers") and whatever else the rule sends.
        state: the client's next state.
        metrics: numbers about the task, 0-dim or of shape (clients,) when stacked.
    """

    payload: Payload
    state: State
    metrics: Tree


class ClientRule(Policy, ABC):
    """The local update. Methods are leafwise: they serve one client or clients stacked along a leading dimension.

    One task: ``begin``, then for each mini-batch the gradient of the mean of ``loss`` and ``step``, then ``finish``.
    Every leaf of carry, state and metrics has one value per client: make counters with ``zeros_like(version)``.

    Attributes:
        receives: payloads the rule reads from the broadcast.
        sends: payloads of its update, buffers included.
        knows: columns of `ClientInfo` that it reads, as ``state["client"]``: one number per client.
    """

    knows: ClassVar[tuple[str, ...]] = ()
    receives: ClassVar[frozenset[str]] = frozenset({"model", "buffers"})
    sends: ClassVar[frozenset[str]] = frozenset({"model", "buffers"})

    @property
    @abstractmethod
    def schedule(self) -> Schedule:
        """The mini-batches of a task."""

    @abstractmethod
    def work(self, n_samples: IntArray) -> Work:
        """What a task asks of clients with so many samples, for the cost model."""

    @abstractmethod
    def wires(self, model: Wires) -> Wires:
        """How the update travels before any upload transform."""

    @abstractmethod
    def init_client(self, received: Payload) -> State:
        """The state of a client that never had an accepted task; {} if the rule keeps none."""

    @abstractmethod
    def begin(self, received: Payload, state: State, version: torch.Tensor) -> Carry:
        """The carry before the first step; "train" holds the parameters. `version`: the model version received."""

    @abstractmethod
    def loss(self, apply: Apply, carry: Carry, buffers: Tree, batch: Batch, criterion: Criterion) -> LossValue:
        """Per-sample losses of a mini-batch of one client and the new buffers; differentiated in carry["train"].

        `criterion` is the scenario's objective; a rule adds terms of its own to it, if it has any (`supervised`).
        """

    @abstractmethod
    def step(self, carry: Carry, grads: Tree, received: Payload, state: State) -> Carry:
        """One optimizer step, given the gradient of the mean loss of the mini-batch."""

    @abstractmethod
    def finish(self, carry: Carry, received: Payload, state: State, steps: torch.Tensor) -> Update:
        """The update after `steps` executed steps, without buffers (the executor adds those)."""


LossValue = tuple[torch.Tensor, Tree]
Batch = tuple[torch.Tensor, torch.Tensor]  # inputs and labels of a mini-batch, (batch, ...) each
Opening = Literal["none", "loss", "gradient"]


class KeepsModel(ABC):
    """A client rule may also be this: its clients keep a model of their own, and would use that one.

    It is part of the state that `ClientRule.finish` returns; `evaluation.per_client` then evaluates both, the global
    model and, as metrics that begin with ``personal_``, the client's own.
    """

    @abstractmethod
    def own_model(self, received: Payload, state: State) -> Payload:
        """What a client would use that kept this state and got this message: "model" and "buffers"."""


class OpeningPass(ABC):
    """A client rule may also be this: it looks at all samples of the client with the received model before it trains.

    The executor evaluates the mean loss (and its gradient) of ``carry["train"]`` as ``begin`` left it, model in
    evaluation mode, and hands both over before the first step. ``work`` must charge the pass.
    """

    @property
    @abstractmethod
    def opening(self) -> Opening:
        """What the rule asks for; "none" skips the pass."""

    @abstractmethod
    def opened(self, carry: Carry, loss: torch.Tensor, gradient: Tree) -> Carry:
        """The carry with what the rule keeps; loss 0-dim or (clients,); gradient {} unless asked for."""


class WorkBySteps(ABC):
    """A client rule may also be this: it says what a task of so many steps costs.

    Where the steps of a task are drawn (`Schedule.is_drawn`), nothing else can say what it costs.
    """

    @abstractmethod
    def work_of(self, n_samples: IntArray, steps: IntArray) -> Work:
        """What a task of so many steps asks of each client."""


class PartialWork(WorkBySteps):
    """A client rule may also be this: a client that would miss the deadline does the steps that fit and reports them.

    The timeline asks at dispatch, when a task's fate is fixed; the clock and the training then use the same steps.
    """

    partial_work: bool

    @abstractmethod
    def n_steps_within(self, n_samples: IntArray, processed: IntArray) -> IntArray:
        """Whole steps of a task that may process so many samples, passes before the first step included."""


def opening_of(rule: ClientRule) -> Opening:
    """What a rule wants to know before its first step."""
    return rule.opening if isinstance(rule, OpeningPass) else "none"


def supervised(apply: Apply, carry: Carry, buffers: Tree, batch: Batch, criterion: Criterion) -> LossValue:
    """The objective and nothing else: per-sample losses of the model's outputs, (batch,), and the new buffers."""
    x, y = batch
    outputs, new_buffers = apply(carry["train"], buffers, x)
    return criterion(outputs, y), new_buffers


# -- upload ------------------------------------------------------------------------------------------------------------


class Upload(Policy, ABC):
    """One transform of the update on its way to the server; a chain of them is applied in order."""

    @abstractmethod
    def wires(self, update: Wires) -> Wires:
        """How the update travels after this transform."""

    @abstractmethod
    def init_client(self, update: Payload) -> State:
        """The transform's state of a client that never sent anything; {} if it keeps none."""

    @abstractmethod
    def encode(self, update: Payload, state: State, meta: ReportMeta, key: int) -> tuple[Payload, State]:
        """The update as the server will see it (decoded), and the next state; `key` names the draws of this task."""


# -- aggregation -------------------------------------------------------------------------------------------------------


@final
@dataclass(frozen=True)
class ReportMeta:
    """What the server knows about a report besides its update; `seed` and `n_clients` are the run's.

    `n_clients` is N of `StepInfo`. `place` numbers the clients with data from 0, by ascending id; None: as the ids do.
    `base` is the message the client started from: an update adds to *its* model, not to the current one. `info` is what
    is known of the client, columns of one entry.
    """

    client: int
    task: int
    samples: int
    steps: int
    version: int
    staleness: int
    seed: int = 0
    n_clients: int = 0
    base: Payload = field(default_factory=dict, repr=False, compare=False)
    place: int | None = None
    about: Callable[[], ClientInfo] | None = field(default=None, repr=False, compare=False)

    @property
    def info(self) -> ClientInfo:
        """What is known of the client, looked up when it is asked for."""
        return ClientInfo.unknown(np.array([self.samples])) if self.about is None else self.about()


@final
@dataclass(frozen=True)
class StepInfo:
    """What the server knows about a step."""

    version: int  # before the step
    n_clients: int  # N, the clients that can be drawn: those with data
    cohort_goal: int  # reports that a step of this process is meant to have; 0 if there is no such number
    n_reports: int
    seed: int
    by: str = ""  # the aggregator process that makes it; "" for the only one


@final
@dataclass(frozen=True, eq=False)
class Reports:
    """The reports of a server step as columns, in (client, task) order."""

    client: IntArray
    samples: IntArray
    staleness: IntArray
    about: Callable[[], ClientInfo] | None = None

    @property
    def info(self) -> ClientInfo:
        """What is known of the clients, looked up when it is asked for."""
        return ClientInfo.unknown(self.samples) if self.about is None else self.about()

    def __len__(self) -> int:
        return len(self.client)


class Weighting(Policy, ABC):
    """How much each report counts."""

    @abstractmethod
    def weights(self, reports: Reports) -> dict[str, FloatArray]:
        """Non-negative weights of the reports by payload; the entry "" serves payloads not named."""


class Merge(Policy, ABC, Generic[A]):
    """Merges updates into one, in float64, in the order given (client, then task).

    Attributes:
        style: "mean": every payload by the same weighted mean; "coordinate": each number by itself; "whole": chooses
            whole reports; "model": only model and buffers are understood.
        merges_parts: whether updates may be of parts of the model, each number merged over those that hold it.
    """

    merges_parts: ClassVar[bool] = False

    style: ClassVar[Literal["mean", "coordinate", "whole", "model"]] = "model"

    @property
    @abstractmethod
    def minimum_updates(self) -> int:
        """The fewest updates the rule can merge."""

    @abstractmethod
    def init(self, server: State, info: StepInfo) -> A:
        """An empty accumulator."""

    @abstractmethod
    def add(self, acc: A, update: Payload, weight: dict[str, float], meta: ReportMeta) -> A:
        """Take one update (float64 trees)."""

    @abstractmethod
    def finish(self, acc: A, server: State, info: StepInfo) -> Payload:
        """The merged update: same payload names as the updates.

        Raises:
            TrainingError: if the rule needs more updates than arrived; says how many.
        """


class StatefulMerge(Merge[A]):
    """A merge that keeps entries of its own in the server state."""

    @abstractmethod
    def init_state(self, model: Tree) -> State:
        """Its entries of the server state before the first step."""

    @abstractmethod
    def next_state(self, acc: A, server: State, info: StepInfo) -> State:
        """Its entries after a step."""


class SummingMerge(Merge[WeightedSums]):
    """A merge that needs no more than weighted sums: an executor may add updates up where it trains them."""

    @override
    def init(self, server: State, info: StepInfo) -> WeightedSums:
        return WeightedSums()

    @override
    def add(self, acc: WeightedSums, update: Payload, weight: dict[str, float], meta: ReportMeta) -> WeightedSums:
        acc.add(update, weight)
        return acc


class ServerOptimizer(Policy, ABC):
    """The rule that applies the merged update to the model.

    Attributes:
        needs: payloads it reads from the merged update.
        keeps: its entries of the server state.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"model"})
    keeps: ClassVar[frozenset[str]] = frozenset()

    @abstractmethod
    def init(self, model: Tree) -> State:
        """The optimizer's own entries of the server state, by name; {} if it keeps none."""

    @abstractmethod
    def apply(self, server: State, merged: Payload, info: StepInfo) -> State:
        """The next server state; never changes tensors in place. Buffers are applied by the caller."""


# -- the composition ---------------------------------------------------------------------------------------------------


@final
@dataclass(frozen=True, kw_only=True)
class Method:
    """A federated algorithm: one policy per slot."""

    broadcast: Broadcast
    client_rule: ClientRule
    upload: tuple[Upload, ...]
    weighting: Weighting
    merge: Merge[object]
    server_optimizer: ServerOptimizer
    keep: tuple[str, ...] = ()  # leaves that stay on the clients, as patterns of their names
