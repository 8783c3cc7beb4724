"""What actors see and change: `actors.base.Stage` on a live server."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any, final

import numpy as np

from evsim.actors.base import Process
from evsim.base.errors import EvsimError, PolicyError
from evsim.base.units import FOREVER
from evsim.base.user_code import blame
from evsim.base.vocabulary import BoolArray, IntArray, Rank

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from evsim.actors.base import Meter
    from evsim.timeline.absences import MovingSessions, Presence
    from evsim.timeline.moving import MovingDispatcher
    from evsim.timeline.server import LiveServer

_EVERYBODY = -1


@final
class LiveStage:
    """The stage of one actor.

    Args:
        server: what it acts on.
        dispatcher: its tasks.
        sessions, presence: its devices.
        name: of the actor, as tables write it.
    """

    def __init__(
        self,
        server: LiveServer,
        dispatcher: MovingDispatcher,
        sessions: MovingSessions,
        presence: Presence,
        name: str,
    ) -> None:
        self._server, self._dispatcher = server, dispatcher
        self._sessions, self._presence, self._name = sessions, presence, name
        self._clock, self._pricing = server.clock, server.world.pricing

    @property
    def now(self) -> int:
        """The current instant."""
        return self._clock.now

    @property
    def start_ms(self) -> int:
        """Time of day at which virtual time 0 falls."""
        return self._pricing.start_ms

    @property
    def seed(self) -> int:
        """Of the scenario."""
        return self._server.world.seed

    @property
    def n_clients(self) -> int:
        """Size of the population."""
        return len(self._server.world.samples)

    @property
    def finished(self) -> bool:
        """Whether the run is over."""
        return self._server.finished

    def until(self, at: int) -> Process[None]:
        """Sleep until an instant, before everything that follows from what happens at it."""
        yield self._clock.at(at, Rank.WORLD) if at < FOREVER else self._clock.forever()

    def online(self) -> BoolArray:
        """Who is reachable now."""
        return self._presence.is_online(np.arange(self.n_clients), self.now)

    def online_by_trace(self) -> BoolArray:
        """Who would be, if no actor had done anything."""
        return self._presence.trace.is_online(np.arange(self.n_clients), self.now)

    def at_work(self) -> IntArray:
        """The clients that have a task at work."""
        tasks = np.array(sorted(self._dispatcher.transfers.at_work()), np.int64)
        return self._server.ledger.column("client", tasks)

    # -- changes ----------------------------------------------------------------------------------------------------

    def cut_devices(self, clients: IntArray, until: int | None) -> None:
        """These devices are away until an instant, or until they are restored."""
        clients, end = self._checked(clients), FOREVER if until is None else self._later(until)
        self._catch_up()
        self._sessions.keep_away(clients, self.now, end)
        self._dispatcher.devices_changed(clients, leave=True)
        self._record("device", clients, end)
        self._server.agenda.changed()

    def restore_devices(self, clients: IntArray) -> None:
        """These devices are away no longer."""
        clients = self._checked(clients)
        self._catch_up()
        back = self._sessions.let_back(clients, self.now)
        if len(back):
            self._dispatcher.devices_changed(back, leave=False)
            self._record("device back", back, self.now)
            self._server.agenda.changed()

    def cut_links(self, clients: IntArray, until: int) -> None:
        """Transfers of these devices stand still until an instant."""
        clients, until = self._checked(clients), self._later(until)
        self._catch_up()
        self._dispatcher.hold_links(clients, until)
        self._record("link", clients, until)

    def take_down(self, until: int, *, keep: bool) -> None:
        """The server is down until an instant."""
        until = self._later(until)
        self._catch_up()
        self._server.down_until(until)
        self._dispatcher.server_down(until, keep=keep)
        self._record("outage", np.array([_EVERYBODY]), until)
        self._server.agenda.changed()

    def meter(self) -> Meter:
        """A meter of the time devices work."""
        return self._dispatcher.transfers.meter()

    # -- what is left behind ----------------------------------------------------------------------------------------

    def at_end(self, call: Callable[[], None]) -> None:
        """Call this when the run is over."""
        self._server.at_end.append(call)

    def record(self, table: str, columns: Mapping[str, Any]) -> None:
        """Rows of a table of the run folder."""
        self._server.world.rows.append(table, columns)

    # -- inside -----------------------------------------------------------------------------------------------------

    def _catch_up(self) -> None:
        """Everything before this instant has happened, and what ends at it by itself has ended."""
        self._server.agenda.catch_up()
        self._dispatcher.transfers.catch_up()

    def _record(self, what: str, clients: IntArray, until: int) -> None:
        n = len(clients)
        if n:
            self.record(
                "changes",
                {
                    "at": np.full(n, self.now, np.int64),
                    "until": np.full(n, until if until < FOREVER else -1, np.int64),
                    "what": [what] * n,
                    "client": clients,
                    "by": [self._name] * n,
                },
            )

    def _later(self, until: int) -> int:
        if not self.now < until < FOREVER:
            raise PolicyError(
                f"actor {self._name}: until {until} ms, but it is {self.now} ms; expected a later instant"
            )
        return int(until)

    def _checked(self, clients: IntArray) -> IntArray:
        found = np.asarray(clients)
        good = found.ndim == 1 and (len(found) == 0 or (found.dtype.kind in "iu" and found.min() >= 0))
        if not good or (len(found) and found.max() >= self.n_clients):
            raise PolicyError(
                f"actor {self._name}: clients {clients!r}; expected an array of ids from 0 to {self.n_clients - 1}"
            )
        return np.unique(found).astype(np.int64)


def acting(run: Callable[[Any], Process[None]], stage: LiveStage, name: str) -> Process[None]:
    """An actor's process; an error of a user's own is told with its name and its lines.

    Raises:
        PolicyError: if the actor raises, or is no generator.
    """
    try:
        process: Any = run(stage)
        _check(process, name)
        yield from process
    except EvsimError:
        raise
    except Exception as error:  # an actor is others' code and may raise anything
        raise PolicyError(blame(error, slot="actor", cls=name, details={"at": f"{stage.now} ms"})) from error


def _check(process: object, name: str) -> None:
    if not isinstance(process, Generator):
        raise PolicyError(f"actor {name}: run gave {process!r}; expected a generator, a function with yield in it")
