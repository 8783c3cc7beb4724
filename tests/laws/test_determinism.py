"""The same scenario gives the same timeline: in fresh interpreters, and however training is grouped."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from evsim import Scenario, Simulation

PROGRAM = """
import sys
from evsim import Scenario, Simulation
Simulation(Scenario.load("quickstart", overrides=sys.argv[2:]), device="cpu").run(sys.argv[1])
"""
SHORT = ["stop.server_steps=6", "population.clients=80", 'executor.kind="serial"']


def test_three_fresh_interpreters_with_different_hash_seeds_agree(tmp_path: Path) -> None:
    manifests, tables = [], []
    for hash_seed in ("0", "1", "random"):
        folder = tmp_path / hash_seed
        subprocess.run(
            [sys.executable, "-c", PROGRAM, str(folder), *SHORT],
            check=True,
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
        )
        manifests.append(json.loads((folder / "manifest.json").read_text()))
        tables.append(pd.read_parquet(folder / "tasks.parquet"))
    assert len({manifest["timeline_hash"] for manifest in manifests}) == 1
    for table in tables[1:]:
        pd.testing.assert_frame_equal(tables[0], table)


@pytest.mark.parametrize("executor", ['executor.kind="batched"', 'executor={ kind = "batched", chunk = 3 }'])
def test_grouping_of_training_does_not_touch_the_timeline(tmp_path: Path, executor: str) -> None:
    hashes = []
    for number, override in enumerate([SHORT[-1], executor]):
        scenario = Scenario.load("quickstart", overrides=[*SHORT[:-1], override])
        folder = Simulation(scenario, device="cpu").run(tmp_path / str(number))
        hashes.append(json.loads((folder / "manifest.json").read_text())["timeline_hash"])
    assert hashes[0] == hashes[1]


def test_a_dry_run_has_the_timeline_of_the_real_one(tmp_path: Path) -> None:
    real = Scenario.load("quickstart", overrides=SHORT)
    dry = Scenario.load("quickstart", overrides=[*SHORT, 'training="none"'])
    hashes = [
        json.loads((Simulation(scenario, device="cpu").run(tmp_path / name) / "manifest.json").read_text())
        for name, scenario in (("real", real), ("dry", dry))
    ]
    assert hashes[0]["timeline_hash"] == hashes[1]["timeline_hash"]


def test_another_seed_is_another_timeline(tmp_path: Path) -> None:
    found = set()
    for seed in (0, 1):
        scenario = Scenario.load("quickstart", overrides=[*SHORT, f"seed={seed}", 'training="none"'])
        folder = Simulation(scenario, device="cpu").run(tmp_path / str(seed))
        found.add(json.loads((folder / "manifest.json").read_text())["timeline_hash"])
    assert len(found) == 2
