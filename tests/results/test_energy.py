"""Joules and carbon of a run with batteries, and its picture."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest

from evsim import load_run
from evsim.base.errors import EvsimError
from evsim.results.energy import carbon, run_joules, task_joules
from evsim.results.run_figure import run_figure
from tests.verify import worlds as small


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    acts = [{"kind": "battery", "first": 0.3}, {"kind": "outage", "at": "2h", "lasts": "20min"}]
    change = {"aggregation": small.aggregations()["buffers, timeout"], "actor": acts}
    change |= {"network": {"kind": "shared", "up_kbps": 9_000}}
    return load_run(small.run(tmp_path_factory.mktemp("energy") / "run", change))


def test_joules_are_phases_times_watts_and_what_batteries_gave(run):
    joules = task_joules(run)
    task = run.tasks.iloc[3]
    assert joules.iloc[3] == pytest.approx(
        (task["compute_ms"] * 4.0 + (task["download_ms"] + task["upload_ms"]) * 1.5) / 1000
    )
    told = run_joules(run)
    assert told["tasks_j"] == pytest.approx(run.energy["tasks_j"].sum())
    assert 0 < told["wasted_j"] < told["tasks_j"]


def test_carbon_of_a_flat_table_is_its_energy_and_of_hours_a_quadrature(run):
    assert carbon(run, [500.0] * 24) == pytest.approx(task_joules(run).sum() / 3.6e6 * 500)
    table = np.arange(24.0) * 10
    expected = 0.0
    for row in run.tasks.itertuples():
        begin = row.dispatched_at + run.start_ms
        for lasts, watts in ((row.download_ms, 1.5), (row.compute_ms, 4.0), (row.upload_ms, 1.5)):
            instants = begin + (np.arange(2_000) + 0.5) * lasts / 2_000
            hours = (instants // 3_600_000 % 24).astype(int)
            expected += table[hours].mean() * lasts / 1000 * watts / 3.6e6
            begin += lasts
    assert carbon(run, table) == pytest.approx(expected, rel=1e-3)
    with pytest.raises(EvsimError, match="24 numbers"):
        carbon(run, [1.0])


def test_a_run_without_a_battery_has_no_joules(tmp_path):
    plain = load_run(small.run(tmp_path / "run", {"aggregation": small.aggregations()["buffers, plain"]}))
    with pytest.raises(EvsimError, match="no battery among its actors"):
        task_joules(plain)


def test_the_picture_shows_outages_the_link_and_energy(run):
    figure = run_figure(run)
    labels = [axes.get_ylabel() for axes in figure.axes]
    assert labels[-2:] == ["server link\nMbit/s", "energy, kJ"]
    bands = [patch for axes in figure.axes for patch in axes.patches if patch.get_gid() == "outage"]
    assert len(bands) == len(figure.axes)
    plt.close(figure)
