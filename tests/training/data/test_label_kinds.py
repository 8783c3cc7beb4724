"""Labels of every kind through importers and the store: classes, steps, flags, numbers; and runs that learn them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from evsim import Scenario, Simulation, load_run
from evsim.base.errors import DataError
from evsim.training.data.importing import import_data
from evsim.training.data.looks import describe_data, look_at, plot_data
from evsim.training.data.store import Store, open_store

DRAW = np.random.default_rng(0)
KINDS = {
    "classes": DRAW.integers(0, 4, 60),
    "steps": np.where(DRAW.random((60, 5)) < 0.2, -1, DRAW.integers(0, 300, (60, 5))),
    "flags": DRAW.integers(0, 2, (60, 4)),
    "numbers": DRAW.normal(size=60),
    "several numbers": DRAW.normal(size=(60, 2)),
}


def load(folder):
    return Store(path=str(folder)).load(n_clients=None, seed=0, folder=Path())


@pytest.mark.parametrize("name", KINDS)
def test_labels_come_back_as_they_were_sorted_by_client(tmp_path, name):
    y, client = KINDS[name], np.arange(60) % 3
    kind = name.removeprefix("several ")
    np.savez(tmp_path / "a.npz", x=np.arange(120.0).reshape(60, 2), y=y, client=client)
    import_data("numpy", str(tmp_path / "a.npz"), tmp_path / "s", options={"labels": kind})
    samples = load(tmp_path / "s")
    assert samples.labels == kind
    np.testing.assert_allclose(samples.y, y[np.argsort(client, kind="stable")], atol=1e-6)
    assert samples.n_classes == {"classes": 4, "steps": int(y.max()) + 1, "flags": 4}.get(kind, y[0].size)
    told = describe_data(look_at(str(tmp_path / "s")))
    assert ("label skew" in told) == (kind == "classes")
    words = {"classes": "4, ", "steps": "time steps, ", "flags": "4 flags, ", "numbers": "to predict, "}
    assert words[kind] in told["labels"]
    plot_data(look_at(str(tmp_path / "s")), tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 5_000


def write_csv(path, rows):
    path.write_text("\n".join(",".join(map(str, row)) for row in rows), encoding="utf-8")


def test_a_csv_file_may_have_numbers_to_predict(tmp_path):
    write_csv(tmp_path / "a.csv", [("client", "a", "b", "target"), (1, 0.5, 2, 0.25), (0, 1.5, 3, 2.5), (1, 1, 1, -1)])
    with pytest.raises(DataError, match=r'say labels = "numbers"'):
        import_data("table", str(tmp_path / "a.csv"), tmp_path / "s")
    import_data("table", str(tmp_path / "a.csv"), tmp_path / "s", options={"labels": "numbers"})
    samples = load(tmp_path / "s")
    np.testing.assert_array_equal(samples.y, np.float32([2.5, 0.25, -1]))
    np.testing.assert_array_equal(samples.x[:], [[1.5, 3], [0.5, 2], [1, 1]])


def test_columns_of_a_table_may_be_flags_or_numbers(tmp_path):
    write_csv(tmp_path / "a.csv", [("a", "red", "round"), (0.5, 1, 0), (1.5, 0, 0), (2.5, 1, 1)])
    import_data("table", str(tmp_path / "a.csv"), tmp_path / "flags", options={"y": "red,round"})
    assert load(tmp_path / "flags").labels == "flags"
    np.testing.assert_array_equal(load(tmp_path / "flags").y, [[1, 0], [0, 0], [1, 1]])
    import_data("table", str(tmp_path / "a.csv"), tmp_path / "n", options={"y": "red,round", "labels": "numbers"})
    assert open_store(tmp_path / "n").labels == "numbers"


def test_a_parquet_column_of_lists_is_flags_or_time_steps(tmp_path):
    table = pa.table({"x": [[1, 2], [3, 4], [0, 5]], "y": [[2, 3], [4, -1], [1, 0]], "client": ["a", "b", "a"]})
    pq.write_table(table, tmp_path / "a.parquet")
    import_data("table", str(tmp_path / "a.parquet"), tmp_path / "s")
    samples = load(tmp_path / "s")
    assert (samples.labels, samples.n_classes, samples.n_tokens) == ("steps", 5, 6)
    np.testing.assert_array_equal(samples.y, [[2, 3], [1, 0], [4, -1]])


@pytest.mark.parametrize(
    ("y", "labels", "said"),
    [
        (np.array([[0, 1], [2, 0], [1, 1]]), "flags", "y holds 2; expected zeros and ones"),
        (np.array([[0, -2], [2, 0], [1, 1]]), "steps", "y holds -2; expected classes from 0, or -1"),
        (np.array([0.5, np.nan, 1]), "numbers", "not finite|is not finite"),
        (np.array([[0.5, 1], [1, 1], [1, 1]]), "classes", "expected a class per sample"),
        (np.array(["a", "b", "c"]), "numbers", "labels are texts; expected numbers"),
    ],
    ids=["flags", "steps", "numbers", "classes", "texts"],
)
def test_labels_of_another_kind_are_refused(tmp_path, y, labels, said):
    np.savez(tmp_path / "a.npz", x=np.zeros((3, 2)), y=y)
    with pytest.raises(DataError, match=said):
        import_data("numpy", str(tmp_path / "a.npz"), tmp_path / "s", options={"labels": labels})
    assert not (tmp_path / "s").exists()


def test_a_store_of_labels_of_an_unknown_kind_is_refused(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.zeros((3, 2)), y=np.arange(3))
    import_data("numpy", str(tmp_path / "a.npz"), tmp_path / "s")
    manifest = json.loads((tmp_path / "s" / "manifest.json").read_text(encoding="utf-8"))
    (tmp_path / "s" / "manifest.json").write_text(json.dumps({**manifest, "label_kind": "boxes"}), encoding="utf-8")
    with pytest.raises(DataError, match="labels of kind 'boxes'; expected classes, steps, flags, numbers"):
        load(tmp_path / "s")


SCENARIO = """
extends = "quickstart"
unset = ["population.clients", "model.hidden", "stop.target_accuracy", "aggregation.reporting_deadline"]
stop = {{ server_steps = 2 }}
objective = "{objective}"
model = {{ kind = "mlp", hidden = [4] }}
data = {{ dataset = {{ kind = "store", path = "s" }}, partition = "natural" }}
aggregation = {{ cohort_goal = 3, minimum_cohort = 3, minimum_reports = 1 }}
population = {{ availability = "always" }}
"""


@pytest.mark.parametrize(
    ("name", "objective", "metric"),
    [("flags", "multi_label", "f1"), ("numbers", "regression", "rmse"), ("several numbers", "regression", "mae")],
)
def test_a_store_of_these_labels_is_learnt(tmp_path, name, objective, metric):
    kind = name.removeprefix("several ")
    np.savez(tmp_path / "a.npz", x=DRAW.normal(size=(60, 3)), y=KINDS[name], client=np.arange(60) % 6)
    import_data("numpy", str(tmp_path / "a.npz"), tmp_path / "s", options={"labels": kind})
    (tmp_path / "s.toml").write_text(SCENARIO.format(objective=objective), encoding="utf-8")
    run = load_run(Simulation(Scenario.load(tmp_path / "s.toml")).run(tmp_path / "run"))
    assert len(run.server_steps) == 2
    assert metric in set(run.evaluations["metric"])
