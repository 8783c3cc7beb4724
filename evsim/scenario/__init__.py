"""A scenario: everything that determines a run, as one frozen value, from a TOML file or from Python.

Loading is strict: every unknown key, wrong type and impossible value of every table is reported at once. This package
is the only one that imports pydantic.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, final

import tomli_w

from evsim.actors.base import Actor
from evsim.aggregation.base import Aggregator
from evsim.algorithms.base import Broadcast, ClientRule, Merge, ServerOptimizer, Upload, Weighting
from evsim.algorithms.workload import Workload
from evsim.base.caveat import Caveat
from evsim.base.errors import ScenarioError, report
from evsim.base.units import TimeOfDay
from evsim.cost.model import CostModel
from evsim.cost.network import IndependentLinks, Network
from evsim.scenario import dumping, together
from evsim.scenario.assembling import assemble
from evsim.scenario.layers import Layer, find, override, read
from evsim.scenario.listening import Listener
from evsim.scenario.paths import from_working_directory
from evsim.scenario.tables import DataTable, EngineTable, EvaluationTable, PopulationTable, RecordTable, Stop
from evsim.selection.base import Selector
from evsim.training.executors.base import Executor
from evsim.training.models.base import Model
from evsim.training.objectives.base import Objective

__all__ = ["DataTable", "EngineTable", "EvaluationTable", "PopulationTable", "RecordTable", "Scenario", "Stop"]


@final
@dataclass(frozen=True, kw_only=True)
class Scenario:
    """Everything that determines a run.

    Change one with `dataclasses.replace`; what must hold between its parts is checked again.

    >>> scenario = Scenario.load("replay", ["population.clients=50"])
    >>> scenario.population.clients
    50

    Attributes:
        name: of the run folder; default: the file's name.
        seed: of every random draw.
        start: time of day at which virtual time 0 falls.
        training: "real", or "none" for system studies: no model, no data tensors.
        precision: of the training; "bfloat16" keeps float32 parameters.
        algorithm: a named composition of slots, under what the tables say themselves.
        stop: when the run ends.
        population: clients and the devices they live on.
        data: what clients learn from; not needed in a dry run.
        cost: what a task costs on the clock.
        network: how long transfers take.
        model: what is trained; not needed in a dry run.
        objective: what it learns, and how it is judged.
        aggregation: when the server asks, waits, closes and applies.
        selection: whom it asks.
        broadcast: what it sends.
        client_rule: what a client does with it; a dry run defaults to one epoch of SGD.
        work: how many of the scheduled steps each client does; default: all.
        upload: transforms of the update on its way back, in order.
        keep: leaves that stay on the clients, as patterns of names such as "head.*": nobody sends them.
        weighting: how much each report counts.
        merge: how updates become one.
        server_optimizer: how the merged update changes the model.
        executor: how tasks are really trained.
        evaluation: when the model is evaluated.
        record: what the run folder holds.
        engine: how the timeline moves.
        listener: who is told what happens.
        actor: what changes the world while tasks run.
        folder: where relative paths are looked up; no part of the file.
        notes: what loading the file found worth saying; no part of the file.
    """

    name: str
    seed: int = 0
    start: TimeOfDay = 0
    training: Literal["real", "none"] = "real"
    precision: Literal["float32", "float64", "bfloat16"] = "float32"
    algorithm: str | None = None
    stop: Stop
    population: PopulationTable = field(default_factory=PopulationTable)
    data: DataTable | None = None
    cost: CostModel = field(default_factory=CostModel)
    network: Network = field(default_factory=IndependentLinks)
    model: Model | None = None
    objective: Objective
    aggregation: Aggregator
    selection: Selector[Any]
    broadcast: Broadcast
    client_rule: ClientRule
    work: Workload | None = None
    upload: tuple[Upload, ...] = ()
    keep: tuple[str, ...] = ()
    weighting: Weighting
    merge: Merge[Any]
    server_optimizer: ServerOptimizer
    executor: Executor
    evaluation: EvaluationTable = field(default_factory=EvaluationTable)
    record: RecordTable = field(default_factory=RecordTable)
    engine: EngineTable = field(default_factory=EngineTable)
    listener: tuple[Listener, ...] = ()
    actor: tuple[Actor, ...] = ()
    folder: Path = field(default=Path(), compare=False)
    notes: tuple[Caveat, ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        problems = together.problems({each.name: getattr(self, each.name) for each in fields(self)})
        if problems:
            raise ScenarioError(report(problems))

    @classmethod
    def load(cls, path: str | Path, overrides: Sequence[str] = (), *, paths_from: str | Path = ".") -> Scenario:
        """A scenario from a file, a run folder, or the name of a bundled scenario.

        Args:
            path: of the TOML file.
            overrides: ``"section.key=value"``, applied in order.
            paths_from: where relative paths in overrides begin; what is not there is looked up beside the file.

        Raises:
            ScenarioError: with every problem found.
        """
        file = find(path)
        typed = [override(text) for text in overrides]
        if Path(paths_from).resolve() != file.parent.resolve():
            typed = [from_working_directory(layer, Path(paths_from)) for layer in typed]
        layers = [*read(file), *typed]
        return cls(**assemble(cls, layers, name=file.stem, folder=file.parent), folder=file.parent)

    @classmethod
    def from_dict(
        cls, tables: Mapping[str, Any], overrides: Sequence[str] = (), *, folder: str | Path = "."
    ) -> Scenario:
        """A scenario from tables as a TOML file holds them, with overrides as `load` takes them.

        Raises:
            ScenarioError: with every problem found.
        """
        layers = [Layer("", dict(tables)), *(override(text) for text in overrides)]
        return cls(**assemble(cls, layers, name="scenario", folder=Path(folder)), folder=Path(folder))

    def to_toml(self) -> str:
        """The whole scenario as TOML, defaults included; loading it gives an equal scenario."""
        return self._toml

    def to_tables(self) -> dict[str, Any]:
        """The same as tables: what a TOML parser reads of `to_toml`."""
        return self._tables

    @cached_property
    def _toml(self) -> str:
        return tomli_w.dumps(self._tables)

    @cached_property
    def _tables(self) -> dict[str, Any]:
        return dumping.to_tables(self)
