"""Turns a scenario into live parts and runs them: the only module that knows everyone."""

from __future__ import annotations

import reprlib
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, final

import numpy as np

from evsim.actors.base import Actor, named
from evsim.base.errors import EvsimError, Problem, RunFolderError, report
from evsim.base.outside import Stopped
from evsim.base.profiling import part
from evsim.base.units import FOREVER
from evsim.base.vocabulary import IntArray, Rank
from evsim.run.assembly import Parts, assemble, drawn_work, partial_work
from evsim.run.checkpoints import Checkpoints, Saved
from evsim.run.evaluations import Evaluations, Judged, measures_of
from evsim.run.feedback import Telling
from evsim.run.manifest import manifest, with_measured
from evsim.run.named import Named
from evsim.run.online import OnlineCounts
from evsim.run.pace import Every, Pace
from evsim.run.reachable import count_lost, sessions_of, without
from evsim.run.recorder import Recorder
from evsim.run.resuming import Place, is_over, leave_over, longer, resume_folder, scenario_of
from evsim.run.signals import REASONS, Signals
from evsim.run.stops import Stops
from evsim.scenario import Scenario
from evsim.timeline.absences import MovingSessions, Presence
from evsim.timeline.audience import Audience, RunFacts
from evsim.timeline.clock import Clock
from evsim.timeline.manager import ClientManager
from evsim.timeline.server import LiveServer
from evsim.timeline.sessions import Sessions
from evsim.timeline.world import NoLearning, World, n_drawn
from evsim.traces.availability import Edges
from evsim.training.learning.learning import Learning

_PROGRESS_EVERY_S = 0.1
_WRITE_EVERY_S = 2.0  # with as much in the recorder, a killed run loses less than 5 s


@final
@dataclass(frozen=True)
class Snapshot:
    """Where a run stands, for progress displays.

    Attributes:
        now_ms: the virtual clock.
        horizon_ms: where it ends, if it does.
        server_step: the model's version.
        max_steps: the last one, if there is one.
        round: attempts so far.
        metrics: of the newest evaluation: first the one that a target or the objective asks for.
        online: clients that can be reached.
        in_flight: tasks at work.
        wall_s: real seconds since the start.
    """

    now_ms: int
    horizon_ms: int | None
    server_step: int
    max_steps: int | None
    round: int
    metrics: Mapping[str, float]
    online: int
    in_flight: int
    wall_s: float


@final
class Simulation:
    """One scenario on one device.

    >>> from evsim import Scenario, Simulation, load_run
    >>> scenario = Scenario.load("replay", overrides=['stop.virtual_time = "2h"'])
    >>> folder = Simulation(scenario).run(getfixture("tmp_path") / "replay")
    >>> load_run(folder).manifest["end"]["reason"]
    'virtual_time'

    Args:
        scenario: what to run.
        device: "cpu", "cuda", or "auto": a GPU where there is one.
        listeners: objects that are told what happens, besides those of the scenario (`timeline/audience.py`).
        actors: what changes the world, besides those of the scenario; they become part of it.
    """

    def __init__(
        self,
        scenario: Scenario,
        *,
        device: str = "auto",
        listeners: Sequence[object] = (),
        actors: Sequence[Actor] = (),
    ) -> None:
        self.scenario = replace(scenario, actor=(*scenario.actor, *actors)) if actors else scenario
        self._device, self._listeners = device, tuple(listeners)

    @classmethod
    def resume(cls, folder: str | Path, *, device: str = "auto", listeners: Sequence[object] = ()) -> Path:
        """Go on with the run in a folder that was interrupted or killed, and return the folder: `run` with `resume`.

        Raises:
            EvsimError: if no such run lies there, or what it depends on has changed.
        """
        if is_over(Path(folder)):
            leave_over(Path(folder))
            return Path(folder)
        scenario = scenario_of(Path(folder))
        return cls(scenario, device=device, listeners=listeners).run(folder, resume=True)

    @classmethod
    def extend(
        cls, folder: str | Path, overrides: Sequence[str], *, device: str = "auto", listeners: Sequence[object] = ()
    ) -> Path:
        """Go on with a run that is over, with a later end, and return its folder: `run` with `extend`.

        What it then writes is, bit for bit, what it would have written had it had that end from the start.

        >>> from evsim import Scenario, Simulation, load_run
        >>> scenario = Scenario.load("replay", overrides=['stop.virtual_time = "2h"'])
        >>> folder = Simulation(scenario).run(getfixture("tmp_path") / "longer")
        >>> load_run(Simulation.extend(folder, ['stop.virtual_time = "3h"'])).manifest["end"]["at"]
        10800000

        Args:
            folder: of a run that ended by itself.
            overrides: of the `[stop]` table, such as ``stop.virtual_time="14d"``.
            device: "cpu", "cuda", or "auto".
            listeners: as of a new simulation.

        Raises:
            EvsimError: if no run that can be extended lies there, something else than the end has changed, or the end
                is not a later one.
        """
        scenario = longer(Path(folder), overrides)
        return cls(scenario, device=device, listeners=listeners).run(folder, extend=True)

    def run(
        self,
        out: str | Path,
        on_progress: Callable[[Snapshot], None] | None = None,
        *,
        resume: bool = False,
        extend: bool = False,
    ) -> Path:
        """Run to the end and write the run folder `out`; returns its path.

        With `resume` a run in the folder that was interrupted or killed goes on: its timeline is simulated again up to
        the newest checkpoint, without training, and what it writes is, bit for bit, what it would have written. With
        nothing in the folder it is started; a run that is over stays as it is.

        With `extend` the run in the folder, which is over, goes on to the later end that this scenario has, from just
        before its old one. Only `[stop]` may differ.

        SIGINT, SIGTERM and SIGHUP end a run cleanly, and so does an error: what happened so far is a valid run folder.

        Raises:
            EvsimError: if the scenario cannot be run, the folder exists or cannot be written, or what the run to be
                resumed depends on has changed.
        """
        began, folder = time.perf_counter(), Path(out)
        if resume and is_over(folder):
            leave_over(folder, self.scenario)
            return folder
        with Place(folder, self.scenario, resume=resume, extend=extend) as place:
            parts = assemble(place.pinned, self._device)
            listeners = [spec.make() for spec in self.scenario.listener]
            audience = Audience([*listeners, *self._listeners])
            live = _Live(self.scenario, parts, place.recorder(parts), audience, began)
            live.on_progress = on_progress
            if place.saved is not None:
                live.go_on_from(place.saved)
            with live.signals.heard(live.interrupt):
                live.run()
            place.is_over = live.is_over
        return folder


@final
class _Live:
    """A run in progress."""

    def __init__(self, scenario: Scenario, parts: Parts, recorder: Recorder, audience: Audience, began: float) -> None:
        self._scenario, self._parts, self._recorder, self._audience = scenario, parts, recorder, audience
        self._began, self._last_progress, self._is_over = began, 0.0, False
        self._pace = Pace(scenario.engine, trains=parts.learning is not None, wanted=_wants_events(scenario, audience))
        self.on_progress: Callable[[Snapshot], None] | None = None
        self.signals = Signals()
        self._clock = Clock()
        trace = parts.population.availability
        replay = Sessions(trace, self._on_window)
        self._presence = Presence(trace) if scenario.actor else None
        self._online = OnlineCounts(len(replay.online_at_start()), scenario.record.availability_every)
        self._checkpoints: Checkpoints | None = None
        telling = self._telling = None if parts.learning is None else self._tells(parts.learning)
        self._server = LiveServer(self._world(replay), self._on_step, self._on_end)
        self._stops = Stops(scenario.stop, self._server.end, lambda: telling is not None and telling.diverged)
        self._evaluations: Evaluations | None = None
        self._judged: Judged | None = None
        if telling is not None and parts.learning is not None:
            self._judged = Judged.of(parts.learning, scenario.evaluation, scenario.seed)
            measures = measures_of(parts.learning, telling, scenario.evaluation, self._judged)
            self._evaluations = Evaluations(scenario.evaluation, measures, self._server, recorder, self._on_evaluation)

    def interrupt(self) -> None:
        """End at the next event, with the reason of the signal that was heard."""
        self._clock.pause()

    def run(self) -> None:
        """Move the clock to the end, then write the rest of the folder."""
        error = ""
        if self._telling is None or not self._telling.replays:
            self._recorder.replace()
        try:
            self._start()
            self._move_clock()
            self._server.settle()  # listeners hear of what happened since the last decision, and then of the end
            if self._evaluations is not None:
                self._evaluations.at_end()
            self._audience.tell("ended", self._clock.now, self._server.end_reason)
        except BaseException as problem:
            broken_off = (
                isinstance(problem, KeyboardInterrupt) and bool(self.signals.reason) and self._recorder.owns_folder
            )
            error = self.signals.reason if broken_off else f"error: {problem}"
            with suppress(EvsimError):
                self._server.settle()
            with suppress(EvsimError):  # listeners close their files
                self._audience.tell("ended", self._clock.now, error)
            if not broken_off:
                raise
        finally:
            if self._recorder.owns_folder:
                self._finish(error)
            else:
                self._leave()

    def _move_clock(self) -> None:
        with part("timeline"):
            self._clock.run()
            self._end_if_asked()
        if not self._server.end_reason:
            self._server.end("nothing_left")
        if self._telling is not None and self._telling.replays:
            where, given = f"{self._recorder.folder}: stop", f"{self._server.end_reason} comes before"
            hint = "choose a later end, or run it into another folder with --out"
            raise RunFolderError(report([Problem(where, given, "no earlier end than it had", hint)]))

    @property
    def is_over(self) -> bool:
        """Whether it ended by itself, and all is written."""
        return self._is_over

    def go_on_from(self, saved: Saved) -> None:
        """Simulate again what happened up to a checkpoint, without training, and go on from there."""
        if self._telling is not None and self._checkpoints is not None:
            self._telling.replay(saved.answers, partial(self._caught_up, self._checkpoints, saved))

    def _caught_up(self, checkpoints: Checkpoints, saved: Saved) -> None:
        checkpoints.go_on(saved)
        self._recorder.replace()

    def _tells(self, learning: Learning) -> Telling:
        folder = resume_folder(self._recorder.folder)
        checkpoints = Checkpoints(folder, learning, self._scenario.record, lambda: self._server)
        self._checkpoints = checkpoints
        return Telling(learning, breakable=self.signals.training, on_answer=checkpoints.heard)

    def _end_if_asked(self) -> None:
        """A signal stopped the clock between two events: end at this instant, after everything else of it."""
        if not self.signals.reason:
            return
        if not self._recorder.owns_folder:
            raise Stopped(self.signals.number)  # nothing happened yet that had not happened before
        if self._checkpoints is not None and not self._server.finished:
            self._checkpoints.save()
        self._server.end(self.signals.reason)
        self._clock.go_on()

    def _on_end(self) -> None:
        """The last moment at which nothing knows yet that this is the end: a longer run would have come here too."""
        keeps = self._scenario.record.keep_checkpoint and self._telling is not None and not self._telling.replays
        if keeps and self._checkpoints is not None:
            self._checkpoints.save_last()

    def _world(self, replay: Sessions) -> World:
        scenario, parts = self._scenario, self._parts
        return World(
            clock=self._clock,
            availability=self._presence or parts.population.availability,
            samples=parts.samples,
            manager=ClientManager(
                scenario.selection,
                n_drawn(parts.samples),
                scenario.seed,
                parts.population.availability,
                asks_why=scenario.record.selector,
            ),
            sessions=replay if self._presence is None else MovingSessions(replay, self._presence),
            pricing=parts.pricing,
            work=scenario.client_rule.work,
            own=parts.own,
            drawn_work=drawn_work(scenario.client_rule, scenario.seed),
            partial=partial_work(scenario.client_rule),
            wire_bytes=parts.wire_bytes,
            learning=NoLearning() if self._telling is None else self._telling,
            rows=Named(self._recorder, parts.pricing, scenario.client_rule.schedule, self._batch_sizes()),
            seed=scenario.seed,
            horizon=FOREVER if scenario.stop.virtual_time is None else scenario.stop.virtual_time,
            audience=self._audience,
            by_events=self._pace.by_events,
            write_now=Every(_WRITE_EVERY_S),
        )

    def _end_with(self, reason: object) -> None:
        """`RunFacts.end`: a wrong reason is the fault of the listener that gives it."""
        if not isinstance(reason, str) or not reason.strip():
            raise TypeError(f"run.end({reprlib.repr(reason)}): expected a text, the reason that the manifest will hold")
        self._server.end(reason)

    def _start(self) -> None:
        scenario = self._scenario
        facts = RunFacts(
            name=scenario.name,
            seed=scenario.seed,
            n_clients=len(self._parts.samples),
            start_ms=scenario.start,
            horizon_ms=scenario.stop.virtual_time,
            folder=self._recorder.folder,
            end=self._end_with,
        )
        self._audience.tell("started", facts)
        horizon = scenario.stop.virtual_time
        if horizon is not None:
            self._clock.call(horizon, Rank.END, partial(self._server.end, "virtual_time"))
        self._server.start(self._scenario.aggregation, named(self._scenario.actor))
        if self._evaluations is not None:
            self._clock.process(self._evaluations.run(self._clock))

    # -- what happens on the way ------------------------------------------------------------------------------------

    def _on_step(self, row: Mapping[str, Any]) -> None:
        if row["applied"] and self._evaluations is not None:
            self._evaluations.after_step(self._clock)
        self._stops.after_step(row)
        self._pace.watch(self._server.agenda, self._clock.now)
        self._progress()

    def _on_evaluation(self, trigger: str, metrics: Mapping[str, float]) -> None:
        if self._audience.hears("evaluated"):
            self._audience.tell("evaluated", self._clock.now, self._server.version, dict(metrics))
        if trigger != "final":
            self._stops.after_evaluation(metrics)
            self._progress()

    def _on_window(self, edges: Edges) -> None:
        self._online.add(edges)

    def _progress(self) -> None:
        wall = time.perf_counter() - self._began
        if self.on_progress is None or wall - self._last_progress < _PROGRESS_EVERY_S:
            return
        self._last_progress = wall
        stop, now = self._scenario.stop, self._clock.now
        trace = self._parts.population.availability
        online = trace.is_online if self._presence is None else self._presence.is_online
        self.on_progress(
            Snapshot(
                now_ms=now,
                horizon_ms=stop.virtual_time,
                server_step=self._server.version,
                max_steps=stop.server_steps,
                round=self._server.rounds,
                metrics=self._newest(),
                online=int(online(np.arange(trace.n_devices), now).sum()),
                in_flight=self._server.in_flight,
                wall_s=wall,
            )
        )

    def _newest(self) -> dict[str, float]:
        """Metrics of the newest evaluation, the headline first."""
        latest = {} if self._evaluations is None else self._evaluations.latest
        goal = self._scenario.stop.goal
        head = self._scenario.objective.headline if goal is None else goal.metric
        return {head: latest[head], **latest} if head in latest else dict(latest)

    # -- writing ----------------------------------------------------------------------------------------------------

    def _finish(self, error: str) -> None:
        parts, server = self._parts, self._server
        server.finish()
        trace, end = parts.population.availability, self._clock.now
        at, online = self._online.until(end)
        absences = None if self._presence is None else self._presence.absences()
        if absences is not None:
            absent = np.unique(absences.clients)
            for rows in sessions_of(trace, absent, end):
                online = online - count_lost(without(rows, absences.among(rows["client"]), end)[1], at)
        self._recorder.append("availability", {"at": at, "online": online})
        self._recorder.append("clients", self._client_rows())
        wanted = np.arange(len(parts.samples)) if self._scenario.record.sessions else server.asked
        for rows in sessions_of(trace, wanted, end):
            here = rows if absences is None else without(rows, absences.among(rows["client"]), end)[0]
            self._recorder.append("sessions", here)
        wall = time.perf_counter() - self._began
        self._recorder.close()
        told = manifest(self._scenario, parts, server, error or server.end_reason, wall)
        told |= {"engine": self._pace.told(server.agenda), "diverged_at_version": self._stops.diverged_at}
        told["caveats"] = [*told["caveats"], *(caveat.to_json() for caveat in self._audience.caveats)]
        told |= {"tables": self._recorder.seals()}
        told |= {"client_evaluations": None if self._judged is None else self._judged.told}
        self._recorder.finish(
            manifest=with_measured(told, self._recorder, self._scenario.to_tables()),
            scenario_toml=self._scenario.to_toml(),
            tensors=None if parts.learning is None else parts.learning.tensors(),
            model="model" if self._stops.diverged_at is None else "model.diverged",
        )
        if parts.learning is not None:
            parts.learning.close()

        self._is_over = not error and server.end_reason not in REASONS.values()

    def _leave(self) -> None:
        """It never came as far as the run that it should go on with: that stays as it is."""
        self._recorder.abandon()
        if self._parts.learning is not None:
            self._parts.learning.close()

    def _batch_sizes(self) -> IntArray:
        """Samples of a mini-batch of each client."""
        usual, own = self._scenario.client_rule.schedule.batch_size, self._parts.own
        return np.full(len(self._parts.samples), usual) if own is None else own.batch_sizes(usual)

    def _client_rows(self) -> dict[str, Any]:
        population, samples, own = self._parts.population, self._parts.samples, self._parts.own
        return {
            "client": np.arange(len(samples)),
            "device": population.device,
            "clone": population.clone,
            "speed_device": population.speed_device,
            "samples": samples,
            "compute_ms_per_sample": population.speed.compute_ms_per_sample,
            "download_kbps": population.speed.download_kbps,
            "upload_kbps": population.speed.upload_kbps,
            "latency_ms": population.speed.latency_ms,
            "group": np.zeros_like(samples) if own is None else own.group,
            "compute_share": np.ones(len(samples)) if own is None else own.compute_share,
            "batch_size": self._batch_sizes(),
            "online_share": population.availability.online_share(),
        }


def _wants_events(scenario: Scenario, audience: Audience) -> str:
    """Who needs each thing to be an event of its own, in words."""
    if audience.wants_every:
        return "a listener is told of every event"
    return "the selector is told of every report at its instant" if scenario.selection.prompt else ""
