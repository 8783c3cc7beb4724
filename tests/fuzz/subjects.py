"""What is fuzzed: a good file of each kind, how it is mutated, and what reads it."""

from __future__ import annotations

import csv
import gzip
import io
import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import tomli_w

from evsim.results import load_run
from evsim.results.arms import load_arms
from evsim.run.checkpoints import newest
from evsim.run.identity import kept_identity
from evsim.run.resuming import is_over, longer, resume_folder
from evsim.run.simulation import Simulation
from evsim.scenario import Scenario
from evsim.study import Study
from evsim.traces.availability import AvailabilityTrace
from evsim.traces.formats import columnar
from evsim.traces.joins.listed import Listed
from evsim.traces.population import populate
from evsim.traces.sources import load_availability, load_speed
from evsim.traces.speed import DeviceSpeed
from evsim.training.data.arrays import Arrays
from evsim.training.data.importing import import_data
from evsim.training.data.store import open_store
from evsim.training.data.writing import Limits
from evsim.verify import verify
from tests.fuzz import structures
from tests.fuzz.mutators import odd_value, of_bytes, of_tables

SCENARIO = {
    "name": "fuzzed",
    "start": "18:00",
    "stop": {"virtual_time": "2h", "server_steps": 3, "target_accuracy": 0.9},
    "model": {"kind": "mlp", "hidden": [8]},
    "client_rule": {"kind": "sgd", "learning_rate": 0.05, "batch_size": 5},
    "cost": {"model_bytes": 1000, "sample_scale": 2},
    "population": {"clients": 12, "availability": "always"},
    "data": {"dataset": "digits", "partition": {"kind": "dirichlet", "alpha": 0.5, "samples_per_client": 20}},
    "aggregation": {"kind": "synchronous", "cohort_goal": 4, "reporting_deadline": "12min"},
    "evaluation": {"every": "1h"},
    "selection": {"kind": "oort"},
}
STUDY = {
    "name": "fuzzed",
    "scenario": "quickstart",
    "seeds": 2,
    "target_accuracy": 0.5,
    "overrides": ["stop.virtual_time=1h"],
    "arms": {"a": [], "b": ["selection.kind=oort"]},
    "grid": {"client_rule.learning_rate": [0.1, 0.2]},
}
FLASH = {
    "1": {
        "guid": "g",
        "model": "M",
        "messages": "2020-02-02 00:00:00\t50.0%\n2020-02-02 01:00:00\tbattery_charged_on\n2020-02-02 01:00:00\twifi\n"
        "2020-02-02 02:00:00\tscreen_lock\n2020-02-03 00:00:00\t51.0%",
    }
}
TIMERS = {
    "9": {"isSuccess": True, "trace_start": 0, "trace_end": 90_000, "ready_time": [[3600, 7200]]},
    "10": {"isSuccess": False},
}
CAPACITY = {"1": {"computation": 10.0, "communication": 5.0}, "2": {"computation": 100.0, "communication": 50.0}}
RECORD = {"duration": 1000, "active": [0.0, 500.0], "inactive": [100.0, 600.0], "finish_time": 2000, "model": "x"}


class Subject:
    """A kind of input.

    Args:
        make: writes a good one into a folder, and returns the file to mutate.
        read: reads the folder's; raises an error of evsim if it refuses, else returns what it took it for.
        mutate: from content and generator to content.
    """

    def __init__(self, make, read, mutate=of_bytes):
        self.make, self.read, self.mutate = make, read, mutate


def toml(tables):
    def make(folder):
        (folder / "x.toml").write_text(tomli_w.dumps(tables), encoding="utf-8")
        return folder / "x.toml"

    def mutate(content, rng):
        if rng.random() < 0.5:
            return of_bytes(content, rng)
        return tomli_w.dumps(of_tables(tables, rng)).encode()

    return make, mutate


def in_json(made, name="x.json"):
    def make(folder):
        (folder / name).write_text(json.dumps(made), encoding="utf-8")
        return folder / name

    def mutate(content, rng):
        return of_bytes(content, rng) if rng.random() < 0.5 else json.dumps(of_tables(made, rng)).encode()

    return make, mutate


def written(name, content):
    def make(folder):
        (folder / name).write_bytes(content)
        return folder / name

    return make


def scenario(folder):
    found = Scenario.load(folder / "x.toml")
    text = found.to_toml()
    again = folder / "again.toml"
    again.write_text(text, encoding="utf-8")
    assert Scenario.load(again).to_toml() == text, "loads again as something else"
    return text


def overridden(folder):
    lines = (folder / "x.txt").read_bytes().decode("utf-8", "replace").splitlines()
    return Scenario.load("quickstart", lines).to_toml()


def overrides_mutated(content, rng):
    key = ("seed", "data.partition", "model.hidden", "stop.virtual_time", "selection.kind")[int(rng.integers(0, 5))]
    return of_bytes(content, rng) if rng.random() < 0.5 else f"{key}={odd_value(rng)}".encode("utf-8", "replace")


def trace(name):
    return lambda folder: load_availability({"path": name}, n_devices=3, seed=0, folder=folder).n_devices


def speed(name):
    return lambda folder: load_speed({"path": name}, n_devices=3, seed=0, folder=folder).n_devices


def listed(folder):
    always = AvailabilityTrace.always(3)
    fast = DeviceSpeed.uniform(3, compute_ms_per_sample=1.0, download_kbps=8.0, upload_kbps=8.0)
    return populate(
        n_clients=2,
        availability=always,
        speed=fast,
        join=Listed(file="x.csv"),
        sizes=np.array([1, 1]),
        seed=0,
        start_ms=0,
        folder=folder,
    ).device.tolist()


def columnar_trace(part):
    def make(folder):
        given = AvailabilityTrace.from_intervals(
            np.array([0, 1]), np.array([0, 5]), np.array([9, 8]), n_devices=2, period=20
        )
        columnar.write(folder / "t", availability=given)
        return folder / "t" / part

    return make


def npz(folder):
    np.savez_compressed(folder / "a.npz", x=np.zeros((6, 2), np.float32), y=np.arange(6), client=np.arange(6) // 2)
    return folder / "a.npz"


def store(part):
    def make(folder):
        npz(folder)
        import_data("numpy", str(folder / "a.npz"), folder / "s", options={}, limits=Limits())
        return folder / "s" / part

    return make


def run(good, part):
    def make(folder):
        shutil.copytree(good, folder / "r")
        return folder / "r" / part

    return make


def gone_on_with(folder):
    """As far as resuming and extending read what lies in `resume/`."""
    found = kept_identity(resume_folder(folder / "r"))
    saved = newest(resume_folder(folder / "r"))
    told = None if saved is None else len(list(saved.answers))
    is_over(folder / "r")
    return longer(folder / "r", ["stop.virtual_time=4h"]).name, found["paths_from"], told


def looked_at(folder):
    found = load_run(folder / "r")
    for table in ("tasks", "server_steps", "evaluations", "clients", "availability"):
        getattr(found, table)
    assert found.scenario_tables is not None
    return found.name


def imported(folder):
    shutil.rmtree(folder / "s", ignore_errors=True)
    import_data("leaf", str(folder / "x.json"), folder / "s", options={}, limits=Limits())
    return open_store(folder / "s").folder


def csv_text():
    text = io.StringIO()
    csv.writer(text).writerows([["device", "start_s", "end_s"], ["a", 0, 10], ["b", 5, 7], ["a", 20, 30]])
    return text.getvalue().encode()


def study(folder):
    found = Study.load(folder / "x.toml")
    found.scenarios()
    return found.name


def subjects(good: Path):
    """Every subject; `good` is a finished run."""
    made, mutated = toml(SCENARIO)
    study_made, study_mutated = toml(STUDY)
    fedscale, fedscale_mutated = in_json({"1": RECORD, "2": RECORD})
    data = {"a": {"x": [[1.0, 2.0]], "y": [0]}, "b": {"x": [[1.5, 2.5], [0.0, 1.0]], "y": [1, 0]}}
    leaf, leaf_mutated = in_json({"users": ["a", "b"], "num_samples": [1, 2], "user_data": data})
    flash, flash_mutated = in_json(FLASH)
    timers, timers_mutated = in_json(TIMERS)
    capacity, capacity_mutated = in_json(CAPACITY)
    manifest = (good / "manifest.json").read_text(encoding="utf-8")
    _, manifest_mutated = in_json(json.loads(manifest))
    told = {"name": "x", "seeds": [0], "arms": {"a": {"folder": "a", "overrides": []}}, "executors": []}
    study_json, study_json_mutated = in_json(told, "study.json")
    found = {
        "scenario": Subject(made, scenario, mutated),
        "override": Subject(written("x.txt", b"seed=3\nmodel.hidden=[8]\n"), overridden, overrides_mutated),
        "study": Subject(study_made, study, study_mutated),
        "study.json": Subject(study_json, lambda folder: load_arms([folder]), study_json_mutated),
        "fedscale json": Subject(fedscale, trace("x.json"), fedscale_mutated),
        "fedscale pickle": Subject(
            written("x", pickle.dumps({1: RECORD, 2: RECORD})),
            trace("x"),
            structures.pickled({"1": RECORD, "2": RECORD}),
        ),
        "pickle of arrays": Subject(written("x", pickle.dumps({1: RECORD | {"active": np.arange(2.0)}})), trace("x")),
        "fedscale speed": Subject(capacity, speed("x.json"), capacity_mutated),
        "flash": Subject(flash, trace("x.json"), flash_mutated),
        "flash timers": Subject(timers, trace("x.json"), timers_mutated),
        "gzip": Subject(written("x.csv", gzip.compress(csv_text())), trace("x.csv")),
        "csv": Subject(written("x.csv", csv_text()), trace("x.csv"), structures.half_of_bytes(structures.rows)),
        "csv of edges": Subject(written("x.csv", _EDGES), trace("x.csv"), structures.half_of_bytes(structures.rows)),
        "csv of speeds": Subject(written("x.csv", _SPEEDS), speed("x.csv"), structures.half_of_bytes(structures.rows)),
        "listed": Subject(written("x.csv", _LISTED), listed, structures.half_of_bytes(structures.rows)),
        "matrix": Subject(
            written("x.csv", b"device,0,1,2\na,1,0,1\nb,0,1,1\n"),
            trace("x.csv"),
            structures.half_of_bytes(structures.rows),
        ),
        "npy matrix": Subject(written("x.npy", _npy()), trace("x.npy"), structures.npy),
        "leaf": Subject(leaf, imported, leaf_mutated),
        "npz": Subject(
            npz, lambda folder: Arrays(path=".").load(n_clients=None, seed=0, folder=folder), structures.npz
        ),
    }
    for part in ("manifest.json", "availability.parquet", "devices.parquet"):
        found[f"trace {part}"] = Subject(columnar_trace(part), trace("t"), _mutator_of(part))
    for part in ("manifest.json", "x.npy", "y.npy"):
        found[f"store {part}"] = Subject(store(part), lambda folder: open_store(folder / "s").folder, _mutator_of(part))
    for part in ("scenario.toml", "tasks.parquet", "evaluations.parquet"):
        found[f"run {part}"] = Subject(run(good, part), looked_at, _mutator_of(part))
        found[f"verify {part}"] = Subject(run(good, part), lambda folder: verify(folder / "r"), _mutator_of(part))
    for path in sorted((good / "resume").iterdir()):
        if path.suffix in {".json", ".arrow"}:
            mutator = in_json(json.loads(path.read_text()))[1] if path.suffix == ".json" else of_bytes
            name = "".join("n" if each.isdecimal() else each for each in path.name)
            found[f"resume {name}"] = Subject(run(good, f"resume/{path.name}"), gone_on_with, mutator)
    found["run manifest"] = Subject(run(good, "manifest.json"), looked_at, manifest_mutated)
    found["verify manifest"] = Subject(
        run(good, "manifest.json"), lambda folder: verify(folder / "r"), manifest_mutated
    )
    return found


def _mutator_of(part):
    kinds = {".parquet": structures.parquet, ".npy": structures.npy}
    return kinds.get(Path(part).suffix, of_bytes)


def good_run(folder):
    """A tiny finished run."""
    tables = SCENARIO | {"executor": {"kind": "serial", "threads": 1}}
    return Simulation(Scenario.from_dict(tables, folder=str(folder)), device="cpu").run(folder / "good")


def _npy():
    content = io.BytesIO()
    np.save(content, np.array([[1, 0, 1], [0, 1, 1]], np.int8))
    return content.getvalue()


_EDGES = b"device,time_s,event\na,0,in\na,10,out\nb,5,in\nb,7,out\n"
_SPEEDS = b"device,compute_ms_per_sample,download_kbps,upload_kbps\na,1,8,8\nb,2.5,100,50\n"
_LISTED = b"client,device\n0,1\n1,2\n"
