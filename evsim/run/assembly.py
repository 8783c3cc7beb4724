"""From a scenario to the parts of its run: data, devices, the learning side, sizes on the wire."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import final

import numpy as np

from evsim.algorithms.base import Wire, Wires, total_bytes
from evsim.base.errors import Problem, ScenarioError, report
from evsim.base.profiling import part
from evsim.base.vocabulary import IntArray
from evsim.scenario import Scenario
from evsim.scenario.caveats import caveats
from evsim.traces.population import Population, populate
from evsim.traces.sources import load_availability, load_speed
from evsim.training.data.base import FederatedData, federate
from evsim.training.learning.learning import Learning, Method, Setting
from evsim.training.models.base import check_model
from evsim.training.models.leaves import wires as model_wires


@final
@dataclass(frozen=True, eq=False)
class Parts:
    """What a run is made of.

    Attributes:
        device: where training runs.
        samples: data size of each client.
        population: when each client is online and how fast it is.
        learning: the learning side; None in a dry run.
        true_model_bytes: size of the dense model that is really trained.
        wire_bytes: what a message down and up is charged.
    """

    device: str
    samples: IntArray
    population: Population
    learning: Learning | None
    true_model_bytes: int
    wire_bytes: tuple[int, int]


def assemble(scenario: Scenario, device: str) -> Parts:
    """Load everything a scenario names.

    Raises:
        EvsimError: if something cannot be loaded or does not fit together.
    """
    for caveat in caveats(scenario):
        warnings.warn(caveat, UserWarning, stacklevel=3)
    device = _pick_device(device) if scenario.training == "real" else "cpu"
    data = _load_data(scenario)
    samples = _data_sizes(scenario, data)
    _check_population(scenario, samples)
    population = _load_population(scenario, samples)
    learning, wires = _load_learning(scenario, data, device)
    return Parts(device, samples, population, learning, total_bytes(wires), _charged(scenario, wires))


def _charged(scenario: Scenario, model: Wires) -> tuple[int, int]:
    """Charged bytes of a message down and up."""
    base, update = total_bytes(model), scenario.client_rule.wires(model)
    for transform in scenario.upload:
        update = transform.wires(update)
    down, up = total_bytes(scenario.broadcast.wires(model)), total_bytes(update)
    return scenario.cost.wire_bytes(down, base), scenario.cost.wire_bytes(up, base)


def _pick_device(device: str) -> str:
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise ScenarioError("--device cuda: no CUDA device is available here; use --device cpu")
    return device


@part("data")
def _load_data(scenario: Scenario) -> FederatedData | None:
    if scenario.data is None:
        return None
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


def _data_sizes(scenario: Scenario, data: FederatedData | None) -> IntArray:
    if data is not None:
        return np.asarray(data.sizes, np.int64)
    count, samples = scenario.population.clients, scenario.cost.samples_per_client
    if count is None:
        raise ScenarioError(
            "population.clients: missing; a scenario without [data] must say how many clients there are"
        )
    return np.full(count, 1 if samples is None else samples, np.int64)


@part("data")
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
        folder=folder,
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


def _load_learning(scenario: Scenario, data: FederatedData | None, device: str) -> tuple[Learning | None, Wires]:
    """The learning side (None in a dry run), and how the dense model travels."""
    if scenario.training == "none" or data is None or scenario.model is None:
        numbers = max((scenario.cost.model_bytes or 0) // 4, 1)  # one leaf of float32 stands for the model
        return None, {"model": {"": Wire(numbers, numbers)}}
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
    wires = model_wires(model, bits=64 if scenario.precision == "float64" else 32)
    return Learning(method, model, data, scenario.executor, setting), wires
