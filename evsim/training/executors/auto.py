"""The default executor: measures the others on the job itself and goes on with the fastest.

Little work is trained serially and never measured. How much is little is counted in floating-point operations, not in
seconds, so the same scenario changes executor at the same task in every run without a cached pick.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from typing_extensions import override

from evsim.base.errors import require
from evsim.training.executors.base import Executor, Job, Result, Runner, TrainTask
from evsim.training.executors.calibration import Cache, Pick, calibrate, estimated_flops, settings_of
from evsim.training.executors.serial import Serial
from evsim.training.executors.sums import Block, Weights
from evsim.training.executors.threads import limited_threads

_LITTLE_FLOPS = 5e10  # a second or two of serial training


@final
@dataclass(frozen=True, kw_only=True)
class Auto(Executor):
    """Picks serial, batched or workers, with their settings, by a short calibration on the job's own tasks.

    The pick is kept in the user's cache folder for the same model, work and machine. The results do not depend on it
    beyond rounding; to have them bit for bit again, pin the executor that the manifest names.

    Attributes:
        limit_s: most wall-clock seconds a calibration may take.
        cache: use and keep picks across runs.
    """

    limit_s: float = 10.0
    cache: bool = True

    def __post_init__(self) -> None:
        require(self.limit_s > 0, "limit_s must be > 0", limit_s=self.limit_s)

    @override
    def open(self, job: Job) -> Runner:
        return AutoRunner(job, self)


@final
class AutoRunner(Runner):
    """Serial until there is enough work to measure, then the pick."""

    def __init__(self, job: Job, options: Auto) -> None:
        self._job, self._options = job, options
        self._pick: Pick | None = None
        self._source = ""
        self._runner = Serial(threads=1).open(job)
        self._threads = torch.get_num_threads()
        self._flops_per_step = 0.0
        self._flops = 0.0
        self._most = 0  # tasks at once when the pick was made

    @property
    @override
    def plan(self) -> Mapping[str, object]:
        if self._pick is None:
            return {"kind": "auto", "picked": dict(self._runner.plan), "why": "too little work to calibrate"}
        return {
            "kind": "auto",
            "picked": dict(self._runner.plan),
            "pin": settings_of(self._pick.executor),
            "why": self._pick.why,
            "rates": self._pick.rates,
            "calibration_s": round(self._pick.seconds, 2),
            "source": self._source,
        }

    @override
    def run(self, tasks: Sequence[TrainTask]) -> Iterator[Result]:
        if self._is_open(tasks):
            self._decide(tasks, None)
        yield from self._runner.run(tasks)

    @override
    def sums(self, tasks: Sequence[TrainTask], weights: Weights) -> Iterator[Block]:
        if self._is_open(tasks):
            self._decide(tasks, weights)
        yield from self._runner.sums(tasks, weights)

    @override
    def close(self) -> None:
        """Release what was picked."""
        self._runner.close()

    def _is_open(self, tasks: Sequence[TrainTask]) -> bool:
        """Whether an executor is to be picked: none was yet, or the one that was trains one task at a time."""
        return bool(tasks) and (self._pick is None or (self._most == 1 and len(tasks) > 1))

    def _decide(self, tasks: Sequence[TrainTask], weights: Weights | None) -> None:
        """Pick an executor if one is known, or if there is enough work to find one."""
        with limited_threads(self._threads):  # whoever asks for training may have limited its own
            self._choose(tasks, weights)

    def _choose(self, tasks: Sequence[TrainTask], weights: Weights | None) -> None:
        cache = Cache(self._job, len(tasks), summed=weights is not None)
        pick, source = cache.load() if self._options.cache else None, "cached"
        if pick is None and self._is_much(tasks):
            pick, source = calibrate(self._job, tasks, weights, self._options.limit_s), "measured"
            lost = cache.save(pick) if self._options.cache else ""
            source = f"{source}; {lost}" if lost else source
        if pick is not None:
            self._runner.close()
            self._pick, self._source, self._runner = pick, source, pick.executor.open(self._job)
            self._most = len(tasks)

    def _is_much(self, tasks: Sequence[TrainTask]) -> bool:
        """Whether all tasks up to these are more than a little work."""
        self._flops_per_step = self._flops_per_step or estimated_flops(self._job)
        sizes = np.array([self._job.data.size(task.client) for task in tasks])
        self._flops += self._flops_per_step * float(self._job.rule.schedule.n_steps(sizes).sum())
        return self._flops > _LITTLE_FLOPS
