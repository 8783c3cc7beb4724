"""The manifest of a run: what ran, on what, how it ended, and the digests that name its timeline and traces."""

from __future__ import annotations

import hashlib
import platform
from dataclasses import asdict
from functools import lru_cache
from importlib.metadata import version
from math import inf
from typing import TYPE_CHECKING, Any

import numpy as np

from evsim.base.errors import MissingExtraError
from evsim.run.caveats import MEASURED_ON, TASK_COLUMNS, measured
from evsim.run.plug_ins import plug_ins
from evsim.run.schema import FORMAT
from evsim.scenario.caveats import sampling
from evsim.timeline.world import ANSWER_BYTES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from evsim.base.metrics import Target
    from evsim.base.vocabulary import IntArray
    from evsim.run.assembly import Parts
    from evsim.run.recorder import Recorder
    from evsim.scenario import Scenario
    from evsim.timeline.server import LiveServer
    from evsim.traces.population import Population


def manifest(scenario: Scenario, parts: Parts, server: LiveServer, reason: str, wall_s: float) -> dict[str, Any]:
    """Everything about a run that is not a row of a table; times in ms, sizes in bytes."""
    return {
        "format": FORMAT,
        "evsim": installed("evsim"),
        "versions": versions(),
        "name": scenario.name,
        "seed": scenario.seed,
        "start_ms": scenario.start,
        "training": scenario.training,
        "precision": scenario.precision,
        "device": parts.device,
        "end": {"at": server.now, "reason": reason},
        "horizon_ms": scenario.stop.virtual_time,
        "target_accuracy": scenario.stop.target_accuracy,
        "target": _told(scenario.stop.goal),
        "headline": scenario.objective.headline,
        "server_steps": server.version,
        "rounds": server.rounds,
        "timeline_hash": server.timeline_hash,
        "trace_hash": trace_hash(parts.population),
        "caveats": [caveat.to_json() for caveat in parts.caveats],
        "population": _population(parts),
        "cost": _cost(scenario, parts),
        "executor": {} if parts.learning is None else dict(parts.learning.plan),
        "plug_ins": plug_ins(scenario),
        "privacy": _privacy(scenario, int((parts.samples > 0).sum()), server.version),
        "wall_s": round(wall_s, 3),
    }


def with_measured(told: dict[str, Any], recorder: Recorder, scenario: Mapping[str, Any]) -> dict[str, Any]:
    """A manifest with the caveats that a run's tables show, once they are written."""
    tables = {name: recorder.table(name, TASK_COLUMNS if name == "tasks" else None) for name in MEASURED_ON}
    frames = {name: table.to_pandas() for name, table in tables.items()}
    known = {caveat["key"] for caveat in told["caveats"]}
    found = measured(frames, told, scenario)
    return {**told, "caveats": [*told["caveats"], *(each.to_json() for each in found if each.key not in known)]}


def _told(goal: Target | None) -> dict[str, Any] | None:
    """A target as study files write it."""
    return None if goal is None else {key: each for key, each in asdict(goal).items() if each is not None}


def _population(parts: Parts) -> dict[str, Any]:
    population = parts.population
    return {
        "clients": len(parts.samples),
        "clients_with_data": int((parts.samples > 0).sum()),
        "distinct_devices": len(np.unique(population.device)),
        "clones": int((population.clone > 0).sum()),
        "period_ms": _one_for_all(population.availability.period),
        "join": type(population.join).__name__.lower(),
        "notes": [note.to_json() for note in population.notes],
    }


def _one_for_all(values: IntArray) -> int | None:
    return int(values[0]) if len(values) and bool((values == values[0]).all()) else None


def _bytes_by_group(parts: Parts) -> dict[str, Any]:
    """Charged bytes of each group's messages, where they differ."""
    own = parts.own
    if own is None:
        return {}
    _, first = np.unique(own.group, return_index=True)
    return {"bytes_down_of_groups": own.bytes_down[first].tolist(), "bytes_up_of_groups": own.bytes_up[first].tolist()}


def _cost(scenario: Scenario, parts: Parts) -> dict[str, Any]:
    """What was charged, beside what was true."""
    cost = scenario.cost
    return {
        "model_bytes": cost.model_bytes or parts.true_model_bytes,
        "true_model_bytes": parts.true_model_bytes,
        "bytes_down": parts.wire_bytes[0],
        "bytes_up": parts.wire_bytes[1],
        **_bytes_by_group(parts),
        "sample_scale": cost.sample_scale,
        "training_factor": cost.training_factor,
        "availability_check": cost.availability_check,
        "answer_bytes": ANSWER_BYTES,
        "compute_jitter": parts.population.speed.compute_jitter,
        "network_jitter": parts.population.speed.network_jitter,
    }


def _privacy(scenario: Scenario, n_clients: int, steps: int) -> dict[str, Any] | None:
    """What differential privacy the run gave its clients with data; None if its method has none."""
    from evsim.algorithms.central_dp import CentralDp

    merge = scenario.merge
    if not isinstance(merge, CentralDp):
        return None
    try:
        found = asdict(merge.privacy(sampling(scenario, n_clients), steps))
    except MissingExtraError as error:
        return {"epsilon": None, "warnings": [str(error)]}
    except (ArithmeticError, ValueError, MemoryError) as error:  # no reason to lose a run
        return {"epsilon": None, "warnings": [f"the account of privacy failed: {type(error).__name__}: {error}"]}
    return {name: str(value) if value == inf else value for name, value in found.items()}


@lru_cache(maxsize=16)
def installed(package: str) -> str:
    """The version of an installed package; asking takes milliseconds, so it is asked once."""
    return version(package)


def versions() -> dict[str, str]:
    """Of Python and of the packages that results depend on."""
    packages = ("torch", "numpy", "simpy", "pandas", "pyarrow")
    return {"python": platform.python_version(), **{name: installed(name) for name in packages}}


def trace_hash(population: Population) -> str:
    """Digest of the sessions and speeds of all clients."""
    trace, speed = population.availability, population.speed
    digest = hashlib.blake2b(digest_size=16)
    for column in (trace.offsets, trace.starts, trace.stops, trace.period):
        digest.update(np.ascontiguousarray(column, "<i8").tobytes())
    latency = [speed.latency_ms] if speed.latency_ms.any() else []
    for rates in (speed.compute_ms_per_sample, speed.download_kbps, speed.upload_kbps, *latency):
        digest.update(np.ascontiguousarray(rates, "<f8").tobytes())
    return digest.hexdigest()
