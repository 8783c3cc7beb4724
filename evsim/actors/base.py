"""The slot of actors: processes beside the aggregator that change the world.

An actor is a frozen policy whose `run` is a SimPy process of its own. It acts through a `Stage`: it cuts devices or
links, takes the server down, and reads how long devices worked. What it does at an instant happens before everything
that follows from it, and the tasks it concerns are looked at again. It is no part of the server: neither aggregator nor
selector hears of it, save by what becomes of their tasks.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from evsim.base.policy import Policy
from evsim.base.vocabulary import BoolArray, IntArray

T = TypeVar("T")
Process = Generator[Any, Any, T]  # yields SimPy events, returns T


class Meter(Protocol):
    """How long devices worked, from one reading to the next."""

    def read(self) -> IntArray:
        """Ms since the last reading that each client downloaded, computed and uploaded, (3, n_clients)."""


class Stage(Protocol):
    """What an actor sees and may do; times in ms. Ids of clients come as arrays without repetitions."""

    @property
    def now(self) -> int:
        """The current instant."""

    @property
    def start_ms(self) -> int:
        """Time of day at which virtual time 0 falls."""

    @property
    def seed(self) -> int:
        """Of the scenario: actors draw by names, with `evsim.base.rng`."""

    @property
    def n_clients(self) -> int:
        """Size of the population."""

    @property
    def finished(self) -> bool:
        """Whether the run is over."""

    def until(self, at: int) -> Process[None]:
        """Sleep until an instant; to be used with ``yield from``.

        Raises:
            PolicyError: if the instant is in the past.
        """

    def online(self) -> BoolArray:
        """Who is reachable now, a flag for each client."""

    def online_by_trace(self) -> BoolArray:
        """Who would be reachable if no actor had done anything."""

    def at_work(self) -> IntArray:
        """The clients that have a task at work."""

    # what it may change, from now on

    def cut_devices(self, clients: IntArray, until: int | None) -> None:
        """These devices are away until an instant, or until they are restored; a task of theirs is lost.

        A device that is away already stays away until the later one.
        """

    def restore_devices(self, clients: IntArray) -> None:
        """These devices are away no longer; whether they are online is again what their trace says."""

    def cut_links(self, clients: IntArray, until: int) -> None:
        """Transfers of these devices stand still until an instant; they stay online, and compute."""

    def take_down(self, until: int, *, keep: bool) -> None:
        """The server is down until an instant: it decides nothing, sends nothing, hears nothing.

        `keep`: transfers stand still and go on afterwards; else the tasks at work are stopped, and it knows when it is
        up again.
        """

    def meter(self) -> Meter:
        """A meter of the time devices work, read from now on."""

    # what it leaves behind

    def at_end(self, call: Callable[[], None]) -> None:
        """Call this when the run is over, before the tables are written."""

    def record(self, table: str, columns: Mapping[str, Any]) -> None:
        """Rows of a table of the run folder."""


class Actor(Policy, ABC):
    """One way in which the world changes."""

    @abstractmethod
    def run(self, stage: Stage) -> Process[None]:
        """The actor's process; it may return when it has nothing more to do."""


def named(actors: Sequence[Actor]) -> dict[str, Callable[[Stage], Process[None]]]:
    """The processes of actors, each under a name of its own."""
    found: dict[str, Callable[[Stage], Process[None]]] = {}
    for actor in actors:
        name = type(actor).__name__.lower()
        same = sum(each.partition(" ")[0] == name for each in found)
        found[f"{name} {same + 1}" if same else name] = actor.run
    return found
