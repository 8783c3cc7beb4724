"""Which executor trains an arm: asked of the calibration on a first run, which ends when it has answered.

Arms of one kind share an answer, so that they differ in nothing else; what is fastest for cohorts of forty may be five
times slower for one report at a time, so other kinds have their own.
"""

from __future__ import annotations

import json
import tempfile
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

from typing_extensions import override

from evsim.run.simulation import Simulation
from evsim.scenario import Scenario
from evsim.training.executors.auto import Auto
from evsim.training.executors.base import Executor, Job, Result, Runner, TrainTask
from evsim.training.executors.sums import Block, Weights

SERIAL = {"kind": "serial", "threads": 1}


class _PickedError(Exception):
    """The answer is known; ends the probing run."""


@final
@dataclass(frozen=True, kw_only=True)
class _Probe(Executor):
    """Trains as `Auto` does until it has decided."""

    answer: dict[str, Any]

    @override
    def open(self, job: Job) -> Runner:
        return _ProbeRunner(Auto(cache=False).open(job), self.answer)


@final
class _ProbeRunner(Runner):
    def __init__(self, inner: Runner, answer: dict[str, Any]) -> None:
        self._inner, self._answer = inner, answer

    @property
    @override
    def plan(self) -> Mapping[str, object]:
        return self._inner.plan

    @override
    def run(self, tasks: Sequence[TrainTask]) -> Iterator[Result]:
        yield from self._inner.run(tasks)
        self._leave_if_picked()

    @override
    def sums(self, tasks: Sequence[TrainTask], weights: Weights) -> Iterator[Block]:
        yield from self._inner.sums(tasks, weights)
        self._leave_if_picked()

    def _leave_if_picked(self) -> None:
        pin = self._inner.plan.get("pin")
        if isinstance(pin, dict):
            self._answer.update(pin)
            raise _PickedError

    @override
    def close(self) -> None:
        self._inner.close()


def kind_of(scenario: Scenario) -> str:
    """What the speed of executors depends on: model, data, the rule and its batches, reports per step.

    Step sizes and the like do not count, so a grid of them is one kind.
    """
    told = tomllib.loads(scenario.to_toml())
    rule, data = told.get("client_rule", {}), dict(told.get("data", {}))
    data.pop("label_flip", None)
    shape = {key: rule.get(key) for key in ("kind", "batch_size", "epochs", "steps")}
    clients = told.get("population", {}).get("clients")
    parts = (told.get("model"), data, clients, told.get("precision"), shape, scenario.aggregation.reports_per_step)
    return json.dumps(parts, sort_keys=True, default=str)


def measure(scenario: Scenario) -> dict[str, Any]:
    """The ``[executor]`` table that calibration picks for a scenario; empty where there is too little to measure."""
    answer: dict[str, Any] = {}
    probing = replace(scenario, executor=_Probe(answer=answer))
    with tempfile.TemporaryDirectory() as place, suppress(_PickedError):
        Simulation(probing, device="cpu").run(Path(place) / "probe")
    return answer
