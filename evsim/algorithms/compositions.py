"""Named algorithms: which kind goes into which slot. Pure data; a scenario's own tables lie on top.

``algorithm = "fedprox"`` in a scenario is short for the tables below. Every composition names all of its slots, so that
naming another algorithm leaves nothing of the first behind. `learning_rate`, `batch_size` and the like of a client rule
that a scenario already states stay as they are when the algorithm changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final


@final
@dataclass(frozen=True)
class Composition:
    """A named algorithm as tables of a scenario."""

    summary: str
    tables: Mapping[str, Mapping[str, Any]]


_FEDAVG: dict[str, dict[str, Any]] = {
    "broadcast": {"kind": "full"},
    "client_rule": {"kind": "sgd"},
    "weighting": {"kind": "samples"},
    "merge": {"kind": "mean"},
    "server_optimizer": {"kind": "sgd", "learning_rate": 1.0},
}

COMPOSITIONS: dict[str, Composition] = {
    "fedavg": Composition("the weighted mean of local SGD (McMahan et al. 2017)", _FEDAVG),
    "fedprox": Composition(
        "FedAvg with a proximal pull to the global model (Li et al. 2020)",
        {**_FEDAVG, "client_rule": {"kind": "fedprox"}},
    ),
}
