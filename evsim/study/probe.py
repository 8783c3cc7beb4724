"""Which executor a study uses: asked of the calibration on the study's first run, which ends when it has answered."""

from __future__ import annotations

import tempfile
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

_SERIAL = {"kind": "serial", "threads": 1}


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
        pin = self._inner.plan.get("pin")
        if isinstance(pin, dict):
            self._answer.update(pin)
            raise _PickedError

    @override
    def close(self) -> None:
        self._inner.close()


def measure(scenario: Scenario) -> dict[str, Any]:
    """The `[executor]` table that calibration picks for a scenario; serial where there is too little to measure."""
    answer: dict[str, Any] = {}
    probing = replace(scenario, executor=_Probe(answer=answer))
    with tempfile.TemporaryDirectory() as place, suppress(_PickedError):
        Simulation(probing, device="cpu").run(Path(place) / "probe")
    return answer or _SERIAL
