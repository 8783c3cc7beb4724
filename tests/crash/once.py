"""One run in an interpreter of its own: ``python -m tests.crash.once CASE FOLDER FLUSH_EVERY_S STOP_AT``.

Prints a digest of all that may not differ. With a step to stop at, it is interrupted there and resumed.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evsim import Simulation
from evsim.run import recorder, simulation
from tests.crash.cases import results, scenario_of


class Stopping:
    """A listener that asks the run to stop at a step."""

    def __init__(self, step: int) -> None:
        self._step = step

    def round_closed(self, _at: int, row: Mapping[str, Any]) -> None:
        """A step is over."""
        if row["version"] == self._step:
            os.kill(os.getpid(), signal.SIGINT)


def digest(case: str, folder: Path, *more: str, flush_every_s: float = 2.0, stop_at: int = 0) -> str:
    """Of tables, model and manifest of the run of a case."""
    recorder._FLUSH_EVERY_S, simulation._WRITE_EVERY_S = flush_every_s, flush_every_s
    scenario = scenario_of(case, *more)
    run = Simulation(scenario, device="cpu", listeners=[Stopping(stop_at)] if stop_at else [])
    Simulation.resume(run.run(folder), device="cpu")
    return hashlib.sha256(json.dumps(results(folder), sort_keys=True).encode()).hexdigest()


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    case, folder, flush, stop = sys.argv[1:5]
    told = digest(case, Path(folder), *sys.argv[5:], flush_every_s=float(flush), stop_at=int(stop))
    sys.stdout.write(f"digest {told}\n")
