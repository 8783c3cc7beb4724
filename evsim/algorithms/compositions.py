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
    tables: Mapping[str, Any]


_FEDAVG: dict[str, dict[str, Any]] = {
    "broadcast": {"kind": "full"},
    "client_rule": {"kind": "sgd"},
    "weighting": {"kind": "samples"},
    "merge": {"kind": "mean"},
    "server_optimizer": {"kind": "sgd", "learning_rate": 1.0},
}


def _fedavg_but(**slots: Any) -> dict[str, Any]:
    return {**_FEDAVG, **slots}


COMPOSITIONS: dict[str, Composition] = {
    "fedavg": Composition("the weighted mean of local SGD (McMahan et al. 2017)", _FEDAVG),
    "fedprox": Composition(
        "FedAvg with a proximal pull to the global model (Li et al. 2020)",
        _fedavg_but(client_rule={"kind": "fedprox", "mu": 0.01}),
    ),
    "fedavgm": Composition(
        "FedAvg with momentum on the server (Hsu et al. 2019)",
        _fedavg_but(server_optimizer={"kind": "fedavgm"}),
    ),
    "fedadagrad": Composition(
        "FedAvg with Adagrad on the server (Reddi et al. 2021)",
        _fedavg_but(server_optimizer={"kind": "fedadagrad"}),
    ),
    "fedadam": Composition(
        "FedAvg with Adam on the server (Reddi et al. 2021)",
        _fedavg_but(server_optimizer={"kind": "fedadam"}),
    ),
    "fedyogi": Composition(
        "FedAvg with Yogi on the server (Reddi et al. 2021)",
        _fedavg_but(server_optimizer={"kind": "fedyogi"}),
    ),
    "fednova": Composition(
        "FedAvg with updates normalized by their work (Wang et al. 2020)",
        _fedavg_but(client_rule={"kind": "fednova"}, server_optimizer={"kind": "fednova"}),
    ),
    "qfedavg": Composition(
        "clients with a high loss count more (Li et al. 2020)",
        _fedavg_but(
            client_rule={"kind": "qfedavg", "q": 1.0},
            weighting={"kind": "uniform"},
            server_optimizer={"kind": "qfedavg"},
        ),
    ),
    "scaffold": Composition(
        "control variates against client drift (Karimireddy et al. 2020)",
        _fedavg_but(
            broadcast={"kind": "scaffold"},
            client_rule={"kind": "scaffold"},
            weighting={"kind": "uniform"},
            server_optimizer={"kind": "scaffold"},
        ),
    ),
    "feddyn": Composition(
        "linear and quadratic terms that align the clients' optima (Acar et al. 2021)",
        _fedavg_but(
            client_rule={"kind": "feddyn", "alpha": 0.1},
            weighting={"kind": "uniform"},
            server_optimizer={"kind": "feddyn", "alpha": 0.1},
        ),
    ),
    "ditto": Composition(
        "FedAvg, and a model of each client's own beside it (Li et al. 2021)",
        _fedavg_but(client_rule={"kind": "ditto", "lam": 1.0}),
    ),
    "fedpaq": Composition(
        "FedAvg with quantized uploads of 8 bits (Reisizadeh et al. 2020)",
        _fedavg_but(upload=[{"kind": "qsgd", "levels": 127}], weighting={"kind": "uniform"}),
    ),
    "signsgd": Composition(
        "one bit per number and a majority vote (Bernstein et al. 2019)",
        _fedavg_but(
            upload=[{"kind": "sign"}],
            weighting={"kind": "uniform"},
            merge={"kind": "majority"},
            server_optimizer={"kind": "sgd", "learning_rate": 0.001},
        ),
    ),
    "fedbuff": Composition(
        'asynchronous: a discounted sum over a buffer; with [aggregation] kind = "buffered" (Nguyen et al. 2022)',
        _fedavg_but(
            weighting={"kind": "polynomial_staleness", "exponent": 0.5},
            merge={"kind": "buffer_mean"},
        ),
    ),
    "fedasync": Composition(
        "asynchronous: mixes each client's model in; with a buffer of one report (Xie et al. 2019)",
        _fedavg_but(
            client_rule={"kind": "fedprox", "mu": 0.005},
            weighting={"kind": "polynomial_staleness", "exponent": 0.5},
            merge={"kind": "mixing", "alpha": 0.6},
        ),
    ),
    "dp_fedavg": Composition(
        "FedAvg with central differential privacy (McMahan et al. 2018)",
        _fedavg_but(
            weighting={"kind": "uniform"},
            merge={"kind": "dp", "max_norm": 1.0, "noise_multiplier": 1.0},
        ),
    ),
    "dp_ftrl": Composition(
        "differential privacy without sampling, with momentum on the server (Kairouz et al. 2021)",
        _fedavg_but(
            weighting={"kind": "uniform"},
            merge={"kind": "dp_ftrl", "max_norm": 1.0, "noise_multiplier": 1.0},
            server_optimizer={"kind": "fedavgm"},
        ),
    ),
}
