"""The client manager: who is registered, online, idle and busy, as the server knows it.

A device's check-out while it works is invisible: the manager shows only idle clients, and a client is idle when it is
online and has no task whose end the server still waits for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, final

import numpy as np

from evsim.base import rng
from evsim.base.errors import PolicyError, Problem, report
from evsim.base.user_code import user_code
from evsim.selection.base import NO_ANSWERS, Selector
from evsim.timeline.books import COUNTED, Books
from evsim.timeline.forecasting import forecasting

if TYPE_CHECKING:
    from collections.abc import Callable

    from evsim.base.vocabulary import BoolArray, FloatArray, IntArray
    from evsim.selection.base import Answers, ClientView, Outcomes, Query, Singles
    from evsim.selection.forecast import Forecasts, Trace
    from evsim.timeline.forecasting import Forecasting
    from evsim.timeline.port import OneByOne, Told

T = TypeVar("T", bound=np.generic)

_INT64 = np.dtype(np.int64)
_PREPARED = 64  # selections of one client, prepared together


@final
class ClientManager(Books):
    """Registers clients, hears what became of their tasks, and selects (FedScale's client manager, bulk by design).

    Every method takes arrays, one call per instant or per window; costs are proportional to the arrays. The manager is
    also the `ClientView` that selectors see.

    >>> from evsim.selection.uniform import Uniform
    >>> manager = ClientManager(Uniform(), n_clients=4, seed=0)
    >>> manager.register_client(np.array([0, 2, 3]), now=5, samples=np.array([10, 10, 30]))
    >>> sorted(manager.select_clients(8, now=5).tolist())
    [0, 2, 3]

    Args:
        selector: who chooses.
        n_clients: the size of the whole population.
        seed: of its draws.
        trace: when each client is online; only an oracle reads it.
        asks_why: whether the selector is asked what it says of each choice.
    """

    def __init__(
        self,
        selector: Selector[Any],
        n_clients: int,
        seed: int,
        trace: Trace | None = None,
        *,
        asks_why: bool = False,
    ) -> None:
        super().__init__(n_clients)
        self.selector = selector
        self._hears, self._asks_why = selector.hears, asks_why
        self.told: Told = {}
        self._forecasting: Forecasting | None = forecasting(selector.predictor, self, n_clients, trace)
        self._learns_visits = self._forecasting is not None and self._forecasting.hears
        self._left_unseen: set[int] = set()  # clients that checked out at work, for a selector that hears
        self._seed = seed
        self._draws: dict[str, _Draws] = {}  # by the name of who selects
        self._state = selector.init(n_clients)
        if self.needs_transfers:
            self._declared_transfers_ms = np.full((n_clients, 2), np.nan)
        self.on_likely: Callable[[IntArray], None] = lambda clients: None
        self.answers: Answers | None = None
        if self._forecasting is not None:
            self._forecasting.look_at_nothing(n_clients)

    @property
    def needs_transfers(self) -> bool:
        """Whether the selector looks at declared transfers."""
        return self.selector.needs_transfers

    # -- what the timeline tells ------------------------------------------------------------------------------------

    def register_client(
        self,
        clients: IntArray,
        now: int | IntArray,
        samples: IntArray | None = None,
        declared_ms: FloatArray | None = None,
        transfers_ms: FloatArray | None = None,
    ) -> None:
        """Devices check in, each at its instant; they may declare their data size and their class's task duration."""
        self._check_ids("register_client", clients)
        if samples is not None:
            self._samples[clients] = samples
        if declared_ms is not None:
            self._declared_ms[clients] = declared_ms
        if transfers_ms is not None and self.needs_transfers:
            self._declared_transfers_ms[clients] = transfers_ms
        self._online_since[clients] = now
        self._set_online(clients, np.True_)
        if self._hears or self._learns_visits:
            self._tell(clients, np.ones(len(clients), np.bool_), now)

    def deregister_client(self, clients: IntArray, now: int | IntArray) -> None:
        """Devices check out; unseen for those with a task, until its end or loss becomes known."""
        self._check_ids("deregister_client", clients)
        self._set_online(clients, np.False_)
        if self._hears or self._learns_visits:
            self._tell(clients, np.zeros(len(clients), np.bool_), now)

    def observe(self, clients: IntArray, check_in: BoolArray, at: int | IntArray) -> None:
        """Check-ins and check-outs of a window, in order, each at its instant: the last of a client counts."""
        instants = at if isinstance(at, np.ndarray) else np.full(len(clients), at, np.int64)
        self._online_since[clients[check_in]] = instants[check_in]
        self._set_online(clients, check_in)
        if self._hears or self._learns_visits:
            self._tell(clients, check_in, instants)

    def register_feedback(self, reports: Outcomes) -> None:
        """What became known of tasks: reports, late reports, losses."""
        self._check_ids("register_feedback", reports.clients)
        self._remember(reports)
        self._state = self.selector.feedback(self._state, reports)
        if self._left_unseen:
            self._tell_of_the_missing(reports)

    # -- selection --------------------------------------------------------------------------------------------------

    def candidates(
        self, n: int, now: int, number: int | None = None, *, who: str = "", among: BoolArray | None = None
    ) -> Query | None:
        """Whom the selector wants to query before it can choose n clients; None: nobody, select at once."""
        self._look(now, number, among)
        self.answers = None
        draws = self._draws.get(who) or self._new_draws(who)
        query = self.selector.candidates(self._state, self, n, draws.candidates(draws.count))
        if query is not None:
            self._check_choice("candidates", query.clients, len(query.clients))
            self.answers = NO_ANSWERS  # asked, and nothing heard yet
        self._look_at_all()
        return query

    def register_answers(self, answers: Answers) -> None:
        """What the queried clients answered; serves the next selection only."""
        self._check_ids("register_answers", answers.clients)
        self.answers = answers

    def select_clients(
        self, n: int, now: int, number: int | None = None, *, who: str = "", among: BoolArray | None = None
    ) -> IntArray:
        """Min(n, idle) distinct idle clients, chosen by the selector.

        Args:
            n: clients wanted.
            now: the instant, ms.
            number: of the server's round that they are for; several selections may be for one. None: each selection
                is a round of its own.
            who: the aggregator that selects; each has draws of its own.
            among: a flag per client: who may be chosen; None: everybody.

        Raises:
            PolicyError: if the selector breaks its contract.
        """
        self._look(now, number, among)
        draws = self._draws.get(who) or self._new_draws(who)
        clients, self._state = self.selector.select(self._state, self, n, draws.select(draws.count))
        self._check_choice("select", clients, min(n, self.n_idle))
        if self._asks_why:
            self.told = self._said_of(clients)
        if among is not None:
            self._look_at_all()
        self.answers = None
        draws.count += 1
        self.round += number is None
        return clients

    # -- one client at a time: `OneByOne` of the port -----------------------------------------------------------------

    @property
    def one_by_one(self) -> OneByOne | None:
        """Itself, unless somebody wants to be told of each check-in."""
        return None if self._hears or self._learns_visits else self

    @property
    def chooses(self) -> bool:
        """Whether its selector can `choose`."""
        return self.selector.memoryless and self.selector.singles(self, []) is not None

    def choose(self, now: int, number: int) -> int:
        """`select_clients` of one client; somebody must be idle."""
        self.now, self.round = now, number
        draws = self._draws.get("") or self._new_draws("")
        singles, nth = draws.prepared(self.selector, self, self.on_likely)
        client = singles.choose(nth)
        if not self._one_idle[client]:
            self._check_choice("singles", np.array([client]), 1)
        draws.count += 1
        return client

    @property
    def predictor(self) -> Forecasts | None:
        """Forecasts of availability, if there is a predictor."""
        return self._forecasting

    # -- inside -----------------------------------------------------------------------------------------------------

    def _said_of(self, chosen: IntArray) -> Told:
        """What the selector says of its choice, in float64; arrays have one entry per chosen client."""
        name = f"{type(self.selector).__name__}.told"
        with user_code(PolicyError, slot="selection", cls=self.selector, step="told"):
            said = self.selector.told(self._state, self, chosen)
            found = {str(key): np.asarray(value, np.float64) for key, value in said.items()}
        for key, value in found.items():
            if value.shape not in ((), chosen.shape):
                expected = f"a number, or an array of {len(chosen)}, one for each chosen client"
                raise PolicyError(report([Problem(name, f"{key!r}: an array of shape {value.shape}", expected)]))
        return found

    def _tell(self, clients: IntArray, check_in: BoolArray, at: int | IntArray) -> None:
        """Check-ins and check-outs for those who hear of them; nobody sees a client go that is at work."""
        instants = np.broadcast_to(np.asarray(at, np.int64), clients.shape)
        if self._forecasting is not None and self._learns_visits:
            self._forecasting.hear(clients, check_in, instants)
        if not self._hears:
            return
        for client, inwards, instant in zip(clients.tolist(), check_in.tolist(), instants.tolist(), strict=True):
            who, when = np.array([client]), np.array([instant])
            if inwards:
                self._left_unseen.discard(client)
                self._state = self.selector.checked_in(self._state, self, who, when)
            elif self._one_busy[client]:
                self._left_unseen.add(client)
            else:
                self._state = self.selector.checked_out(self._state, self, who, when)

    def _tell_of_the_missing(self, reports: Outcomes) -> None:
        """A client whose loss became known left before, at work."""
        for client, at in zip(reports.clients.tolist(), reports.at.tolist(), strict=True):
            if client in self._left_unseen and not self._one_busy[client]:
                self._left_unseen.discard(client)
                self._state = self.selector.checked_out(self._state, self, np.array([client]), np.array([at]))

    def _new_draws(self, who: str) -> _Draws:
        self._draws[who] = _Draws(self._seed, who)
        return self._draws[who]

    def _check_choice(self, where: str, clients: IntArray, wanted: int) -> None:
        """A selector written by others may be wrong; a wrong choice would break the timeline much later."""
        if wanted == 1 and self._is_one_idle(clients):
            return
        name = f"{type(self.selector).__name__}.{where}"
        fewer = self.selector.may_choose_fewer and where == "select"
        fault = self._fault(clients, wanted, min(wanted, 1) if fewer else wanted)
        if fault:
            expected = f"{wanted} distinct idle clients as an array of int64"
            hint = "evsim.testing.selectors.SelectorContract tests a selector for this"
            raise PolicyError(report([Problem(name, fault, expected, hint)]))

    def _is_one_idle(self, clients: IntArray) -> bool:
        """Whether `_fault` would find nothing in a choice of one client, without array overhead."""
        if not isinstance(clients, np.ndarray) or clients.dtype != _INT64 or clients.shape != (1,):
            return False
        client = int(clients[0])
        return 0 <= client < self.n_clients and self.is_idle_one(client)

    def _fault(self, clients: IntArray, wanted: int, least: int) -> str:
        if not isinstance(clients, np.ndarray) or clients.dtype != np.int64 or clients.ndim != 1:
            return f"returned {type(clients).__name__} {getattr(clients, 'dtype', '')}".rstrip()
        if not least <= len(clients) <= wanted:
            return f"returned {len(clients)} clients"
        if len(clients) and not (clients.min() >= 0 and clients.max() < self.n_clients):
            return "returned an id that does not exist"
        idle = self.is_idle(clients)
        if not idle.all():
            return f"returned client {int(clients[~idle][0])}, which is not idle"
        if len(clients) > 1 and self._count_distinct(clients) != len(clients):
            return "returned a client twice"
        return ""

    def _count_distinct(self, clients: IntArray) -> int:
        if self.n_clients > COUNTED * len(clients):
            return len(np.unique(clients))
        chosen = np.zeros(self.n_clients, np.bool_)  # flags are faster than sorting where many are chosen
        chosen[clients] = True
        return int(np.count_nonzero(chosen))


@final
class _Draws:
    """Names the draws of one aggregator's selections by how many it made: keys of `select` and `candidates`."""

    def __init__(self, seed: int, who: str) -> None:
        names = [who] if who else []
        self.select, self.candidates = (rng.numbered(seed, word, *names) for word in ("select", "candidates"))
        self.count = 0
        self._singles: Singles | None = None
        self._prepared = range(0)

    def prepared(
        self, selector: Selector[Any], view: ClientView, on_likely: Callable[[IntArray], None]
    ) -> tuple[Singles, int]:
        """Selections of one client, and which of them is the next; of a selector that has them."""
        if self.count not in self._prepared or self._singles is None:
            self._prepared = range(self.count, self.count + _PREPARED)
            self._singles = selector.singles(view, [self.select(count) for count in self._prepared])
            assert self._singles is not None  # noqa: S101  asked only of those that have them
            on_likely(self._singles.likely)
        return self._singles, self.count - self._prepared.start
