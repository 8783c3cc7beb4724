"""From a scenario to the parts of its run: data, devices, the learning side, sizes on the wire."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, final

import numpy as np
from torch.nn import Module

from evsim.algorithms.base import ClientRule, PartialWork, Wire, Wires, WorkBySteps, total_bytes
from evsim.algorithms.schedule import TaskNames
from evsim.base.caveat import Caveat, CaveatWarning
from evsim.base.culprit import explain
from evsim.base.errors import EvsimError, Problem, ScenarioError, joined, report
from evsim.base.profiling import part
from evsim.base.vocabulary import IntArray
from evsim.cost.network import Site
from evsim.cost.own import Own
from evsim.cost.pricing import Pricing
from evsim.cost.work import Work
from evsim.run.apart import charged, clients_of, own_costs
from evsim.run.doubts import doubts
from evsim.scenario import Scenario
from evsim.scenario.caveats import caveats
from evsim.scenario.dumping import kind_of
from evsim.scenario.sources import keyed
from evsim.traces.population import Population, populate
from evsim.traces.sources import load_availability, load_speed
from evsim.training.data.base import FederatedData, federate
from evsim.training.data.labels import IN_WORDS
from evsim.training.data.skew import skewed
from evsim.training.data.transforms.base import check_transforms
from evsim.training.learning.learning import Learning, Method, Setting
from evsim.training.models.base import check_model
from evsim.training.models.leaves import wires as model_wires

if TYPE_CHECKING:
    from evsim.traces.availability import AvailabilityTrace
    from evsim.traces.speed import DeviceSpeed
    from evsim.training.executors.base import Executor


@final
@dataclass(frozen=True, eq=False)
class Opened:
    """Everything a scenario names, open, before anything runs: what `evsim check` and a run have in common.

    Attributes:
        device: where training runs.
        data: the clients' samples and the test set; None without `[data]`.
        samples: data size of each client.
        population: when each client is online and how fast it is.
        model: a freshly initialised module; None in a dry run.
        wires: how the dense model travels.
        wire_bytes: what a message down and up is charged.
        pricing: what tasks cost on the clock.
        own: what tasks cost where clients differ; None where they do not.
        task_ms: how long a first task of each client with data takes if nothing goes wrong, ms, in order of clients.
    """

    device: str
    data: FederatedData | None
    samples: IntArray
    population: Population
    model: Module | None
    wires: Wires
    wire_bytes: tuple[int, int]
    pricing: Pricing
    task_ms: IntArray
    own: Own | None = None


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
        pricing: what tasks cost on the clock.
        own: what tasks cost where clients differ; None where they do not.
        caveats: what runs, but cannot mean what it seems to.
        data_digest: of the clients' samples and the test set; "" without `[data]`.
    """

    device: str
    samples: IntArray
    population: Population
    learning: Learning | None
    true_model_bytes: int
    wire_bytes: tuple[int, int]
    pricing: Pricing
    own: Own | None = None
    caveats: tuple[Caveat, ...] = ()
    data_digest: str = ""


def assemble(scenario: Scenario, device: str) -> Parts:
    """Load everything a scenario names; its caveats are said as warnings.

    Raises:
        EvsimError: if something cannot be loaded or does not fit together.
    """
    opened = open_all(scenario, device)
    said = (*caveats(scenario), *doubts(scenario, opened))
    for caveat in said:
        warnings.warn(CaveatWarning(caveat), stacklevel=3)
    learning = None if opened.model is None else learning_of(scenario, opened, scenario.executor)
    size = total_bytes(opened.wires)
    digest = "" if opened.data is None else opened.data.digest()
    return Parts(
        device=opened.device,
        samples=opened.samples,
        population=opened.population,
        learning=learning,
        true_model_bytes=size,
        wire_bytes=opened.wire_bytes,
        pricing=opened.pricing,
        own=opened.own,
        caveats=said,
        data_digest=digest,
    )


def open_all(scenario: Scenario, device: str) -> Opened:
    """Open data, traces and model; what does not depend on each other is tried even if another part failed.

    Raises:
        EvsimError: with everything that cannot be opened or does not fit together.
    """
    attempt = _Attempt()
    device = attempt(_pick_device, device) if scenario.training == "real" else "cpu"
    data = attempt(_load_data, scenario)
    samples: Any = attempt(_data_sizes, scenario, data) if data is not None or scenario.data is None else None
    count = scenario.population.clients or 1 if samples is None else len(samples)
    availability, speed = attempt(_availability, scenario, count), attempt(_speed, scenario, count)
    if samples is not None:
        attempt(_check_population, scenario, samples)
    fits = scenario.training == "real" and data is not None and attempt(_labels_fit, scenario, data)
    model = attempt(_open_model, scenario, data) if fits else None
    attempt.conclude()
    population = _population(scenario, samples, (availability, speed), data)
    wires = attempt(_model_wires, model, scenario)
    attempt.conclude()
    wire_bytes = attempt(charged, scenario, wires)
    attempt.conclude()
    own = attempt(own_costs, scenario, model, wires, population, samples)
    attempt.conclude()
    pricing = attempt(pricing_of, scenario, population, own)
    attempt.conclude()
    task_ms = attempt(_task_ms, scenario, samples, pricing, wire_bytes, own)
    attempt.conclude()
    return Opened(device, data, samples, population, model, wires, wire_bytes, pricing, task_ms, own)


def learning_of(scenario: Scenario, opened: Opened, executor: Executor) -> Learning:
    """The learning side of a run that trains."""
    if opened.model is None or opened.data is None:
        raise ScenarioError("a dry run has no learning side")
    method = Method(
        broadcast=scenario.broadcast,
        client_rule=scenario.client_rule,
        upload=scenario.upload,
        weighting=scenario.weighting,
        merge=scenario.merge,
        server_optimizer=scenario.server_optimizer,
        keep=scenario.keep,
    )
    goal = scenario.aggregation.reports_per_step
    setting = Setting(
        seed=scenario.seed,
        precision=scenario.precision,
        device=opened.device,
        cohort_goal=goal,
        objective=scenario.objective,
        clients=clients_of(opened.population, opened.samples),
        batch_sizes=None if opened.own is None else opened.own.batch_sizes(scenario.client_rule.schedule.batch_size),
    )
    return Learning(method, opened.model, opened.data, executor, setting)


def population_of(scenario: Scenario) -> Population:
    """The clients' devices alone, without a model.

    Raises:
        EvsimError: if traces or data cannot be opened.
    """
    data = _load_data(scenario)
    samples = _data_sizes(scenario, data)
    count = len(samples)
    return _population(scenario, samples, (_availability(scenario, count), _speed(scenario, count)), data)


def pricing_of(scenario: Scenario, population: Population, own: Own | None) -> Pricing:
    """What prices the tasks of a run."""
    share = None if own is None else own.compute_share
    site = Site(population.speed, scenario.seed, scenario.folder)
    network = scenario.network.open(site)
    return Pricing(scenario.cost, population.speed, scenario.seed, network, scenario.start, share)


def drawn_work(rule: ClientRule, seed: int) -> Callable[[IntArray, IntArray, IntArray], Work] | None:
    """The work of named tasks, if it is drawn; None if all tasks of a client are alike."""
    if not rule.schedule.is_drawn or not isinstance(rule, WorkBySteps):
        return None
    return lambda samples, clients, nth: rule.work_of(
        samples, rule.schedule.n_steps(samples, TaskNames(seed, clients, nth))
    )


def partial_work(rule: ClientRule) -> PartialWork | None:
    """The rule, if its clients report parts of their work; else None."""
    return rule if isinstance(rule, PartialWork) and rule.partial_work else None


def _task_ms(
    scenario: Scenario, samples: IntArray, pricing: Pricing, wire_bytes: tuple[int, int], own: Own | None
) -> IntArray:
    """Prices everybody's first task, so that what cannot be priced is told before anything runs."""
    clients = np.flatnonzero(samples > 0)
    down, up = (np.full(len(clients), size, np.int64) for size in wire_bytes)
    work = scenario.client_rule.work(samples[clients])
    if own is not None:
        work, down, up = own.work_at(clients), own.bytes_down[clients], own.bytes_up[clients]
    return pricing.price(clients, np.zeros_like(clients), work, (down, up), 0).total_ms


@final
class _Attempt:
    """Calls what may fail, and keeps what went wrong until the end."""

    def __init__(self) -> None:
        self._errors: list[EvsimError] = []

    def __call__(self, make: Callable[..., Any], *arguments: Any) -> Any:
        """What `make` gives, or None if it failed."""
        try:
            return make(*arguments)
        except EvsimError as error:
            self._errors.append(error)
        except Exception as error:  # of a plug-in
            text = explain(error)
            if text is None:
                raise
            self._errors.append(ScenarioError(text))
        return None

    def conclude(self) -> None:
        """Raise what went wrong: one error as it is, several as one list."""
        if len(self._errors) == 1:
            raise self._errors[0]
        if self._errors:
            raise ScenarioError(joined(self._errors))


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
        client_test_fraction=table.client_test_fraction,
    )
    data = data if table.skew is None else skewed(data, table.skew, scenario.seed)
    data = data if table.label_flip is None else table.label_flip.transform(data, scenario.seed)
    check_transforms(table.transform, data.x.shape, data.name, tokens=data.n_tokens is not None)
    return replace(data, transforms=table.transform)


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
def _availability(scenario: Scenario, n_devices: int) -> AvailabilityTrace:
    options: dict[str, Any] = {"n_devices": n_devices, "seed": scenario.seed, "folder": scenario.folder}
    with keyed(scenario.population.availability, scenario.folder):
        return load_availability(scenario.population.availability, **options)


@part("data")
def _speed(scenario: Scenario, n_devices: int) -> DeviceSpeed:
    options: dict[str, Any] = {"n_devices": n_devices, "seed": scenario.seed, "folder": scenario.folder}
    with keyed(scenario.population.speed, scenario.folder):
        return load_speed(scenario.population.speed, **options)


@part("data")
def _population(
    scenario: Scenario, samples: IntArray, traces: tuple[AvailabilityTrace, DeviceSpeed], data: FederatedData | None
) -> Population:
    availability, speed = traces
    latency = scenario.network.latency
    return populate(
        n_clients=len(samples),
        availability=availability,
        speed=replace(speed, latency_ms=speed.latency_ms + latency) if latency else speed,
        join=scenario.population.join,
        sizes=samples,
        seed=scenario.seed,
        start_ms=scenario.start,
        folder=scenario.folder,
        label_share=data.label_share if data is not None and data.labels == "classes" else None,
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


def _labels_fit(scenario: Scenario, data: FederatedData) -> bool:
    """True, or an error: what the objective learns is not what the data's labels are."""
    objective, where = scenario.objective, f"objective.kind: {kind_of('objective', type(scenario.objective))}"
    if data.labels != objective.labels:
        raise ScenarioError(
            f"{where}: the labels of {data.name!r} are {IN_WORDS[data.labels]}; expected {IN_WORDS[objective.labels]}"
        )
    if objective.form == "binary" and data.n_classes != 2:  # noqa: PLR2004
        raise ScenarioError(f"{where}: the labels of {data.name!r} are 0 to {data.n_classes - 1}; expected 0 and 1")
    return True


def _open_model(scenario: Scenario, data: FederatedData) -> Module | None:
    if scenario.model is None:
        return None
    width = scenario.objective.output_shape(data.y.shape[1:], data.n_classes)[-1]
    model = scenario.model.prepare(data, scenario.seed, scenario.folder, width=width)
    check_model(model, data, scenario.objective)
    return model


def _model_wires(model: Module | None, scenario: Scenario) -> Wires:
    """How the dense model travels; without one, a leaf of float32 stands for it."""
    if model is None:
        numbers = max((scenario.cost.model_bytes or 0) // 4, 1)
        return {"model": {"": Wire(numbers, numbers)}}
    return model_wires(model, bits=64 if scenario.precision == "float64" else 32)
