"""Small runs of every kind of state that a checkpoint holds, and how two finished run folders are compared."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from evsim import Scenario
from evsim.run.schema import TABLES

#: Overrides of the bundled quickstart: a run of a second.
SMALL = [
    "population.clients=100",
    'executor.kind="serial"',
    "stop={server_steps=8}",
    "evaluation.every=3",
    'record.checkpoint_every="1ms"',
]
_ROUNDS = ["aggregation.cohort_goal=5", "aggregation.minimum_cohort=4", "aggregation.minimum_reports=2"]
_BUFFERED = ['aggregation={kind="buffered",concurrency=8,buffer_size=3}']
_SCAFFOLD = ['algorithm="scaffold"']
_TOP_K = ['upload=[{kind="top_k",share=0.1}]']

#: Whether all cases are tried instead of some; how many runs are killed.
EVERY_CASE, KILLS = "EVSIM_KILLS" in os.environ, int(os.environ.get("EVSIM_KILLS", "4"))

_OUTAGE = "{kind='outage',at='20min',lasts='10min',keep=true}"
#: By name, what is laid over the bundled quickstart.
CASES = {
    "synchronous": [],
    "late reports": ['aggregation.late_reports="keep"', "aggregation.max_staleness=4"],
    "momentum": ['server_optimizer={kind="fedadam"}'],
    "buffered": _BUFFERED,
    "oort": ['selection={kind="oort"}'],
    "oort, buffered": ['selection={kind="oort"}', "record.selector=true", *_BUFFERED],
    "kept head, work by class": ['keep=["3.*"]', "work={kind='by_class', shares=[1.0, 0.4]}", "client_rule.epochs=2"],
    "plain manager": ['selection={kind="manager", target="tests.crash.plain:Plain"}'],
    "oort, prompt": ['selection={kind="oort"}', 'engine.replay="events"'],
    "power of choice": ['selection={kind="power_of_choice",d=20}'],
    "scaffold": _SCAFFOLD,
    "top-k": _TOP_K,
    "top-k, buffered, oort": [*_TOP_K, *_BUFFERED, 'selection={kind="oort"}'],
    "target accuracy": ["stop.target_accuracy=0.12"],
    "another target": ["stop.target_accuracy=", "stop.target={metric='loss',at_most=2.295}"],
    "clients by themselves": ["evaluation.per_client=true", "data.client_test_fraction=0.3"],
    "some clients": ["evaluation.per_client=true", "evaluation.client_sample=20"],
    "acted on": [
        f"actor=[{_OUTAGE},{{kind='fault',crash_every='1h',link_every='1h'}},{{kind='battery',first=0.1}}]",
        "network={kind='shared',down_kbps=100000,up_kbps=50000}",
    ],
    "batched": ['executor={kind="batched",chunk=4}'],
    "workers": ['executor={kind="workers",workers=2}'],
    "scaffold, workers": [*_SCAFFOLD, 'executor={kind="workers",workers=2}'],
}


def scenario_of(case: str, *more: str) -> Scenario:
    """A run of a second."""
    rounds = [] if any("buffered" in each for each in CASES[case]) else _ROUNDS
    return Scenario.load("quickstart", overrides=[*SMALL, *rounds, *CASES[case], *more])


def results(folder: Path) -> dict[str, Any]:
    """What may not differ: the bytes of all tables and of the model, the manifest but for wall-clock time."""
    names = [*(f"{table}.parquet" for table in TABLES), "model.safetensors", "scenario.toml"]
    told = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    told = {key: value for key, value in told.items() if key not in ("wall_s", "engine")}
    return told | {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}
