"""What a run may depend on: its scenario, its executor's plan, its versions. Nothing else, and each by what it may."""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from evsim import Simulation, load_run
from evsim.run import recorder, simulation
from tests.crash.cases import CASES, scenario_of
from tests.crash.once import digest

ROOT = Path(__file__).parents[2]
PINNED = 'executor={kind="serial",threads=1}'
EXECUTORS = ("serial", "batched", "workers")


@pytest.fixture(autouse=True)
def _as_it_was(monkeypatch):
    """`digest` sets them for the whole interpreter."""
    monkeypatch.setattr(recorder, "_FLUSH_EVERY_S", recorder._FLUSH_EVERY_S)
    monkeypatch.setattr(simulation, "_WRITE_EVERY_S", simulation._WRITE_EVERY_S)


def in_an_interpreter(case, folder, *, seed, threads, flush, stop, more=()):
    environment = os.environ | {"PYTHONHASHSEED": seed, "OMP_NUM_THREADS": threads, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tests.crash.once", case, str(folder), str(flush), str(stop), *more]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1].removeprefix("digest ")


@pytest.mark.parametrize("case", ["oort, buffered", pytest.param("synchronous", marks=pytest.mark.slow)])
def test_flush_points_and_stops_change_nothing(tmp_path, case):
    expected = digest(case, tmp_path / "whole", PINNED)
    for number, (flush, stop) in enumerate([(0.0, 0), (0.003, 3), (9.0, 6)]):
        assert digest(case, tmp_path / str(number), PINNED, flush_every_s=flush, stop_at=stop) == expected


def test_another_interpreter_gives_the_same_bits(tmp_path):
    expected = digest("oort, buffered", tmp_path / "here", PINNED)
    told = in_an_interpreter(
        "oort, buffered", tmp_path / "there", seed="77", threads="2", flush=0.01, stop=4, more=[PINNED]
    )
    assert told == expected


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_the_whole_matrix(tmp_path, case):
    """Hash seeds, threads of the machine, flush points and stops, on the pinned plan of each executor."""
    for executor in EXECUTORS:
        plan = {"serial": PINNED, "batched": 'executor={kind="batched",chunk=4}'}.get(
            executor, 'executor={kind="workers",workers=2}'
        )
        expected = digest(case, tmp_path / executor, plan)
        for number, (seed, threads, flush, stop) in enumerate(
            product(("0", "1", "4711"), ("1", "2"), (0.0, 2.0), (0, 2, 5))
        ):
            if number % 5:  # every fifth: each value of each meets each of every other
                continue
            if executor == "batched":  # its plan does not pin the threads of its products
                threads = os.environ.get("OMP_NUM_THREADS", threads)  # noqa: PLW2901
            folder = tmp_path / f"{executor}-{number}"
            told = in_an_interpreter(case, folder, seed=seed, threads=threads, flush=flush, stop=stop, more=[plan])
            assert told == expected, (executor, seed, threads, flush, stop)


@pytest.mark.parametrize(
    "case", ["buffered", *(pytest.param(each, marks=pytest.mark.slow) for each in ("synchronous", "scaffold"))]
)
def test_another_executor_gives_the_same_timeline_and_almost_the_same_model(tmp_path, case):
    """A selector that does not listen to losses: nothing learnt flows back, so the timeline is the same to the bit."""
    found = {}
    for kind in EXECUTORS:
        options = {"serial": "threads=1", "batched": "chunk=4", "workers": "workers=2"}[kind]
        scenario = scenario_of(case, 'precision="float64"', f'executor={{kind="{kind}",{options}}}')
        found[kind] = Simulation(scenario, device="cpu").run(tmp_path / kind)
    told = load_run(found["serial"])
    model = load_file(found["serial"] / "model.safetensors")
    for kind in EXECUTORS[1:]:
        other = load_run(found[kind])
        assert other.manifest["timeline_hash"] == told.manifest["timeline_hash"]
        for table in ("tasks", "clients", "sessions", "availability"):
            assert (found[kind] / f"{table}.parquet").read_bytes() == (
                found["serial"] / f"{table}.parquet"
            ).read_bytes()
        for name, leaf in load_file(found[kind] / "model.safetensors").items():
            np.testing.assert_allclose(leaf, model[name], rtol=1e-9, atol=1e-12)
