"""Turns a scenario into live parts and runs them: the only module that knows everyone."""

from __future__ import annotations

import hashlib
import platform
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version as installed_version
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import numpy as np

from evsim import __version__
from evsim.aggregation.synchronous import Synchronous
from evsim.algorithms.base import Wire, Wires, total_bytes
from evsim.clients import ClientManager
from evsim.clock import Clock
from evsim.errors import MissingExtraError, ModelError, Problem, ScenarioError, report
from evsim.events import IntArray, Rank
from evsim.recorder import Recorder
from evsim.scenario import Scenario
from evsim.selection.uniform import Uniform
from evsim.server import LiveServer, NoLearning, World
from evsim.traces.cost import Pricing
from evsim.traces.population import Population, populate
from evsim.traces.replay import OnlineCounts, Replay
from evsim.traces.sources import load_availability, load_speed
from evsim.units import FOREVER

if TYPE_CHECKING:
    from collections.abc import Generator

    from evsim.traces.availability import Edges
    from evsim.training.data.base import FederatedData
    from evsim.training.learning import Learning

_PROGRESS_EVERY_S = 0.1


@final
@dataclass(frozen=True)
class Snapshot:
    """Where a run stands, for progress displays."""

    now_ms: int
    horizon_ms: int | None
    server_step: int
    max_steps: int | None
    round: int
    accuracy: float | None
    online: int
    in_flight: int
    wall_s: float


@final
class Simulation:
    """One scenario on one device.

    >>> from evsim import Scenario, Simulation, load_run
    >>> scenario = Scenario.load("replay")
    >>> folder = Simulation(scenario).run("runs/replay")  # doctest: +SKIP
    >>> load_run(folder).server_steps  # doctest: +SKIP

    Args:
        scenario: what to run.
        device: "cpu", "cuda", or "auto": a GPU where there is one.
    """

    def __init__(self, scenario: Scenario, *, device: str = "auto") -> None:
        self.scenario = scenario
        self._device = device

    def run(self, out: str | Path, on_progress: Callable[[Snapshot], None] | None = None) -> Path:
        """Run to the end and write the run folder.

        SIGINT ends the run cleanly, and so does an error: what happened so far is a valid run folder.

        Raises:
            EvsimError: if the scenario cannot be run, or the folder exists or cannot be written.
        """
        folder = Path(out)
        live = _Live(self.scenario, self._device, folder, on_progress)
        with _interruptible(live.server_end):
            live.run()
        return folder


@final
class _Live:
    """The live parts of one run."""

    def __init__(
        self, scenario: Scenario, device: str, folder: Path, on_progress: Callable[[Snapshot], None] | None
    ) -> None:
        self._began = time.perf_counter()
        self._scenario, self._on_progress = scenario, on_progress
        self._device = _pick_device(device) if scenario.training == "real" else "cpu"
        data = _load_data(scenario)
        self._samples = _data_sizes(scenario, data)
        self._population = _load_population(scenario, self._samples)
        _check_population(scenario, self._samples)
        self._learning, wires, self._true_model_bytes = _load_learning(scenario, data, self._device)
        self._wire_bytes = self._charged(wires)
        self._recorder = Recorder(folder)
        self._clock = Clock()
        replay = Replay(self._population.availability, self._on_window)
        self._online = OnlineCounts(len(replay.online_at_start()), scenario.record.availability_every)
        self._server = LiveServer(self._world(replay), self._on_step)
        self._accuracy: float | None = None
        self._evaluated: tuple[int, dict[str, float]] | None = None  # version, metrics
        self._last_row = (-1, -1)  # instant and version of the last evaluation rows
        self._failed_in_a_row = 0
        self._last_progress = 0.0

    def server_end(self) -> None:
        """End at the next event."""
        self._server.end("interrupted")

    def run(self) -> None:
        """Move the clock to the end, then write the rest of the folder."""
        error = ""
        try:
            self._start()
            self._clock.run()
            if not self._server.end_reason:
                self._server.end("nothing_left")
            self._evaluate("final")
        except BaseException as problem:
            error = f"error: {problem}"
            raise
        finally:
            self._finish(error)

    # -- assembling -------------------------------------------------------------------------------------------------

    def _world(self, replay: Replay) -> World:
        scenario, population = self._scenario, self._population
        return World(
            clock=self._clock,
            availability=population.availability,
            samples=self._samples,
            manager=ClientManager(scenario.selection, len(self._samples), scenario.seed),
            replay=replay,
            pricing=Pricing(scenario.cost, population.speed, scenario.seed),
            work=scenario.client_rule.work,
            wire_bytes=self._wire_bytes,
            learning=NoLearning() if self._learning is None else self._learning,
            rows=self._recorder,
            seed=scenario.seed,
            horizon=FOREVER if scenario.stop.virtual_time is None else scenario.stop.virtual_time,
        )

    def _charged(self, model: Wires) -> tuple[int, int]:
        """Charged bytes of a message down and up."""
        scenario, base = self._scenario, total_bytes(model)
        update = scenario.client_rule.wires(model)
        for transform in scenario.upload:
            update = transform.wires(update)
        down, up = total_bytes(scenario.broadcast.wires(model)), total_bytes(update)
        return scenario.cost.wire_bytes(down, base), scenario.cost.wire_bytes(up, base)

    # -- running ----------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        stop = self._scenario.stop
        if stop.virtual_time is not None:
            self._clock.call(stop.virtual_time, Rank.END, partial(self._server.end, "virtual_time"))
        self._clock.process(self._scenario.aggregation.run(self._server))
        if self._learning is not None:
            self._clock.process(self._evaluations())

    def _evaluations(self) -> Generator[Any, Any, None]:
        """Evaluate at time 0, then on the grid of virtual time if there is one."""
        yield self._clock.at(0, Rank.EVALUATION)
        self._evaluate("start")
        every = self._scenario.evaluation.every_ms
        while every is not None and not self._server.finished:
            yield self._clock.at(self._clock.now + every, Rank.EVALUATION)
            self._evaluate("grid")

    def _evaluate(self, trigger: str) -> None:
        """Write the metrics of the current version, computing them once per version."""
        learning, evaluation = self._learning, self._scenario.evaluation
        here = (self._clock.now, self._server.version)
        if learning is None or (trigger == "final" and here[1] == self._last_row[1]):
            return
        if self._evaluated is None or self._evaluated[0] != here[1]:
            metrics = learning.evaluate(evaluation.batch_size)
            if evaluation.per_client:
                metrics |= _spread(learning.evaluate_clients(evaluation.batch_size))
            self._evaluated = here[1], metrics
        self._write_evaluation(trigger, self._evaluated[1])
        self._last_row = here
        self._accuracy = self._evaluated[1]["accuracy"]
        target = self._scenario.stop.target_accuracy
        if target is not None and self._accuracy >= target and trigger != "final":
            self._server.end("target_accuracy")
        self._progress()

    def _write_evaluation(self, trigger: str, metrics: Mapping[str, float]) -> None:
        names = list(metrics)
        rows = {
            "at": [self._clock.now] * len(names),
            "version": [self._server.version] * len(names),
            "trigger": [trigger] * len(names),
            "split": ["clients" if name.startswith("client_") else "test" for name in names],
            "metric": [name.removeprefix("client_") for name in names],
            "value": list(metrics.values()),
        }
        self._recorder.append("evaluations", rows)

    def _on_step(self, applied: bool, number: int) -> None:  # noqa: FBT001  a column of the round's row
        stop, server = self._scenario.stop, self._server
        self._failed_in_a_row = 0 if applied else self._failed_in_a_row + 1
        every = self._scenario.evaluation.every_steps
        if applied and every is not None and server.version % every == 0 and self._learning is not None:
            self._clock.call(self._clock.now, Rank.EVALUATION, partial(self._evaluate, "step"))
        if stop.server_steps is not None and server.version >= stop.server_steps:
            server.end("server_steps")
        if stop.rounds is not None and number + 1 >= stop.rounds:
            server.end("rounds")
        if self._failed_in_a_row >= stop.failed_rounds:
            server.end("failed_rounds")
        self._progress()

    def _on_window(self, edges: Edges) -> None:
        self._online.add(edges)

    def _progress(self) -> None:
        wall = time.perf_counter() - self._began
        if self._on_progress is None or wall - self._last_progress < _PROGRESS_EVERY_S:
            return
        self._last_progress = wall
        stop, now = self._scenario.stop, self._clock.now
        online = self._population.availability.is_online(np.arange(len(self._samples)), now)
        self._on_progress(
            Snapshot(
                now_ms=now,
                horizon_ms=stop.virtual_time,
                server_step=self._server.version,
                max_steps=stop.server_steps,
                round=self._server.rounds,
                accuracy=self._accuracy,
                online=int(online.sum()),
                in_flight=self._server.book.in_flight,
                wall_s=wall,
            )
        )

    # -- writing ----------------------------------------------------------------------------------------------------

    def _finish(self, error: str) -> None:
        self._server.finish()
        at, online = self._online.until(self._clock.now)
        self._recorder.append("availability", {"at": at, "online": online})
        self._recorder.append("clients", self._client_rows())
        tensors = None if self._learning is None else self._learning.tensors()
        manifest = self._manifest(error or self._server.end_reason)
        self._recorder.finish(manifest=manifest, scenario_toml=self._scenario.to_toml(), tensors=tensors)
        if self._learning is not None:
            self._learning.close()

    def _client_rows(self) -> dict[str, Any]:
        population = self._population
        return {
            "client": np.arange(len(self._samples)),
            "device": population.device,
            "clone": population.clone,
            "samples": self._samples,
            "compute_ms_per_sample": population.speed.compute_ms_per_sample,
            "download_kbps": population.speed.download_kbps,
            "upload_kbps": population.speed.upload_kbps,
            "online_share": population.availability.online_share(),
        }

    def _manifest(self, reason: str) -> dict[str, Any]:
        scenario, population = self._scenario, self._population
        stop = scenario.stop
        return {
            "evsim": __version__,
            "versions": _versions(),
            "name": scenario.name,
            "seed": scenario.seed,
            "start_ms": scenario.start,
            "training": scenario.training,
            "precision": scenario.precision,
            "device": self._device,
            "end": {"at": self._clock.now, "reason": reason},
            "horizon_ms": stop.virtual_time,
            "target_accuracy": stop.target_accuracy,
            "server_steps": self._server.version,
            "rounds": self._server.rounds,
            "timeline_hash": self._server.timeline_hash,
            "trace_hash": _trace_hash(population),
            "population": {
                "clients": len(self._samples),
                "clients_with_data": int((self._samples > 0).sum()),
                "distinct_devices": len(np.unique(population.device)),
                "clones": int((population.clone > 0).sum()),
                "notes": list(population.notes),
            },
            "cost": {
                "model_bytes": scenario.cost.model_bytes or self._true_model_bytes,
                "true_model_bytes": self._true_model_bytes,
                "bytes_down": self._wire_bytes[0],
                "bytes_up": self._wire_bytes[1],
                "sample_scale": scenario.cost.sample_scale,
                "training_factor": scenario.cost.training_factor,
                "availability_check": scenario.cost.availability_check,
            },
            "executor": {} if self._learning is None else dict(self._learning.plan),
            "privacy": _privacy(scenario, len(self._samples), self._server.version),
            "wall_s": round(time.perf_counter() - self._began, 3),
        }


# -- loading the parts -----------------------------------------------------------------------------------------------


def _pick_device(device: str) -> str:
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise ScenarioError("--device cuda: no CUDA device is available here; use --device cpu")
    return device


def _load_data(scenario: Scenario) -> FederatedData | None:
    if scenario.data is None:
        return None
    from evsim.training.data.base import federate

    table = scenario.data
    data = federate(
        table.dataset,
        table.partition,
        test_fraction=table.test_fraction,
        n_clients=scenario.population.clients,
        seed=scenario.seed,
        folder=scenario.folder,
    )
    return data if table.label_flip is None else table.label_flip.transform(data, scenario.seed)


def _privacy(scenario: Scenario, n_clients: int, steps: int) -> dict[str, Any] | None:
    """What differential privacy the run gave; None if its method has none."""
    from evsim.algorithms.dp import DpMean
    from evsim.algorithms.privacy import Sampling, account

    merge, rounds = scenario.merge, scenario.aggregation
    if not isinstance(merge, DpMean):
        return None
    sampling = Sampling(
        n_clients=n_clients,
        cohort=rounds.reports_per_step,
        always_available=scenario.population.availability == "always",
        uniform=isinstance(scenario.selection, Uniform),
        synchronous=isinstance(rounds, Synchronous),
        over_commitment=rounds.over_commitment if isinstance(rounds, Synchronous) else 1.0,
        deadline=isinstance(rounds, Synchronous) and rounds.reporting_deadline is not None,
    )
    try:
        found = asdict(account(merge, sampling, steps))
    except MissingExtraError as error:
        return {"epsilon": None, "warnings": [str(error)]}
    return {name: str(value) if value == inf else value for name, value in found.items()}


def _data_sizes(scenario: Scenario, data: FederatedData | None) -> IntArray:
    if data is not None:
        return np.asarray(data.sizes, np.int64)
    count, samples = scenario.population.clients, scenario.cost.samples_per_client
    if count is None:
        raise ScenarioError(
            "population.clients: missing; a scenario without [data] must say how many clients there are"
        )
    return np.full(count, 1 if samples is None else samples, np.int64)


def _load_population(scenario: Scenario, samples: IntArray) -> Population:
    table = scenario.population
    count, seed, folder = len(samples), scenario.seed, scenario.folder
    return populate(
        n_clients=count,
        availability=load_availability(table.availability, n_devices=count, seed=seed, folder=folder),
        speed=load_speed(table.speed, n_devices=count, seed=seed, folder=folder),
        join=table.join,
        sizes=samples,
        seed=scenario.seed,
        start_ms=scenario.start,
    )


def _check_population(scenario: Scenario, samples: IntArray) -> None:
    needed, usable = scenario.aggregation.minimum_clients, int((samples > 0).sum())
    if usable < needed:
        problem = Problem(
            "population.clients",
            f"{usable} clients with data",
            f"at least {needed}, the clients a round needs",
            "lower aggregation.minimum_cohort or cohort_goal, or add clients",
        )
        raise ScenarioError(report([problem]))


def _load_learning(scenario: Scenario, data: FederatedData | None, device: str) -> tuple[Learning | None, Wires, int]:
    """The learning side (None in a dry run), how the dense model travels, and the model's true size in bytes."""
    if scenario.training == "none" or data is None or scenario.model is None:
        wires: Wires = {
            "model": {"": Wire((scenario.cost.model_bytes or 4) // 4, (scenario.cost.model_bytes or 4) // 4)}
        }
        return None, wires, total_bytes(wires)
    from evsim.training.learning import Learning, Method, Setting
    from evsim.training.models import check_model

    model = scenario.model.build(
        shape=data.x.shape[1:], n_classes=data.n_classes, n_tokens=data.n_tokens, seed=scenario.seed
    )
    check_model(model, data)
    method = Method(
        broadcast=scenario.broadcast,
        client_rule=scenario.client_rule,
        upload=scenario.upload,
        weighting=scenario.weighting,
        merge=scenario.merge,
        server_optimizer=scenario.server_optimizer,
    )
    goal = scenario.aggregation.reports_per_step
    setting = Setting(seed=scenario.seed, precision=scenario.precision, device=device, cohort_goal=goal)
    wires = _model_wires(model, scenario.precision)
    return Learning(method, model, data, scenario.executor, setting), wires, total_bytes(wires)


def _model_wires(model: Any, precision: str) -> Wires:
    bits = {"float64": 64, "float32": 32, "bfloat16": 32}[precision]
    params = {name: Wire(leaf.numel(), leaf.numel(), bits) for name, leaf in model.named_parameters()}
    if not params:
        raise ModelError("the model has no parameters: there is nothing to train")
    buffers = {name: Wire(leaf.numel(), leaf.numel(), bits) for name, leaf in model.named_buffers()}
    return {"model": params, "buffers": buffers}


# -- small things ----------------------------------------------------------------------------------------------------


def _spread(values: Mapping[str, Any]) -> dict[str, float]:
    """How a metric spreads over the clients."""
    found: dict[str, float] = {}
    for name, each in values.items():
        known = each[~np.isnan(each)]
        worst, best = np.quantile(known, [0.1, 0.9])
        found |= {
            f"client_{name}_mean": float(known.mean()),
            f"client_{name}_std": float(known.std()),
            f"client_{name}_p10": float(worst),
            f"client_{name}_p90": float(best),
        }
    return found


def _versions() -> dict[str, str]:
    packages = ("torch", "numpy", "simpy", "pandas", "pyarrow")
    return {"python": platform.python_version(), **{name: installed_version(name) for name in packages}}


def _trace_hash(population: Population) -> str:
    trace, speed = population.availability, population.speed
    digest = hashlib.blake2b(digest_size=16)
    for column in (trace.offsets, trace.starts, trace.stops, trace.period):
        digest.update(np.ascontiguousarray(column, "<i8").tobytes())
    for rates in (speed.compute_ms_per_sample, speed.download_kbps, speed.upload_kbps):
        digest.update(np.ascontiguousarray(rates, "<f8").tobytes())
    return digest.hexdigest()


@contextmanager
def _interruptible(end: Callable[[], None]) -> Iterator[None]:
    """The first SIGINT ends the run at its next event; a second one breaks it off."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def once(*_: object) -> None:
        signal.signal(signal.SIGINT, before)
        end()

    before = signal.signal(signal.SIGINT, once)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
