"""The port for a client manager: all that the timeline asks of whoever keeps the clients.

`ClientManager` satisfies it. Nothing in the timeline reaches past it, so another class can stand in its place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from evsim.base.vocabulary import FloatArray
from evsim.selection.base import ClientView

if TYPE_CHECKING:
    from collections.abc import Callable

    from evsim.base.vocabulary import BoolArray, IntArray
    from evsim.selection.base import Answers, Outcomes, Query, Selector

#: What a selector says of its choice, by name: 0-dim, or one number per chosen client.
Told = dict[str, FloatArray]


class OneByOne(Protocol):
    """What a client manager does to one client, in plain numbers."""

    #: Called with those that are likely to be chosen next, one at a time.
    on_likely: Callable[[IntArray], None]

    @property
    def n_idle(self) -> int:
        """How many clients are idle."""

    @property
    def chooses(self) -> bool:
        """Whether there is `choose`: of a selector that is memoryless and has `Selector.singles`."""

    def check_in(self, client: int, at: int) -> None:
        """A device that registered before checks in."""

    def check_out(self, client: int) -> None:
        """A device checks out."""

    def occupy(self, client: int) -> None:
        """`assign` of one client."""

    def free(self, client: int) -> None:
        """`release` of one client."""

    def choose(self, now: int, number: int) -> int:
        """`select_clients` of one client; somebody must be idle."""


class ManagerPort(ClientView, Protocol):
    """Who is registered, online, idle and busy; hears what happens, and chooses.

    Clients are ids from 0 to n_clients - 1 in arrays of int64, instants are ms. It is also the `ClientView` that
    selectors and aggregators look at. A plain class, such as FedScale's client manager, needs none of this: it
    is driven as a selector (`selection/plain.py`), and `ClientManager` keeps its books.
    A class in the place of `ClientManager`

    - keeps who is online and who is busy (`assign`, `release`), since only those online and not busy are idle;
    - shows as its `selector` what the timeline asks of one before it tells it anything: `prompt` (feedback at each
      report's instant), `memoryless` (feedback whenever there is time), `needs_utility` (a loss with each report) and
      `asks` (whether `candidates` may name clients to query).

    Only `select_clients` and `candidates` may draw; the same calls must give the same choice.
    """

    @property
    def selector(self) -> Selector[Any]:
        """Who chooses; the timeline reads only how it wants to be told."""

    @property
    def one_by_one(self) -> OneByOne | None:
        """The same for one client at a time; None, as of most classes: there is nothing faster than arrays of one."""

    @property
    def told(self) -> Told:
        """What the selector said of the selection that was made last; {} unless it is asked."""

    @property
    def needs_transfers(self) -> bool:
        """Whether it wants to hear how long transfers of each device class take."""

    # what happens by itself

    def register_client(
        self,
        clients: IntArray,
        now: int | IntArray,
        samples: IntArray | None = None,
        declared_ms: FloatArray | None = None,
        transfers_ms: FloatArray | None = None,
    ) -> None:
        """Devices check in, each at its instant, and declare their data size and their class's task duration.

        `transfers_ms`, (clients, 2), is download and upload of it, where `needs_transfers`.
        """

    def deregister_client(self, clients: IntArray, now: int | IntArray) -> None:
        """Devices check out; whether one of them works is not told."""

    def observe(self, clients: IntArray, check_in: BoolArray, at: int | IntArray) -> None:
        """Check-ins of devices that registered before, and check-outs, in order; a client may come more than once."""

    # what the server does

    def assign(self, clients: IntArray, *, counted: bool = True) -> None:
        """Clients were given a task; a query is not counted as being selected."""

    def release(self, clients: IntArray) -> None:
        """The end or the loss of these clients' tasks became known."""

    def register_feedback(self, reports: Outcomes) -> None:
        """What became of tasks, in the order in which it was decided."""

    # selection

    def n_idle_among(self, among: BoolArray | None) -> int:
        """How many of some clients are idle, a flag for each client; None: of all."""

    def candidates(
        self, n: int, now: int, number: int | None = None, *, who: str = "", among: BoolArray | None = None
    ) -> Query | None:
        """Whom to query before n clients are chosen; asked only where the selector `asks`."""

    def register_answers(self, answers: Answers) -> None:
        """What the queried clients answered; for the next selection."""

    def select_clients(
        self, n: int, now: int, number: int | None = None, *, who: str = "", among: BoolArray | None = None
    ) -> IntArray:
        """Min(n, idle) distinct idle clients, for the round `number` of the aggregator process `who`."""
