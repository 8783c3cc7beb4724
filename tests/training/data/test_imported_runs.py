"""What was imported can be run: by every executor that reads it in its own way."""

from __future__ import annotations

import json

import h5py
import numpy as np
import pytest

from evsim import Scenario, Simulation, load_run
from evsim.training.data.importing import import_data
from evsim.training.data.store import open_store
from evsim.training.data.suggesting import scenario_for
from tests.training.data.test_importers import (
    PIXELS,
    hub_table,
    leaf,
    save_to_disk,
    write_json,
    write_mapping,
    write_pickle,
    write_png,
)
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


# -- every format of a paper, from its files to a curve, by the scenario that the import prints ------------------------


def write_cifar(root):
    data = np.random.default_rng(0).integers(0, 256, (10, 3072), np.uint8)
    for batch in [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]:
        write_pickle(root / "cifar-10-batches-py" / batch, {b"data": data, b"labels": list(range(10))})
    write_pickle(root / "cifar-10-batches-py/batches.meta", {b"label_names": [b"n%d" % each for each in range(10)]})


def write_leaf(root):
    floats = (PIXELS.reshape(6, 784) / 255.0).tolist()
    write_json(root / "train/a.json", leaf({f"f{user}": (floats, [0, 1, 2, 0, 1, 2]) for user in range(6)}))
    write_json(root / "test/a.json", leaf({"f0": (floats, [0, 1, 2, 0, 1, 2])}))


def write_tff(root):
    said = [b"how to sort a list", b"a list to sort", b"sort it"]
    for part, users in (("train", 6), ("test", 2)):
        with h5py.File(root / f"stackoverflow_{part}.h5", "w") as file:
            for user in range(users):
                file[f"examples/u{user}/tokens"] = np.array(said, dtype=object)


def write_fedscale(root):
    for row in range(6):
        write_png(root / f"img/{row}.png", PIXELS[row])
    rows = [f"{client},img/{row}.png,n{row % 3},{row % 3}" for client in range(6) for row in range(6)]
    for part in ("train", "test"):
        write_mapping(root, "\n".join(rows) + "\n", part)


def write_hub(root):
    write_json(root / "dataset_dict.json", {"splits": ["train", "test"]})
    save_to_disk(root / "train", hub_table([*range(6)] * 3))
    save_to_disk(root / "test", hub_table(range(6)))


FORMATS = {
    "cifar": (write_cifar, {}),
    "leaf": (write_leaf, {}),
    "tff": (write_tff, {"words": 8, "length": 5}),
    "fedscale": (write_fedscale, {"colours": "L"}),
    "huggingface": (write_hub, {}),
}


@pytest.mark.parametrize("kind", FORMATS)
def test_files_of_a_format_become_a_curve_by_the_scenario_that_is_printed(tmp_path, kind):
    write_it, options = FORMATS[kind]
    (tmp_path / "files").mkdir()
    write_it(tmp_path / "files")
    import_data(kind, str(tmp_path / "files"), tmp_path / "mine", options=options)
    text = scenario_for(open_store(tmp_path / "mine"), "mine")
    (tmp_path / "s.toml").write_text(text, encoding="utf-8")
    goal = ["aggregation.cohort_goal=2", "aggregation.minimum_cohort=2", "aggregation.minimum_reports=1"]
    few = [*goal, "population.availability=always", "stop.server_steps=1", "executor.kind=serial", "evaluation.every=1"]
    clients = [] if "natural" in text else ["population.clients=5"]
    run = load_run(Simulation(Scenario.load(tmp_path / "s.toml", [*few, *clients])).run(tmp_path / "run"))
    assert len(run.server_steps) == 1
    losses = run.evaluations[run.evaluations["metric"] == "loss"]["value"]
    assert losses.is_unique
    assert len(losses) >= 2
