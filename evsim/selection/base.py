"""The slot of client selection: who is asked next.

A selector is a frozen policy with explicit state. It sees the population through `ClientView` only, which holds what a
real server could know: who is registered and idle, what clients declared, what their past reports showed.

State belongs to the run, not to the policy: `init` makes it, and every other method takes it and returns the next one.
A million clients must not be copied at every report, so a method may update the arrays it was given in place: the state
passed in is *handed over*, and only the returned one may be used afterwards. Whoever needs the old one copies it first.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeVar, final

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from evsim.base.policy import Policy
from evsim.base.vocabulary import BoolArray, FloatArray, IntArray, Outcome
from evsim.selection.forecast import Predictor

if TYPE_CHECKING:
    from collections.abc import Mapping

    from evsim.selection.forecast import Forecasts

S = TypeVar("S")


@final
@dataclass(frozen=True, slots=True)
class Answers:
    """What the candidates of a query answered, one entry each; those who left first have none.

    Attributes:
        clients: client ids.
        loss: mean loss of the current model on the client's own samples (F_k(w)).
    """

    clients: IntArray
    loss: FloatArray


NO_ANSWERS = Answers(np.empty(0, np.int64), np.empty(0))


class ClientView(Protocol):
    """What a selector may know. All arrays are read-only and indexed by client id."""

    @property
    def now(self) -> int:
        """The instant of the selection, ms."""

    @property
    def round(self) -> int:
        """Number of the server's round, from 0, that clients are selected for; `Outcomes.round` is the same number.

        Synchronous: how many selections were made before. Buffered: how many buffers were closed before, and each may
        be filled by many selections.
        """

    @property
    def n_clients(self) -> int:
        """Ids that clients may have: the declared population, up to the last client with data."""

    @property
    def n_idle(self) -> int:
        """How many clients are online (as far as the server knows) and have no task."""

    @property
    def idle(self) -> IntArray:
        """Ids of the idle clients, ascending; costs O(population) at each call."""

    def is_idle(self, clients: IntArray) -> BoolArray:
        """Whether each of the clients is idle; O(clients)."""

    def is_idle_one(self, client: int) -> bool:
        """`is_idle` for one client, a hundred times cheaper than an array of one."""

    @property
    def online_since(self) -> IntArray:
        """Instant of each client's last check-in, ms; -1 before its first."""

    @property
    def samples(self) -> IntArray:
        """Data size each client declared when it first checked in; -1 before that."""

    @property
    def declared_ms(self) -> FloatArray:
        """Task duration expected from the declared device class, ms; NaN where nothing was declared."""

    @property
    def declared_transfers_ms(self) -> FloatArray:
        """Of it, the download and the upload, (clients, 2), ms; kept for selectors with `needs_transfers` only."""

    @property
    def selected(self) -> IntArray:
        """How often each client was given a task."""

    @property
    def successes(self) -> NDArray[np.int32]:
        """How many of each client's tasks ended with a report that was used."""

    @property
    def failures(self) -> NDArray[np.int32]:
        """How many of each client's tasks ended otherwise: late, surplus, lost."""

    @property
    def last_duration_ms(self) -> FloatArray:
        """Duration of each client's last report, late ones included, ms; NaN before the first."""

    @property
    def last_utility(self) -> FloatArray:
        """Utility of each client's last report that had one; NaN before the first."""

    @property
    def answers(self) -> Answers | None:
        """Answers to this selection's query; None if there was no query."""

    @property
    def predictor(self) -> Forecasts | None:
        """Forecasts of availability, if the scenario has a predictor; one that reads the trace is called an oracle."""


@dataclass(frozen=True, slots=True)
class Outcomes:
    """What became known of some tasks, one entry each, in the order in which it became known.

    Attributes:
        clients: client ids.
        at: instant at which it became known, ms.
        round: `ClientView.round` at the task's selection.
        outcome: codes of `Outcome`; only AGGREGATED and ANSWERED (and kept late reports) are successes.
        duration_ms: from dispatch until it became known.
        samples: training samples of the task.
        utility: root of the mean squared per-sample training loss; NaN where the server does not know it.
    """

    clients: IntArray
    at: IntArray
    round: IntArray
    outcome: NDArray[np.int8]
    duration_ms: IntArray
    samples: IntArray
    utility: FloatArray

    @property
    def succeeded(self) -> BoolArray:
        """Whether the report was used."""
        return np.isin(self.outcome, (Outcome.AGGREGATED, Outcome.ANSWERED))

    @property
    def arrived(self) -> BoolArray:
        """Whether a report arrived at all, used or not: its duration is the device's own."""
        lost = np.isin(self.outcome, (Outcome.IN_FLIGHT, Outcome.DROPPED, Outcome.ABORTED))
        return np.logical_not(lost)

    @property
    def has_utility(self) -> BoolArray:
        """Whether a sound report came with a utility."""
        return np.asarray(np.isfinite(self.utility) & self.arrived & (self.outcome != Outcome.INVALID))


@final
@dataclass(frozen=True, slots=True)
class Query:
    """A question to candidates: each downloads the model, evaluates it on own samples, sends one number.

    Attributes:
        clients: distinct idle clients.
        max_samples: each evaluates min(own samples, this); None: all of them.
        timeout_ms: after so long the selection goes on with the answers that arrived; None waits for all.
    """

    clients: IntArray
    max_samples: int | None = None
    timeout_ms: int | None = None


class Singles(Protocol):
    """Selections of one client each, prepared together because their keys are known beforehand."""

    @property
    def likely(self) -> IntArray:
        """Whom each would choose as things stood when they were prepared."""

    def choose(self, nth: int) -> int:
        """Whom the nth of them chooses as things stand; somebody must be idle."""


@dataclass(frozen=True, kw_only=True)
class Selector(Policy, ABC, Generic[S]):
    """Chooses clients: same state, view and key, same choice.

    Attributes:
        predictor: forecasts availability, for a selector that asks for forecasts.
    """

    predictor: Predictor[Any] | None = None

    #: Whether `feedback` must contain utilities; only then is training forced before a selection.
    needs_utility: ClassVar[bool] = False
    #: Whether `feedback` is told of a report at the very instant at which it arrives, one call each, instead of just
    #: before the next selection; each thing that happens is then an event of its own.
    prompt: ClassVar[bool] = False
    #: Whether `select` ignores state and history: feedback may then reach the selector later than the next selection.
    memoryless: ClassVar[bool] = False

    #: Whether `candidates` may name somebody; true of every class that defines it.
    asks: ClassVar[bool] = False
    #: Whether it is told of check-ins and check-outs, each at its instant; true of every class that defines
    #: `checked_in` or `checked_out`. Such a selector is `prompt`.
    hears: ClassVar[bool] = False
    #: Whether it asks `view.predictor`; only said of the selectors that evsim brings.
    forecasts: ClassVar[bool] = False
    #: Whether it looks at `view.declared_transfers_ms`.
    needs_transfers: ClassVar[bool] = False
    #: Whether it may choose fewer clients than are wanted and idle, but somebody if anybody is.
    may_choose_fewer: ClassVar[bool] = False

    @override
    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls.asks = cls.asks or "candidates" in vars(cls)
        cls.hears = cls.hears or not {"checked_in", "checked_out"}.isdisjoint(vars(cls))
        cls.prompt = cls.prompt or cls.hears

    @property
    def needs_training(self) -> bool:
        """Whether it learns from losses, of reports or of a query: then a run without training makes no sense."""
        return self.needs_utility or self.asks

    @abstractmethod
    def init(self, n_clients: int) -> S:
        """The state before anything happened."""

    @abstractmethod
    def select(self, state: S, view: ClientView, n: int, key: int) -> tuple[IntArray, S]:
        """Exactly min(n, view.n_idle) distinct idle clients, and the next state.

        `key` names this selection's randomness: use `rng.hash64(key, clients)` or `rng.stream(key)`.
        """

    @abstractmethod
    def feedback(self, state: S, reports: Outcomes) -> S:
        """Learn from reports, late ones and losses."""

    def candidates(self, state: S, view: ClientView, n: int, key: int) -> Query | None:
        """Whom to ask for the loss of the current model before `select`; None (most selectors): nobody.

        The server sends the query as tasks of kind "query", which cost bytes, computing and time on the clock and
        occupy the clients. When all have answered, are known to be lost, or the timeout is over, it calls `select`,
        and the view then holds the `Answers`.
        """
        return None

    def singles(self, view: ClientView, keys: list[int]) -> Singles | None:
        """Selections of one client with these keys, each the choice that `select` would make in its time.

        None (most selectors): there is nothing faster than `select`. For memoryless selectors only.
        """
        return None

    def checked_in(self, state: S, view: ClientView, clients: IntArray, at: IntArray) -> S:
        """Devices check in, each at its instant (ms); what they declare is in the view."""
        return state

    def checked_out(self, state: S, view: ClientView, clients: IntArray, at: IntArray) -> S:
        """Clients are seen to be gone, each at that instant (ms); of one that left at work, when its loss is known."""
        return state

    def told(self, state: S, view: ClientView, chosen: IntArray) -> Mapping[str, float | FloatArray]:
        """What `record.selector` keeps of the choice just made, by name: a number, or an array of one per client."""
        return {}
