"""The tables of a scenario as frozen dataclasses: what is not a policy of a slot."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, final

from evsim.base.errors import require
from evsim.base.metrics import Target
from evsim.base.units import MS_PER_MINUTE, MS_PER_SECOND, Duration
from evsim.scenario.hints import Every, EveryField
from evsim.traces.joins.base import Join
from evsim.training.data.base import DataSet, Partition
from evsim.training.data.label_flip import LabelFlip
from evsim.training.data.skew import Skew
from evsim.training.data.transforms.base import Transform

_MOST_CLIENTS = 10**8
_TEN_MINUTES = Every(ms=10 * MS_PER_MINUTE)


@final
@dataclass(frozen=True, kw_only=True)
class Stop:
    """When a run ends: whichever comes first; at least one of the first five is needed.

    Attributes:
        target_accuracy: accuracy on the test set, in (0, 1]: short for a target of that metric.
        target: a metric of the test set that the objective tells, and how much of it is wanted, at_least or at_most.
        server_steps: applied server steps.
        rounds: attempts, failed ones included.
        virtual_time: time on the virtual clock.
        failed_rounds: failed rounds in a row that end a run.
        on_divergence: whether it ends, with the reason "diverged", when the model or every update is not finite.
    """

    target_accuracy: float | None = None
    target: Target | None = None
    server_steps: int | None = None
    rounds: int | None = None
    virtual_time: Duration | None = None
    failed_rounds: int = 1000
    on_divergence: bool = True

    def __post_init__(self) -> None:
        accuracy = self.target_accuracy
        require(accuracy is None or 0 < accuracy <= 1, "target_accuracy must lie in (0, 1]", target_accuracy=accuracy)
        require(
            accuracy is None or self.target is None,
            "target is given beside target_accuracy, which is one: unset one of them",
        )
        for name in ("server_steps", "rounds", "virtual_time", "failed_rounds"):
            value = getattr(self, name)
            require(value is None or value > 0, f"{name} must be > 0", **{name: value})
        given = (self.goal, self.server_steps, self.rounds, self.virtual_time)
        require(
            any(value is not None for value in given),
            "at least one of target_accuracy, target, server_steps, rounds, virtual_time is needed",
        )

    @property
    def goal(self) -> Target | None:
        """What ends the run when the test set says it, however it was written; None: nothing learnt does."""
        return self.target if self.target_accuracy is None else Target.of("accuracy", self.target_accuracy)


@final
@dataclass(frozen=True, kw_only=True)
class PopulationTable:
    """Who takes part: clients, and the trace devices they live on.

    Attributes:
        clients: how many; default: as many as the data has natural clients.
        availability: a bundled trace, a path, "always", or a table of generator parameters.
        speed: likewise; or a table with compute_ms_per_sample, download_kbps, upload_kbps, each a number or a law.
        join: how clients get trace devices; default: paired where both files name their devices, else sample.
    """

    clients: int | None = None
    availability: str | dict[str, Any] = "phones"
    speed: str | dict[str, Any] = "phones"
    join: Join | None = None

    def __post_init__(self) -> None:
        require(self.clients is None or self.clients >= 1, "clients must be >= 1", clients=self.clients)
        require(self.clients is None or self.clients <= _MOST_CLIENTS, "too many clients", clients=self.clients)


@final
@dataclass(frozen=True, kw_only=True)
class DataTable:
    """What clients learn from.

    Attributes:
        dataset: the samples.
        partition: how they are dealt to clients.
        test_fraction: split off first; clients draw from the rest only.
        client_test_fraction: of each client's samples that it is evaluated on and nobody trains on; default: none, and
            `evaluation.per_client` evaluates clients on what they train on.
        skew: how clients' inputs differ from those of the data set; the test set stays as it is.
        transform: what is made of inputs when they are used, in order: scaling, and augmentation in training.
        label_flip: an attack: a share of the clients trains on flipped labels.
    """

    dataset: DataSet
    partition: Partition
    test_fraction: float = 0.2
    client_test_fraction: float | None = None
    skew: Skew | None = None
    transform: tuple[Transform, ...] = ()
    label_flip: LabelFlip | None = None

    def __post_init__(self) -> None:
        share = self.test_fraction
        require(0 < share < 1, "test_fraction must lie in (0, 1)", test_fraction=share)
        own = self.client_test_fraction
        require(own is None or 0 < own < 1, "client_test_fraction must lie in (0, 1)", client_test_fraction=own)


@final
@dataclass(frozen=True, kw_only=True)
class EvaluationTable:
    """When and how the model is evaluated; time 0 always is.

    Attributes:
        every: a grid of virtual time, or every so many server steps.
        per_client: also on each client's own samples: those that `data.client_test_fraction` holds out, else all.
        client_sample: so many clients, drawn once, instead of all that have such samples.
        batch_size: samples per forward pass; changes memory and speed only.
    """

    every: EveryField = _TEN_MINUTES
    per_client: bool = False
    client_sample: int | None = None
    batch_size: int = 1024

    def __post_init__(self) -> None:
        require(self.batch_size >= 1, "batch_size must be >= 1", batch_size=self.batch_size)
        some = self.client_sample
        require(some is None or some >= 1, "client_sample must be >= 1", client_sample=some)
        require(some is None or self.per_client, "client_sample needs per_client = true", client_sample=some)

    @property
    def every_ms(self) -> int | None:
        """The grid of virtual time, ms, if there is one."""
        return self.every.ms

    @property
    def every_steps(self) -> int | None:
        """The number of server steps, if it is one."""
        return self.every.steps


@final
@dataclass(frozen=True, kw_only=True)
class EngineTable:
    """How the timeline moves; the log is the same every way.

    Attributes:
        replay: "events": each check-in, check-out, report, drop-out and deadline is a SimPy event at its rank; "bulk":
            what happens between two decisions is settled at once, as arrays; "auto": events where a model is trained,
            as long as they cost less than a tenth of the run, and wherever somebody listens to every one.
    """

    replay: Literal["auto", "events", "bulk"] = "auto"


@final
@dataclass(frozen=True, kw_only=True)
class RecordTable:
    """What a run folder holds besides the tables every run has.

    Attributes:
        availability_every: spacing of the samples of how many clients are online.
        sessions: the sessions of all clients, not only of those that got tasks.
        selector: what the selector says of every choice: scores, exploration, preferred duration.
        checkpoint_every: wall-clock time between two checkpoints, at least; 0: no checkpoints. Changes no result.
        checkpoint_every_virtual_time: also so much of virtual time after the last one.
        keep_checkpoint: the one of its end stays when a run is over, so that it can be extended; about as large as the
            model, what clients keep, and the messages of tasks at work.
    """

    availability_every: Duration = 5 * MS_PER_MINUTE
    sessions: bool = False
    selector: bool = False
    checkpoint_every: Duration = 10 * MS_PER_MINUTE
    checkpoint_every_virtual_time: Duration | None = None
    keep_checkpoint: bool = True

    def __post_init__(self) -> None:
        every = self.availability_every
        require(every > 0, "availability_every must be > 0", availability_every=every)
        require(every >= MS_PER_SECOND, "availability_every must be at least 1 s, a row is written for each", ms=every)
        saved = self.checkpoint_every
        require(saved >= 0, "checkpoint_every must be >= 0", checkpoint_every=saved)
        virtual = self.checkpoint_every_virtual_time
        require(virtual is None or virtual > 0, "checkpoint_every_virtual_time must be > 0", given=virtual)
        require(
            virtual is None or saved > 0,
            "checkpoint_every_virtual_time needs checkpoints: checkpoint_every must not be 0",
            checkpoint_every=saved,
        )
