"""Tasks in a world that moves: each phase begins when the one before it has really ended.

Where links are shared, or actors change the world, the end of a task cannot be known when it is given. It is then
entered into the calendar of ends when it has come: the last byte has arrived, the device has left, or the server's
patience is over. Until then the ledger says what would become of it if it never ended: it is lost when its device
leaves, or goes on for ever.
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING, final

import numpy as np

from evsim.base.units import FOREVER
from evsim.base.vocabulary import Rank
from evsim.timeline.fates import ARRIVES
from evsim.timeline.flows import Broken, Flows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from evsim.base.vocabulary import BoolArray, IntArray
    from evsim.cost.network import Way
    from evsim.cost.pricing import Pricing
    from evsim.timeline.clock import Clock
    from evsim.timeline.flows import Ended
    from evsim.timeline.ledger import Ledger

_PHASE_ENDS, _COMPUTED, _GONE = range(3)  # what is due
_DOWNLOAD, _COMPUTE, _UPLOAD = range(3)  # where a task stands
_PHASE = ("download_ms", "compute_ms", "upload_ms")


@final
class Transfers:
    """Moves the tasks at work through their phases.

    Args:
        clock: virtual time.
        ledger: tasks; their phases are set to what they really were.
        pricing: rates, jitter, the network.
        arrived: told which tasks' reports arrive at this instant.
        gone: told which tasks ended otherwise, as the ledger had it.
    """

    def __init__(
        self,
        clock: Clock,
        ledger: Ledger,
        pricing: Pricing,
        arrived: Callable[[IntArray], None],
        gone: Callable[[IntArray], None],
    ) -> None:
        self._clock, self._ledger, self._pricing = clock, ledger, pricing
        self._arrived, self._gone = arrived, gone
        ways: tuple[Way, Way] = ("download", "upload")
        self._flows = {way: Flows(way, pricing.network, pricing.start_ms) for way in ways}
        self._uploads: dict[int, tuple[int, float, float, float]] = {}  # client, own rate, alone ms, latency
        self._stands: dict[int, tuple[int, int]] = {}  # task at work -> its phase, and since when
        self._due: list[tuple[int, int, int]] = []  # heap of (when, what, task)
        self._certain: dict[int, Ended] = {}  # transfers of which only the latency is left
        self._shares: dict[int, float] = {}  # of the transfer in which a task was broken off
        self._armed = FOREVER
        self._late: list[int] = []  # transfers that would have ended while the links of their clients stood still
        self._meters: list[WorkMeter] = []
        self._held = np.zeros(pricing.speed.n_devices, np.bool_)  # clients whose links stand still

    @property
    def busy(self) -> bool:
        """Whether a task is at work."""
        return bool(self._stands)

    def begin(self, tasks: IntArray) -> None:
        """New tasks: their downloads begin."""
        now, column, pricing = self._clock.now, self._ledger.column, self._pricing
        clients, nth = column("client", tasks), column("nth", tasks)
        latency = pricing.speed.latency_ms[clients]
        down, up = pricing.links(clients, nth, (column("bytes_down", tasks), column("bytes_up", tasks)))
        ids = tasks.tolist()
        uploads = zip(clients.tolist(), up[0].tolist(), up[1].tolist(), latency.tolist(), strict=True)
        self._uploads.update(zip(ids, uploads, strict=True))
        for task, ended in zip(ids, column("ended_at", tasks).tolist(), strict=True):
            self._stands[task] = (_DOWNLOAD, now)
            if ended < FOREVER:
                heapq.heappush(self._due, (ended, _GONE, task))
        self._flows["download"].begin(now, (tasks, clients, *down, latency), self._held[clients])
        self._arm()

    def ends_moved(self, tasks: IntArray) -> None:
        """The ledger has other ends for tasks at work than it had: those that are lost or stopped."""
        for task, ended in zip(tasks.tolist(), self._ledger.column("ended_at", tasks).tolist(), strict=True):
            if ended < FOREVER:
                heapq.heappush(self._due, (ended, _GONE, task))
        self._arm()

    def stopped(self, tasks: IntArray) -> None:
        """The server stopped tasks now, or knew their ends already."""
        for task in tasks.tolist():
            self._break_off(task, self._clock.now)
        self._arm()

    def hold(self, clients: BoolArray, *, held: bool) -> None:
        """The links of some clients, a flag each, stand still from now on, or go on."""
        self._held = self._held | clients if held else self._held & ~clients
        for flows in self._flows.values():
            flows.hold(clients, held)
        late, self._late = self._late, []
        for task in late:
            heapq.heappush(self._due, (self._clock.now, _PHASE_ENDS, task))
        if late and not held:
            self._now(self._clock.now)
        self._arm()

    def at_work(self) -> Iterable[int]:
        """The tasks at work."""
        return self._stands.keys()

    def meter(self) -> WorkMeter:
        """A meter of the time that clients work, read from now on."""
        meter = WorkMeter(self._clock, self._pricing.speed.n_devices, self._client_phases)
        self._meters.append(meter)
        return meter

    def catch_up(self) -> None:
        """What ends at this instant by itself has ended: somebody is going to change what happens from now on."""
        self._now(self._clock.now)
        self._arm()

    def freeze(self) -> None:
        """The run is over: note how far everybody came."""
        now = self._clock.now
        for task in list(self._stands):
            self._break_off(task, now)

    def moved(self, size: str, rows: Mapping[str, IntArray], begin: IntArray, spent: IntArray) -> IntArray:
        """Bytes that transfers had moved when they were broken off; see `Ledger.release`."""
        share = np.array([self._shares.pop(task, np.nan) for task in rows["task"].tolist()])
        planned = rows["download_ms" if size == "bytes_down" else "upload_ms"]
        even = rows[size] * spent // np.maximum(planned, 1)
        return np.where(np.isnan(share), even, np.floor(rows[size] * np.clip(share, 0, 1))).astype(np.int64)

    # -- inside -----------------------------------------------------------------------------------------------------

    def _arm(self) -> None:
        """Wake when something may happen; waking too early finds nothing."""
        now, due = self._clock.now, self._due
        while due and due[0][2] not in self._stands:
            heapq.heappop(due)
        first = min(flows.next(now) for flows in self._flows.values())
        at = min(due[0][0] if due else FOREVER, FOREVER if first == np.inf else int(first))
        if at < self._armed:
            self._armed = at
            self._clock.call(at, Rank.WORLD, lambda: self._happens(at))

    def _happens(self, at: int) -> None:
        if at != self._armed:
            return  # an earlier one took its place, and saw to this
        self._armed = FOREVER
        self._now(at)
        self._arm()

    def _now(self, at: int) -> None:
        arrived: list[int] = []
        gone: list[int] = []
        while self._once(at, arrived):  # what takes no time leads to more
            pass
        self._leave(at, gone)
        if arrived:
            self._arrived(np.array(arrived))
        if gone:
            self._gone(np.array(gone))

    def _client_phases(self) -> Iterable[tuple[int, int, int]]:
        """Client, phase, and since when, of the tasks at work."""
        return ((self._uploads[task][0], phase, since) for task, (phase, since) in self._stands.items())

    def _spent(self, task: int, now: int) -> None:
        """A phase is over."""
        if self._meters:
            phase, since = self._stands[task]
            for meter in self._meters:
                meter.add(self._uploads[task][0], phase, since, now)

    def _once(self, now: int, arrived: list[int]) -> bool:
        """Phases that end at this instant; whether there was one."""
        found = False
        for flows in self._flows.values():
            for ended in flows.forward(now):
                found = True
                self._put(ended, now, arrived)
        begins: list[int] = []
        while self._due and self._due[0] < (now, _GONE):
            found = True
            _, what, task = heapq.heappop(self._due)
            if task not in self._stands:
                continue
            if what == _PHASE_ENDS and self._held[self._uploads[task][0]]:
                self._late.append(task)  # its link is cut while the last of it is on the way
                continue
            if what == _COMPUTED:
                self._spent(task, now)
                begins.append(task)
            else:
                self._next_phase(task, now, arrived)
        self._begin_uploads(begins, now)
        return found

    def _leave(self, now: int, gone: list[int]) -> None:
        """Devices that leave at this instant, and tasks whose time is over: after what arrives at it."""
        while self._due and self._due[0][0] <= now:
            _, _, task = heapq.heappop(self._due)
            ends_so = self._ledger.cell("ended_at", task) == now and self._ledger.cell("fate", task) != ARRIVES
            if task in self._stands and ends_so:
                self._break_off(task, now)
                gone.append(task)

    def _put(self, ended: Ended, now: int, arrived: list[int]) -> None:
        """A transfer has ended, or will when its latency is over."""
        if ended.at > now:
            self._certain[ended.task] = ended
            heapq.heappush(self._due, (ended.at, _PHASE_ENDS, ended.task))
        else:
            self._next_phase(ended.task, now, arrived)

    def _next_phase(self, task: int, now: int, arrived: list[int]) -> None:
        """A download or upload has ended at this instant."""
        phase, since = self._stands[task]
        self._certain.pop(task, None)
        self._spent(task, now)
        one = np.array([task])
        self._ledger.set(_PHASE[phase], one, now - since)
        if phase == _DOWNLOAD:
            computes = self._ledger.cell("compute_ms", task)
            self._stands[task] = (_COMPUTE, now)
            heapq.heappush(self._due, (now + computes, _COMPUTED, task))
        else:
            self._forget(task)
            arrived.append(task)

    def _begin_uploads(self, tasks: list[int], now: int) -> None:
        if not tasks:
            return
        clients, *rest = zip(*(self._uploads[task] for task in tasks), strict=True)
        for task in tasks:
            self._stands[task] = (_UPLOAD, now)
        own, alone, latency = (np.array(each) for each in rest)
        who = np.array(clients)
        self._flows["upload"].begin(now, (np.array(tasks), who, own, alone, latency), self._held[who])

    def _break_off(self, task: int, now: int) -> None:
        """A task ends here, not by arriving; its row keeps what it would have taken."""
        if task not in self._stands:
            return
        phase, since = self._stands[task]
        self._spent(task, now)
        self._forget(task)
        if phase == _COMPUTE:
            return
        way: Way = "download" if phase == _DOWNLOAD else "upload"
        certain = self._certain.pop(task, None)
        if certain is not None:  # only the latency was left, and the bytes have all gone
            broken: Broken | None = Broken(np.nan if certain.even else 1.0, max(certain.at, now + 1) - since)
        else:
            broken = self._flows[way].break_off(task, now)
        if broken is not None:
            self._shares[task] = broken.share
            self._ledger.set(_PHASE[phase], np.array([task]), broken.would_take)

    def _forget(self, task: int) -> None:
        del self._stands[task], self._uploads[task]


@final
class WorkMeter:
    """Ms that clients downloaded, computed and uploaded, from one reading to the next.

    Args:
        clock: virtual time.
        n_clients: size of the population.
        going: client, phase, and since when, of the tasks at work.
    """

    def __init__(self, clock: Clock, n_clients: int, going: Callable[[], Iterable[tuple[int, int, int]]]) -> None:
        self._clock, self._going, self._read_at = clock, going, clock.now
        self._n = n_clients
        self._spent = np.zeros((3, n_clients), np.int64)

    def add(self, client: int, phase: int, begin: int, end: int) -> None:
        """A phase is over."""
        self._spent[phase, client] += end - max(begin, self._read_at)

    def read(self) -> IntArray:
        """Ms since the last reading, (3, n_clients)."""
        now = self._clock.now
        for client, phase, since in self._going():
            self._spent[phase, client] += now - max(since, self._read_at)
        spent, self._spent, self._read_at = self._spent, np.zeros((3, self._n), np.int64), now
        return spent
