"""Where the end of a task is entered in the accounts: which cohort it belongs to, and what becomes of it there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, final

import numpy as np

from evsim.base.vocabulary import BoolArray, IntArray, Outcome
from evsim.timeline.dispatch import QUERY
from evsim.timeline.fates import ARRIVES, LOST

if TYPE_CHECKING:
    from evsim.aggregation.base import Cohort
    from evsim.timeline.audience import Audience
    from evsim.timeline.feedback import FeedbackDesk
    from evsim.timeline.ledger import Ledger
    from evsim.timeline.port import ManagerPort
    from evsim.timeline.world import LearningPort

_OPEN, _AGGREGATED = int(Outcome.IN_FLIGHT), int(Outcome.AGGREGATED)
_DROPPED, _ABORTED = int(Outcome.DROPPED), int(Outcome.ABORTED)
#: What becomes of reports that are put into a step, by whether their updates are finite.
OF_USED = np.array([Outcome.INVALID, Outcome.AGGREGATED])
_OF_QUERY = np.array([Outcome.DROPPED, Outcome.ANSWERED, Outcome.ABORTED])  # by fate
_OF_LOSS = np.array([_DROPPED, -1, _ABORTED])  # by fate


@final
class Inbox:
    """What the ends of tasks mean to one aggregator process.

    Attributes:
        in_flight: tasks of training whose end it does not know.
        buffer: where reports go if it fills buffers.
        arrived: reports for buffers that it has not taken.
        kept: late reports that wait for its next step.
        n_heard: ends it heard of, ever.
    """

    def __init__(self) -> None:
        self.in_flight, self.n_heard = 0, 0
        self.buffer: Cohort | None = None
        self.arrived: list[int] = []
        self.kept: list[int] = []

    def fill(self, arrived: list[int], lost: int) -> None:
        """Reports for the buffer, and losses."""
        self.arrived += arrived
        if self.buffer is not None:
            self.buffer.lost += lost


@final
class Cohorts:
    """Hears the source `Endings`.

    Attributes:
        open: rounds and buffers with tasks whose end is not known, by number.
        inboxes: of aggregator processes, by name.
    """

    def __init__(
        self,
        ledger: Ledger,
        manager: ManagerPort,
        learning: LearningPort,
        feedback: FeedbackDesk,
        audience: Audience,
    ) -> None:
        self._ledger, self._manager, self._learning = ledger, manager, learning
        self._feedback, self._audience = feedback, audience
        self._one = manager.one_by_one
        self._prompt = manager.selector.prompt
        self._tells = audience.hears("reported") or audience.hears("stopped")
        self.open: dict[int, Cohort] = {}
        self.inboxes: dict[str, Inbox] = {}

    def hear(self, tasks: IntArray) -> None:
        """Ends of tasks that became known, in order."""
        clients = self._ledger.column("client", tasks)
        if self._tells:
            self._tell(tasks, clients)
        self._manager.release(clients)
        if len(tasks) == 1:
            self.enter(int(tasks[0]))
        else:
            self._many(tasks)

    def hear_one(self, task: int) -> None:
        """`hear` of one, without array overhead."""
        cell = self._ledger.cell
        client = cell("client", task)
        if self._tells and (fate := cell("fate", task)) != LOST:
            self._audience.happened_one(
                "reported" if fate == ARRIVES else "stopped", cell("known_at", task), task, client
            )
        if self._one is None:
            self._manager.release(np.array([client]))
        else:
            self._one.free(client)
        self.enter(task)

    def enter(self, task: int) -> None:
        """The end of one task, in the account of its cohort."""
        cell = self._ledger.cell
        fate = cell("fate", task)
        if cell("kind", task) == QUERY:
            self._ledger.set("outcome", np.array([task]), _OF_QUERY[fate])
            return
        cohort = self.open[cell("round", task)]
        inbox = self._forget(cohort, 1)
        if fate == ARRIVES:
            self._account(cohort, inbox, [task], 0)
        else:
            self._account(cohort, inbox, [], 1)
            self.resolve(np.array([task]), _DROPPED if fate == LOST else _ABORTED)

    def gave(self, cohort: Cohort, count: int) -> None:
        """A cohort has so many new tasks."""
        if cohort.round not in self.open:
            self.open[cohort.round] = cohort
        cohort.invited += count
        cohort.unknown += count
        self.inboxes[cohort.by].in_flight += count

    def stopped(self, tasks: IntArray, running: BoolArray) -> None:
        """The server stopped tasks whose end it did not know; those not running any more had been lost before."""
        self._manager.release(self._ledger.column("client", tasks))
        if self._audience.hears("stopped"):
            mine = tasks[running]
            if len(mine):
                self._audience.done("stopped", self._ledger.cell("ended_at", int(mine[0])), mine, self._clients(mine))
        for cohort, theirs in self._by_cohort(tasks):
            self._forget(cohort, int(np.count_nonzero(theirs)))
        self.resolve(tasks[running], _ABORTED)
        self.resolve(tasks[~running], _DROPPED)

    def resolve(self, tasks: IntArray, outcome: Any, at: int = -1) -> None:
        """Decide what became of tasks that will not be used, and tell the selector.

        `at`: the instant of the server's decision; -1: decided when the task's end became known.
        """
        if len(tasks):
            self._ledger.set("outcome", tasks, outcome)
            self._learning.discard(tasks.tolist())
            self._feedback.decided(tasks, outcome, at=at)

    # -- inside -----------------------------------------------------------------------------------------------------

    def _many(self, tasks: IntArray) -> None:
        fate = self._ledger.column("fate", tasks)
        is_query = self._ledger.column("kind", tasks) == QUERY
        if is_query.any():
            self._ledger.set("outcome", tasks[is_query], _OF_QUERY[fate[is_query]])
            tasks, fate = tasks[~is_query], fate[~is_query]
        gone = fate != ARRIVES
        self.resolve(tasks[gone], _OF_LOSS[fate[gone]])
        of_buffers = dict[str, BoolArray]()
        for cohort, mine in self._by_cohort(tasks):
            inbox = self._forget(cohort, int(np.count_nonzero(mine)))
            if inbox.buffer is None:
                self._account(cohort, inbox, tasks[mine & ~gone].tolist(), int(np.count_nonzero(mine & gone)))
            else:
                of_buffers[cohort.by] = of_buffers.get(cohort.by, np.False_) | mine
        for name, mine in of_buffers.items():  # reports of one instant stay in their order, whichever buffer began them
            self.inboxes[name].fill(tasks[mine & ~gone].tolist(), int(np.count_nonzero(mine & gone)))

    def _account(self, cohort: Cohort, inbox: Inbox, arrived: list[int], lost: int) -> None:
        """Some of a cohort's tasks arrived, and so many did not."""
        if inbox.buffer is not None:
            inbox.fill(arrived, lost)
        elif cohort.close_code == _OPEN:
            cohort.arrived += arrived
            cohort.lost += lost
            self._promptly(arrived)
        elif cohort.keep_late:
            inbox.kept += arrived
        else:
            self.resolve(np.array(arrived, np.int64), cohort.close_code)

    def _promptly(self, arrived: list[int]) -> None:
        """A prompt selector hears of a report that came in time at once, and again if it is not used after all."""
        if self._prompt and arrived:
            tasks = np.array(arrived)
            utility = self._learning.train(tasks).utility if self._manager.selector.needs_utility else None
            self._feedback.decided(tasks, _AGGREGATED, utility)

    def _forget(self, cohort: Cohort, ended: int) -> Inbox:
        inbox = self.inboxes[cohort.by]
        inbox.in_flight -= ended
        inbox.n_heard += ended
        cohort.unknown -= ended
        if cohort.unknown == 0:
            del self.open[cohort.round]
        return inbox

    def _by_cohort(self, tasks: IntArray) -> list[tuple[Cohort, BoolArray]]:
        """The cohorts of tasks, and which of the tasks are theirs."""
        if len(tasks) == 0:
            return []
        rounds = self._ledger.column("round", tasks)
        of_first = rounds == rounds[0]
        if of_first.all():  # nearly always, where rounds do not overlap
            return [(self.open[int(rounds[0])], of_first)]
        return [(self.open[number], rounds == number) for number in np.unique(rounds).tolist()]

    def _clients(self, tasks: IntArray) -> IntArray:
        return self._ledger.column("client", tasks)

    def _tell(self, tasks: IntArray, clients: IntArray) -> None:
        if len(tasks) == 1:
            fate_of_one = self._ledger.cell("fate", int(tasks[0]))
            if fate_of_one != LOST:
                fact = "reported" if fate_of_one == ARRIVES else "stopped"
                self._audience.happened(fact, self._ledger.column("known_at", tasks), tasks, clients)
            return
        fate, at = self._ledger.column("fate", tasks), self._ledger.column("known_at", tasks)
        arrives, stopped = fate == ARRIVES, fate > ARRIVES
        self._audience.happened("reported", at[arrives], tasks[arrives], clients[arrives])
        self._audience.happened("stopped", at[stopped], tasks[stopped], clients[stopped])
