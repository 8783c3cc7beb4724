"""Who learns: groups of clients by hand, and as a run writes what they are made of."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from evsim import Scenario, Simulation, load_run
from evsim.base.errors import PolicyError, RunFolderError
from evsim.base.metrics import Target
from evsim.results import by_group, metrics
from evsim.results.arm_figures import groups_figure
from evsim.results.arms import Arms
from evsim.run.recorder import Recorder
from tests.results.hand_made import write


def judged(folder, values, monkeypatch, *, version=3, metric="accuracy"):
    """A run of six clients; the clients named were judged so at a version."""
    close = Recorder.close

    def also(self):
        if values and not self._closed:
            count = len(values)
            self.append(
                "client_evaluations",
                {"at": [600] * count, "version": [version] * count, "client": list(values), "split": ["train"] * count}
                | {"metric": [metric] * count, "value": list(values.values()), "samples": [10 + c for c in values]},
            )
        close(self)

    monkeypatch.setattr(Recorder, "close", also)
    return write(folder, rows=ROWS)


#: Clients 0 and 1 are merged twice, client 2 once.
ROWS = tuple(("AGGREGATED", client, 0, 100, 20, 50, 30, 0) for client in (0, 1, 1, 2, 0))
VALUES = {0: 0.1, 1: 0.3, 2: 0.5, 3: 0.7, 4: 0.9, 5: 1.0}


def test_halves_by_data_size_by_hand(tmp_path, monkeypatch):
    run = judged(tmp_path / "run", VALUES, monkeypatch)
    found = by_group(run, "data_size", quantiles=2)
    assert found.index.tolist() == [1, 2]
    assert found[["low", "high", "clients", "samples"]].to_numpy().tolist() == [[10, 12, 3, 33], [13, 15, 3, 42]]
    overall = np.mean(list(VALUES.values()))
    np.testing.assert_allclose(found["accuracy"], [0.3, 2.6 / 3], rtol=1e-12)
    np.testing.assert_allclose(found["accuracy_gap"], found["accuracy"] - overall, rtol=1e-12)


def test_clients_with_the_same_value_are_in_one_group(tmp_path, monkeypatch):
    run = judged(tmp_path / "run", VALUES, monkeypatch)
    found = metrics.by_group(run, "participation")
    assert found["low"].tolist() == found["high"].tolist() == [0, 1, 2]
    assert found["clients"].tolist() == [3, 1, 2]
    assert by_group(run, "availability")["clients"].tolist() == [6]
    assert by_group(run, "speed")["clients"].tolist() == [6]


def test_any_column_and_any_numbers_make_groups(tmp_path, monkeypatch):
    run = judged(tmp_path / "run", VALUES, monkeypatch)
    assert by_group(run, "device", quantiles=3)["clients"].tolist() == [2, 2, 2]
    own = by_group(run, [5, 5, 5, 1, 1, 1], quantiles=2)
    np.testing.assert_allclose(own["accuracy"], [2.6 / 3, 0.3], rtol=1e-12)


def test_clients_that_were_not_judged_or_of_whom_nothing_is_known_are_left_out(tmp_path, monkeypatch):
    run = judged(tmp_path / "run", {0: 0.2, 4: float("nan"), 5: 0.6}, monkeypatch)
    found = by_group(run, "data_size", quantiles=3)
    assert found["clients"].tolist() == [1, 1, 1]
    np.testing.assert_allclose(found["accuracy_gap"], [-0.2, np.nan, 0.2], rtol=1e-12)


def test_what_cannot_be_grouped_is_said(tmp_path, monkeypatch):
    run = judged(tmp_path / "run", VALUES, monkeypatch)
    with pytest.raises(RunFolderError, match="no property 'sped'; did you mean 'speed'"):
        by_group(run, "sped")
    with pytest.raises(RunFolderError, match="no evaluation of version 7; expected one of 3"):
        by_group(run, "speed", version=7)
    with pytest.raises(PolicyError, match="a number for each client"):
        by_group(run, [1, 2])
    with pytest.raises(PolicyError, match="quantiles must be >= 1"):
        by_group(run, "speed", quantiles=0)


def test_a_run_without_such_evaluations_says_how_to_get_them(tiny):
    with pytest.raises(RunFolderError, match=r"set evaluation\.per_client = true"):
        by_group(tiny, "speed")


OVERRIDES = ["population.clients=40", "stop={server_steps=4}", "evaluation.per_client=true", "evaluation.every=2"]
SMALL = ["aggregation={cohort_goal=5,minimum_cohort=4,minimum_reports=2}", "executor.kind='serial'"]


@pytest.mark.parametrize("held", [None, 0.3])
def test_a_run_tells_of_each_client_what_its_mean_is_made_of(tmp_path, held):
    share = [] if held is None else [f"data.client_test_fraction={held}"]
    scenario = Scenario.load("quickstart", [*OVERRIDES, *SMALL, *share, "objective.metrics=['accuracy','macro_f1']"])
    run = load_run(Simulation(scenario, device="cpu").run(tmp_path / "run"))
    rows = run.client_evaluations
    assert run.manifest["client_evaluations"] == {"clients": 40, "split": "train" if held is None else "held_out"}
    assert rows["version"].unique().tolist() == [0, 2, 4]
    assert set(rows["metric"]) == {"loss", "accuracy", "macro_f1"}
    assert len(rows) == 3 * 40 * 3
    assert (rows["samples"] == 20).all() if held is None else rows["samples"].between(1, 19).all()
    spread = run.evaluations[run.evaluations["split"] == "clients"]
    for (version, metric), own in rows.groupby(["version", "metric"], observed=True)["value"]:
        told = spread[(spread["version"] == version) & (spread["metric"] == f"{metric}_mean")]["value"]
        assert told.iloc[0] == pytest.approx(own.mean(), rel=1e-12)
    tenths = by_group(run, "speed")
    assert tenths["clients"].sum() == 40
    weighted = np.average(tenths["accuracy"], weights=tenths["clients"])
    assert weighted == pytest.approx(rows[(rows["version"] == 4) & (rows["metric"] == "accuracy")]["value"].mean())


def test_some_clients_are_drawn_once_and_judged_as_all_of_them_are(tmp_path):
    found = {}
    for name, some in (
        ("all", []),
        ("some", ["evaluation.client_sample=7"]),
        ("other", ["evaluation.client_sample=7", "seed=1"]),
    ):
        scenario = Scenario.load("quickstart", [*OVERRIDES, *SMALL, *some, "precision='float64'"])
        found[name] = load_run(Simulation(scenario, device="cpu").run(tmp_path / name))
    rows = found["some"].client_evaluations
    clients = set(rows["client"])
    assert len(clients) == 7
    assert clients != set(found["other"].client_evaluations["client"])
    assert (rows.groupby("version")["client"].nunique() == 7).all()
    same = found["all"].client_evaluations
    same = same[same["client"].isin(clients)].reset_index(drop=True)
    pd.testing.assert_frame_equal(rows, same, check_categorical=False, rtol=1e-12)
    assert found["some"].manifest["timeline_hash"] == found["all"].manifest["timeline_hash"]


def test_groups_of_arms_are_drawn_as_their_mean_over_runs(tmp_path, monkeypatch):
    runs = [judged(tmp_path / name, VALUES, monkeypatch) for name in ("a", "b")]
    arms = Arms(name="x", runs={"both": runs}, goal=Target.of("accuracy", 0.8), baseline="both")
    (line,) = groups_figure(arms, "data_size").axes[0].get_lines()
    np.testing.assert_allclose(line.get_ydata(), by_group(runs[0], "data_size")["accuracy"])
    with pytest.raises(RunFolderError, match="no f1 of clients; expected one of accuracy"):
        groups_figure(replace(arms, goal=Target(metric="f1", at_least=0.5)))
