"""Which executor is fastest for a job on this machine: measured on the job's own tasks, in at most some seconds."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, final

import torch
from torch.utils.flop_counter import FlopCounterMode

from evsim.base.documents import load_json
from evsim.base.errors import EvsimError
from evsim.base.user_code import said
from evsim.training.draws import named_draws
from evsim.training.executors.base import Executor, Job, Runner, TrainTask
from evsim.training.executors.batched import Batched
from evsim.training.executors.footprint import clients_that_fit
from evsim.training.executors.serial import Serial
from evsim.training.executors.sums import Weights, weights_at
from evsim.training.executors.threads import limited_threads
from evsim.training.executors.workers import Workers, can_fork, usable_cores
from evsim.training.models.modes import private_copy

_ENOUGH_S = 0.4  # of one measurement, going by the best rate so far; repeated until it has taken so long
_WORKER_CHUNK = 64
_LONG_S = 1.0  # the same for workers: in a short one they would wait for each other at the end more than in a run
_WARM = 4  # tasks of each worker until its memory is its own
_HEAVY_S = 0.25  # a task that takes so long is worth no repetition
_HOPELESS = 0.5  # of the best rate so far, with a first chunk
_COMPARED = 6  # tasks: three, both ways
_START_S = 2.5  # what the first vmapped call may cost
_FORK_S = 0.5  # what starting workers may cost
_CLEARLY = 1.05  # a later candidate must be this much faster
_NO_TIME = "no time left to measure it"
_MOST_BYTES = 100_000  # of an earlier pick
_STEP_FLOPS = 1e7  # what calling a step costs, beside its arithmetic
_KINDS: dict[str, type[Executor]] = {"serial": Serial, "batched": Batched, "workers": Workers}


@final
@dataclass(frozen=True, kw_only=True)
class Pick:
    """What calibration found.

    Attributes:
        executor: the fastest of those that were measured; the first candidate if none was.
        rates: tasks per second of each candidate, or why it was not measured.
        seconds: what calibration took.
    """

    executor: Executor
    rates: dict[str, float | str]
    seconds: float

    @property
    def unmeasured(self) -> list[str]:
        """Candidates that there was no time for: one of them may be faster."""
        return [name for name, rate in self.rates.items() if rate == _NO_TIME]

    @property
    def why(self) -> str:
        """The reason in words."""
        name = describe(self.executor)
        measured = [f"{each} {rate:.4g}/s" for each, rate in self.rates.items() if isinstance(rate, float)]
        if self.rates.get(name) == _NO_TIME:
            return f"a task takes too long to measure rivals ({', '.join(measured)}), so each core gets its own"
        left = f"; no time was left to measure {', '.join(self.unmeasured)}" if self.unmeasured else ""
        if len(self.rates) == 1:
            return f"{name} has no rival for this work"
        if len(measured) > 1:
            return f"{name} was fastest: {', '.join(measured)}{left}"
        return (
            f"{name} is the only one measured: {', '.join(measured)}{left}" if measured else f"nothing measured{left}"
        )


def calibrate(job: Job, tasks: Sequence[TrainTask], weights: Weights | None, limit_s: float) -> Pick:
    """Train some of the tasks with each candidate and time it; the results are thrown away.

    With weights the run wants `Runner.sums`, so that is timed.
    """
    start = perf_counter()
    rivals = candidates(job, len(tasks))
    if len(rivals) == 1:
        return Pick(executor=rivals[0], rates={describe(rivals[0]): "the only candidate"}, seconds=0.0)
    rates: dict[str, float | str] = {}
    best: tuple[float, Executor] | None = None
    for executor in rivals:
        left = limit_s - (perf_counter() - start)
        rate = _unpromising(executor, rates) or _measure(executor, _Trial(job, tasks, weights), rates, left)
        rates[describe(executor)] = rate
        if isinstance(rate, float) and (best is None or rate > best[0] * _CLEARLY):
            best = rate, executor
    chosen = _bet(rivals, rates) or (rivals[0] if best is None else best[1])
    return Pick(executor=chosen, rates=rates, seconds=perf_counter() - start)


def _bet(rivals: Sequence[Executor], rates: Mapping[str, float | str]) -> Executor | None:
    """A worker per core, where a single task takes so long that there was no time to measure that."""
    for executor in rivals:
        if isinstance(executor, Workers) and executor.chunk == 1 and rates[describe(executor)] == _NO_TIME:
            return executor if _is_heavy(_pace(rates)) else None
    return None


def _pace(rates: Mapping[str, float | str]) -> float:
    """Tasks per second of the fastest so far; 0 if there is none."""
    return max((rate for rate in rates.values() if isinstance(rate, float)), default=0.0)


def _is_heavy(pace: float) -> bool:
    return 0 < pace < 1 / _HEAVY_S


def candidates(job: Job, n_tasks: int) -> list[Executor]:
    """What is worth a try, simplest first; `n_tasks` is how many are trained together in this run."""
    convolutions = any(leaf.dim() == 4 for leaf in job.model.parameters())  # noqa: PLR2004
    on_cpu, threads = job.device.type == "cpu", torch.get_num_threads()
    several = can_fork(job) and usable_cores() > 1 and n_tasks > 1
    found: list[Executor] = [Serial(threads=1)]
    if several:
        found += [Workers(channels_last=last) for last in ((False, True) if convolutions else (False,))]
    if on_cpu and threads > 1 and (convolutions or not several):  # after workers, which suffer less from neighbours
        found.append(Serial(threads=threads))
    sizes = (8,) if convolutions and on_cpu else (32, 128) if on_cpu else (64, 256, 1000)
    most = clients_that_fit(job)
    chunks = sorted({min(size, n_tasks, most) for size in sizes} - {1})
    if on_cpu and not convolutions:
        found += [Batched(chunk=chunk, threads=1) for chunk in chunks[-1:]]
        parts = {min(_WORKER_CHUNK, n_tasks // usable_cores(), most // usable_cores())} - {0, 1} if several else set()
        found += [Workers(chunk=chunk) for chunk in parts]
    found += [Batched(chunk=chunk, threads=threads) for chunk in chunks]
    return list(dict.fromkeys(found))  # with one thread some are the same


def _unpromising(executor: Executor, rates: dict[str, float | str]) -> str:
    """Why a candidate need not be measured: the model cannot be batched, as an earlier candidate has shown."""
    reasons = [rate for name, rate in rates.items() if name.startswith("batched") and isinstance(rate, str)]
    if isinstance(executor, Batched) or (isinstance(executor, Workers) and executor.chunk > 1):
        return next((reason for reason in reasons if reason.startswith("serial:")), "")
    return ""


@final
@dataclass(frozen=True, eq=False)
class _Trial:
    """What is timed."""

    job: Job
    tasks: Sequence[TrainTask]
    weights: Weights | None

    def first(self, count: int) -> _Trial:
        """A part of it."""
        weights = None if self.weights is None else weights_at(self.weights, slice(count))
        return _Trial(self.job, self.tasks[:count], weights)

    def seconds(self, runner: Runner) -> float:
        """Wall-clock seconds of one pass."""
        start = perf_counter()
        for _ in runner.run(self.tasks) if self.weights is None else runner.sums(self.tasks, self.weights):
            pass
        return perf_counter() - start


def _measure(executor: Executor, trial: _Trial, rates: dict[str, float | str], left_s: float) -> float | str:
    """Tasks per second, or why there is no such figure."""
    pace = _pace(rates)
    at_once = (getattr(executor, "chunk", None) or 1) * (usable_cores() if isinstance(executor, Workers) else 1)
    long = isinstance(executor, Workers) and executor.chunk == 1
    some = trial.first(max(at_once, int(pace * (_LONG_S if long else _ENOUGH_S)), 1 if _is_heavy(pace) else 4))
    if rates and pace and _starting_s(executor, rates) + _planned(executor, len(some.tasks), at_once, pace) > left_s:
        return _NO_TIME
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a fallback is reported as the reason
        try:
            return _timed(executor, some, at_once, pace)
        except (RuntimeError, OSError, EvsimError) as error:
            if not rates and isinstance(error, EvsimError):
                raise  # Serial says so: no executor can do better
            return said(error)


def _starting_s(executor: Executor, rates: dict[str, float | str]) -> float:
    """What opening a candidate and its first tasks may cost, in seconds; the first vmapped call of all costs most."""
    if (getattr(executor, "chunk", 1) or 1) > 1 and not any(name.startswith("batched") for name in rates):
        return _START_S
    return _FORK_S if isinstance(executor, Workers) else 0.0


def _planned(executor: Executor, count: int, at_once: int, pace: float) -> float:
    """Seconds of measuring at the best rate so far."""
    if not _is_heavy(pace):
        return 3 * count / pace
    return (count + at_once + _compared(executor)) / pace


def _compared(executor: Executor) -> int:
    """Tasks that are trained to compare stacked clients with `Serial`, before the first ones; in every worker."""
    if (getattr(executor, "chunk", 1) or 1) == 1:
        return 0
    return _COMPARED * (usable_cores() if isinstance(executor, Workers) else 1)


def _timed(executor: Executor, trial: _Trial, at_once: int, pace: float) -> float | str:
    """Tasks per second in the best of several passes, after one that pays for what is paid once.

    A first pass that shows that a task takes long, or that the candidate has no chance, is enough.
    """
    runner = executor.open(trial.job)
    try:
        several = isinstance(executor, Workers) and not _is_heavy(pace)
        warm = trial.first(_WARM * at_once if several else at_once)
        first = warm.seconds(runner)
        if "fallback" in runner.plan:
            return str(runner.plan["fallback"])
        trained = len(warm.tasks) + _compared(executor)
        alone = not pace and first > _HEAVY_S
        if alone or (_is_heavy(pace) and trained / first < _HOPELESS * pace):
            return trained / first
        passes = [trial.seconds(runner)]
        while sum(passes) < 2 * _ENOUGH_S:
            passes.append(trial.seconds(runner))
        return len(trial.tasks) / min(passes)
    finally:
        runner.close()


# -- names and memory --------------------------------------------------------------------------------------------------


def kind_of(executor: Executor) -> str:
    """Its kind in a scenario."""
    return next(kind for kind, cls in _KINDS.items() if isinstance(executor, cls))


def settings_of(executor: Executor) -> dict[str, Any]:
    """What pins this executor in a scenario's [executor] table; fields left at their default are left out."""
    default = type(executor)()
    fields: dict[str, Any] = asdict(executor)  # type: ignore[call-overload]
    return {"kind": kind_of(executor)} | {k: v for k, v in fields.items() if v != getattr(default, k)}


def describe(executor: Executor) -> str:
    """The executor in a few words, such as ``batched(chunk=32, threads=2)``."""
    settings = settings_of(executor)
    return f"{settings.pop('kind')}({', '.join(f'{name}={value}' for name, value in settings.items())})"


def estimated_flops(job: Job) -> float:
    """Floating-point operations of one step of a full batch, with what calling it costs; the same on any machine."""
    size = min(job.rule.schedule.batch_size, len(job.data.x))
    if size == 0:
        return _STEP_FLOPS
    counter = FlopCounterMode(display=False)
    trial = private_copy(job.model).eval()  # training mode would move BatchNorm's statistics
    with suppress(Exception), torch.no_grad(), limited_threads(1), named_draws(0, job.device), counter:
        trial(job.data.x[:size].to(job.device))  # what a model raises is said when it trains
    return _STEP_FLOPS + 3.0 * float(counter.get_total_flops())


class Cache:
    """Earlier picks, one small file per model and machine in the user's cache folder.

    Args:
        job: the job.
        n_tasks: how many tasks are trained together.
        summed: whether their updates are added up where they are trained.
    """

    def __init__(self, job: Job, n_tasks: int, *, summed: bool) -> None:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        self._path = Path(base) / "evsim" / "executors" / f"{fingerprint(job, n_tasks, summed=summed)}.json"

    def load(self) -> Pick | None:
        """The pick, or None if there is none that can be read."""
        try:
            saved = load_json(self._path, what="a calibration", raising=EvsimError, most=_MOST_BYTES)
            settings = dict(saved["settings"])
            executor = _KINDS[settings.pop("kind")](**settings)
            pick = Pick(executor=executor, rates=saved["rates"], seconds=float(saved["seconds"]))
        except (EvsimError, ValueError, KeyError, TypeError, AttributeError, OverflowError):
            return None
        return None if pick.unmeasured else pick

    def save(self, pick: Pick) -> str:
        """Keep the pick; returns why it was not kept, or ""."""
        if pick.unmeasured:
            return "not kept, since rivals were not measured"
        content = {"settings": settings_of(pick.executor), "rates": pick.rates, "seconds": pick.seconds}
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            partial = self._path.with_suffix(f".{os.getpid()}")
            partial.write_text(json.dumps(content, indent=1))
            partial.replace(self._path)
        except OSError:
            return "the cache folder cannot be written"
        return ""


def fingerprint(job: Job, n_tasks: int, *, summed: bool) -> str:
    """What the choice depends on: model, work, precision, machine, versions; sizes to a factor of two."""
    sizes = job.data.offsets[1:] - job.data.offsets[:-1]
    shapes = [tuple(leaf.shape) for leaf in job.model.parameters()]
    data = [
        tuple(job.data.x.shape[1:]),
        int(sizes.mean()).bit_length() if len(sizes) else 0,
        n_tasks.bit_length(),
        summed,
    ]
    rule = [type(job.rule).__qualname__, repr(job.rule.schedule), str(job.dtype), job.autocast, repr(job.objective)]
    machine = [_processor(), usable_cores(), torch.get_num_threads(), _device_name(job.device), torch.__version__]
    text = repr([repr(job.model), shapes, data, rule, machine])
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
