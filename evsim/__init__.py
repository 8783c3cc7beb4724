"""evsim: how long, on real devices, until this federated-learning method reaches this accuracy?"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evsim.results import Run as Run
    from evsim.results import load_run as load_run
    from evsim.results import load_study as load_study
    from evsim.run.simulation import Simulation as Simulation
    from evsim.scenario import Scenario as Scenario

__version__ = "0.1.0"

_HOMES = {
    "Run": "evsim.results",
    "Scenario": "evsim.scenario",
    "Simulation": "evsim.run.simulation",
    "load_run": "evsim.results",
    "load_study": "evsim.results",
}

__all__ = ["Run", "Scenario", "Simulation", "load_run", "load_study"]


def __getattr__(name: str) -> Any:  # lazy, so that `evsim --help` imports neither torch nor pandas
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'evsim' has no attribute {name!r}")
