"""A timeline without files or training: a tiny world to test aggregators, traces and selectors in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, final

import numpy as np
import pandas as pd

from evsim.actors.base import Actor, named
from evsim.aggregation.base import Aggregator, Process
from evsim.algorithms.base import Schedule
from evsim.base.units import FOREVER
from evsim.base.vocabulary import IntArray, Outcome, Rank
from evsim.cost.model import CostModel
from evsim.cost.network import IndependentLinks, Network, Site
from evsim.cost.pricing import Pricing
from evsim.cost.work import Work
from evsim.run.schema import columns
from evsim.selection.base import Selector
from evsim.selection.uniform import Uniform
from evsim.timeline.absences import MovingSessions, Presence
from evsim.timeline.audience import Audience
from evsim.timeline.clock import Clock
from evsim.timeline.manager import ClientManager
from evsim.timeline.server import LiveServer
from evsim.timeline.sessions import Sessions
from evsim.timeline.world import LearningPort, NoLearning, World, n_drawn
from evsim.traces.availability import AvailabilityTrace
from evsim.traces.speed import DeviceSpeed


@final
@dataclass
class MemoryRows:
    """Keeps rows in memory."""

    batches: dict[str, list[Mapping[str, Any]]] = field(default_factory=dict)

    def append(self, table: str, columns: Mapping[str, Any]) -> None:
        """Take a batch of rows."""
        self.batches.setdefault(table, []).append(columns)

    def table(self, name: str) -> pd.DataFrame:
        """All rows of a table, typed and named as in a run folder."""
        batches = self.batches.get(name, [])
        frame = pd.concat([pd.DataFrame(dict(batch)) for batch in batches]) if batches else pd.DataFrame()
        frame = frame.reindex(columns=list(columns(name))).reset_index(drop=True)
        if name == "tasks" and len(frame):
            frame["outcome"] = [Outcome(code).label for code in frame["outcome"]]
        return frame


@final
@dataclass(frozen=True)
class Log:
    """What happened in a tiny world."""

    tasks: pd.DataFrame
    server_steps: pd.DataFrame
    ended_at: int
    end_reason: str
    timeline_hash: str
    changes: pd.DataFrame
    energy: pd.DataFrame


@final
@dataclass(frozen=True, kw_only=True)
class TinyWorld:
    """A population and what a task costs; `run` moves the clock to the horizon.

    Attributes:
        trace: one row per client, in virtual time.
        speed: one row per client; default: 1 ms per sample, instant transfers of 1 ms.
        samples: data sizes; default 10 each.
        selector: default uniform.
        network: default independent links.
        every_instant: settle at every single edge and ending instead of in bulk; the log must be the same.
        by_events: each thing that happens by itself is an event of its own; the log must be the same.
        writes_at_once: finished rows are written at every server step; the log must be the same.
        listeners: who is told what happens.
        actors: processes beside the aggregator that change what is going to happen, on the server itself.
        acts: actors as scenarios have them.
    """

    trace: AvailabilityTrace
    speed: DeviceSpeed | None = None
    samples: Sequence[int] | IntArray | None = None
    selector: Selector[Any] = field(default_factory=Uniform)
    cost: CostModel = field(default_factory=CostModel)
    network: Network = field(default_factory=IndependentLinks)
    wire_bytes: tuple[int, int] = (1000, 1000)
    seed: int = 0
    learning: LearningPort = field(default_factory=NoLearning)
    every_instant: bool = False
    by_events: bool = False
    writes_at_once: bool = False
    listeners: Sequence[object] = ()
    actors: Sequence[Callable[[LiveServer], Process[None]]] = ()
    acts: Sequence[Actor] = ()

    def run(self, aggregator: Aggregator, *, until: int = FOREVER, server_steps: int | None = None) -> Log:
        """Run to the horizon `until` (ms) or for so many server steps."""
        rows, clock = MemoryRows(), Clock()

        def on_step(row: Mapping[str, Any]) -> None:
            if server_steps is not None and server.version >= server_steps:
                server.end("server_steps")

        server = LiveServer(self._world(clock, rows, until), on_step)
        if until < FOREVER:
            clock.call(until, Rank.END, partial(server.end, "virtual_time"))
        if self.every_instant:
            clock.process(_settle_always(server, clock, self.trace, until))
        server.start(aggregator, named(self.acts))
        for actor in self.actors:
            clock.process(actor(server))
        clock.run()
        server.finish()
        return Log(
            rows.table("tasks"),
            rows.table("server_steps"),
            clock.now,
            server.end_reason,
            server.timeline_hash,
            rows.table("changes"),
            rows.table("energy"),
        )

    def _world(self, clock: Clock, rows: MemoryRows, until: int) -> World:
        n, audience = self.trace.n_devices, Audience(self.listeners)
        presence = Presence(self.trace)
        samples = np.full(n, 10, np.int64) if self.samples is None else np.asarray(self.samples, np.int64)
        speed = self.speed
        if speed is None:
            speed = DeviceSpeed.uniform(n, compute_ms_per_sample=1.0, download_kbps=8000.0, upload_kbps=8000.0)
        schedule = Schedule(batch_size=5, epochs=1)
        return World(
            clock=clock,
            availability=presence if self.acts else self.trace,
            samples=samples,
            manager=ClientManager(self.selector, n_drawn(samples), self.seed, self.trace),
            sessions=MovingSessions(Sessions(self.trace), presence) if self.acts else Sessions(self.trace),
            pricing=Pricing(self.cost, speed, self.seed, self.network.open(Site(speed, self.seed, Path()))),
            work=lambda sizes: Work(schedule.n_processed(sizes), np.zeros_like(sizes)),
            wire_bytes=self.wire_bytes,
            learning=self.learning,
            rows=rows,
            seed=self.seed,
            horizon=until,
            audience=audience,
            by_events=self.by_events or audience.wants_every or self.selector.prompt,
            write_now=lambda: self.writes_at_once,
        )


def _settle_always(server: LiveServer, clock: Clock, trace: AvailabilityTrace, until: int) -> Any:
    """Stop at every edge and at every ending: the slow, obvious replay."""
    edges = np.unique(trace.edges(1, until + 1).at).tolist()
    while not server.finished:
        later = [at for at in edges if at > clock.now]
        instant = min([server.endings.next(), *later[:1]])
        if instant > until:
            return
        yield clock.at(max(instant, clock.now), Rank.CHECK_IN)
        server.settle()
        if not later and server.endings.next() <= clock.now:
            return
