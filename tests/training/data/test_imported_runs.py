"""What was imported can be run: by every executor that reads it in its own way."""

from __future__ import annotations

import json

import numpy as np
import pytest

from evsim import Scenario, Simulation, load_run
from evsim.training.data.importing import import_data
from tests.training.data.test_importers import leaf, write_json
from tests.training.data.test_store import write

COMMON = {
    "extends": "quickstart",
    "unset": ["population.clients"],
    "population.availability": "always",
    "stop.server_steps": 2,
    "aggregation.cohort_goal": 3,
    "aggregation.over_commitment": 1.0,
    "aggregation.minimum_cohort": 3,
    "aggregation.minimum_reports": 1,
    "data.partition": "natural",
    "data.dataset.kind": "store",
    "data.dataset.path": "store",
}


def losses_of(folder, executor, **options):
    lines = []
    for key, value in {**COMMON, "executor.kind": executor, **options}.items():
        lines.append(f"{key} = {json.dumps(value)}")
    (folder / "s.toml").write_text("\n".join(lines), encoding="utf-8")
    out = folder / f"run-{executor}-{options.get('data.dataset.kind', 'store')}"
    table = load_run(Simulation(Scenario.load(folder / "s.toml")).run(out)).evaluations
    return table[table["metric"] == "loss"]["value"].to_numpy()


@pytest.mark.parametrize("executor", ["serial", "batched", "workers"])
def test_a_store_of_images_is_trained_on(tmp_path, executor):
    draw = np.random.default_rng(0)
    y = draw.integers(0, 3, 60)
    images = (draw.integers(0, 60, (60, 8, 8)) + 60 * y[:, None, None]).astype(np.uint8)
    write(tmp_path / "store", x=images, y=y, client=np.arange(60) % 6)
    losses = losses_of(tmp_path, executor, **{"precision": "float64", "model.kind": "mlp"})
    (tmp_path / "arrays").mkdir()
    order = np.lexsort([np.arange(60), np.arange(60) % 6])  # as the store has them: the test set is drawn by position
    x = (images / 255)[order][:, None]
    np.savez(tmp_path / "arrays" / "a.npz", x=x, y=y[order], client=(np.arange(60) % 6)[order])
    dataset = {"data.dataset.kind": "arrays", "data.dataset.path": "arrays"}
    plain = losses_of(tmp_path, "serial", **{"precision": "float64", "model.kind": "mlp", **dataset})
    np.testing.assert_allclose(losses, plain, rtol=1e-6)  # arrays are kept in float32


def test_leaf_texts_are_trained_on(tmp_path):
    said = "To be, or not to be, that is the question"
    users = {
        f"u{n}": ([said[at : at + 10] for at in range(n, 30)], [said[at + 10] for at in range(n, 30)]) for n in range(4)
    }
    write_json(tmp_path / "f/all.json", leaf(users))
    import_data("leaf", str(tmp_path / "f"), tmp_path / "store")
    losses = losses_of(tmp_path, "serial", **{"model.kind": "gru"})
    assert losses[-1] < losses[0]
