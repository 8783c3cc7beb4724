"""The slot of forecasts: who will be there, as far as the server, or an oracle, can say.

A predictor is a frozen policy with explicit state. It hears of every check-in what a server could know: when it came,
and how long the client had been there the time before, which its device tells when it is back. It never hears of the
future. One that reads the trace is an oracle and says so in its name, in every scenario and in every manifest.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeVar, final

import numpy as np
from typing_extensions import override

from evsim.base.caveat import Caveat
from evsim.base.errors import PolicyError, require
from evsim.base.policy import Policy
from evsim.base.vocabulary import IntArray

if TYPE_CHECKING:
    from evsim.base.vocabulary import BoolArray, FloatArray
    from evsim.selection.base import ClientView

S = TypeVar("S")


class Forecasts(Protocol):
    """What a selector sees of a predictor, as `ClientView.predictor`."""

    def stays_online(self, clients: IntArray, start: int, stop: int) -> FloatArray:
        """Estimated probability that each client is online throughout [start, stop), in [0, 1]; instants in ms."""


class Trace(Protocol):
    """The part of an availability trace that an oracle reads."""

    def is_online(self, devices: IntArray, at: int) -> BoolArray:
        """Whether each device is online at an instant."""

    def online_until(self, devices: IntArray, at: int) -> IntArray:
        """The check-out that ends the interval of `at`, ms; only asked of devices online at `at`."""


@final
@dataclass(frozen=True, slots=True)
class Visits:
    """Check-ins, one entry each, in order, with what each device tells of the time it was there before; ms.

    Attributes:
        clients: client ids; one may come more than once.
        at: instant of the check-in.
        came_at: of the check-in before; -1 if this is the client's first.
        left_at: of the check-out between them; -1 likewise. The server may have known it late, or only now.
    """

    clients: IntArray
    at: IntArray
    came_at: IntArray
    left_at: IntArray


class Predictor(Policy, ABC, Generic[S]):
    """Forecasts availability: same state and view, same answer.

    As a selector's, its state is handed over: a method may change the arrays it was given and returns them.
    """

    #: Whether `init` gets the trace, the future included. Such a class must have Oracle in its name.
    reads_trace: ClassVar[bool] = False
    #: Whether `checked_in` is of any use to it; true of every class that defines it.
    hears: ClassVar[bool] = False

    @override
    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls.hears = cls.hears or "checked_in" in vars(cls)
        if cls.reads_trace and "oracle" not in cls.__name__.lower():
            raise PolicyError(
                f"{cls.__name__} reads the trace, the future included, as no server can; expected a class that says "
                f"so: call it {cls.__name__}Oracle"
            )

    @abstractmethod
    def init(self, n_clients: int, trace: Trace | None) -> S:
        """The state before anybody checked in; `trace`, by client and virtual time, is None unless it `reads_trace`."""

    def checked_in(self, state: S, visits: Visits) -> S:
        """Learn from check-ins; told before the next selection, in the order of their instants."""
        return state

    @abstractmethod
    def stays_online(self, state: S, view: ClientView, clients: IntArray, start: int, stop: int) -> FloatArray:
        """Estimated probability that each client is online throughout [start, stop), in [0, 1]; instants in ms."""


@final
@dataclass(frozen=True, kw_only=True)
class Oracle(Predictor[Any]):
    """Knows the future, as no server does: an upper bound for what forecasts can bring (REFL's perfect predictor)."""

    reads_trace: ClassVar[bool] = True

    @override
    def init(self, n_clients: int, trace: Trace | None) -> Trace:
        if trace is None:
            raise PolicyError("an oracle needs a trace to read; give the client manager the availability")
        return trace

    @override
    def stays_online(self, state: Trace, view: ClientView, clients: IntArray, start: int, stop: int) -> FloatArray:
        """1.0 for those that do stay, 0.0 for the others."""
        there = state.is_online(clients, start)
        stays = np.zeros(len(clients))
        stays[there] = state.online_until(clients[there], start) >= stop
        return stays

    @override
    def caveats(self, scenario: Any) -> Iterator[Caveat]:
        yield Caveat(
            "oracle",
            "the selector knows the future: its forecasts are read from the trace",
            "selection.predictor = oracle",
            "take it as an upper bound, and compare with daily",
        )


@final
@dataclass(frozen=True, kw_only=True)
class Constant(Predictor[None]):
    """Every client with the same chance: the null forecast to compare a real one with.

    Attributes:
        probability: of staying online, for everybody and any time.
    """

    probability: float = 1.0

    def __post_init__(self) -> None:
        chance = self.probability
        require(0 <= chance <= 1, "probability must lie in [0, 1]", probability=chance)

    @override
    def init(self, n_clients: int, trace: Trace | None) -> None:
        return None

    @override
    def stays_online(self, state: None, view: ClientView, clients: IntArray, start: int, stop: int) -> FloatArray:
        return np.full(len(clients), self.probability)


@final
@dataclass(frozen=True, kw_only=True)
class NoForecast(Predictor[None]):
    """No forecast at all: what a scenario means that names no predictor. `view.predictor` is None."""

    @override
    def init(self, n_clients: int, trace: Trace | None) -> None:
        return None

    @override
    def stays_online(self, state: None, view: ClientView, clients: IntArray, start: int, stop: int) -> FloatArray:
        raise PolicyError("there is no predictor; set selection.predictor, such as to daily")
