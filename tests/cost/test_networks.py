"""Networks: exact integrals against quadrature, series from files, bad rates, runs whose links move."""

from __future__ import annotations

import csv
import tarfile
from pathlib import Path

import numpy as np
import pytest

from evsim import Scenario, Simulation, load_run
from evsim.base.errors import EvsimError, PolicyError, TraceError
from evsim.base.rng import stream
from evsim.base.units import MS_PER_DAY, MS_PER_HOUR
from evsim.cost.network import IndependentLinks, Site
from evsim.cost.networks.hourly import Hourly
from evsim.cost.networks.traced import Traced
from evsim.cost.rate_formats import lumos
from evsim.cost.series import Series
from evsim.testing.networks import NetworkContract, phones
from evsim.verify import verify
from tests.verify import worlds

DAY = tuple(1.0 + 0.9 * np.sin(np.arange(24)))
ROWS = {"night": [(0, 900), (40, 0), (70, 2500)], "day": [(5, 100), (65, 4000), (66, 10)]}


@pytest.fixture(scope="module")
def series_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("series") / "rates.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["series", "time", "kbps"])
        writer.writerows((name, *row) for name, rows in ROWS.items() for row in rows)
    return path


class TestIndependent(NetworkContract):
    def make(self):
        return IndependentLinks()


class TestHourly(NetworkContract):
    def make(self):
        return Hourly(factors=DAY, zones=(0.0, -5.0, 3.5))


class TestWeekly(NetworkContract):
    def make(self):
        return Hourly(factors=tuple(0.5 + np.arange(7)), period=7 * MS_PER_DAY)


class TestTraced(NetworkContract):
    @pytest.fixture(autouse=True)
    def _file(self, series_file):
        self.path = series_file

    def make(self):
        return Traced(path=self.path.name, format="csv")

    def folder(self):
        return self.path.parent


# -- integrals -------------------------------------------------------------------------------------------------------


def _quadrature(at, rate, period, begin, end, points=400_000):
    instants = begin + (np.arange(points) + 0.5) * (end - begin) / points
    return np.asarray(rate)[np.searchsorted(at, instants % period, side="right") - 1].sum() * (end - begin) / points


@pytest.mark.parametrize("seed", range(6))
def test_integrals_are_those_of_quadrature(seed):
    draw = stream(seed, "series")
    made = []
    for _ in range(3):
        knots = np.concatenate([[0.0], np.sort(draw.uniform(1, 900, draw.integers(0, 8)))])
        rate = np.where(draw.uniform(size=len(knots)) < 0.2, 0.0, draw.uniform(0.1, 9, len(knots)))
        rate[0] = 1.5
        made.append((knots, rate, 1_000.0))
    series = Series.of(made)
    for of, (knots, rate, period) in enumerate(made):
        begin, took = draw.uniform(0, 5_000), draw.uniform(1, 4_000)
        amount = series.amount([of], [begin], [took])[0]
        assert amount == pytest.approx(_quadrature(knots, rate, period, begin, begin + took), rel=1e-3)
        back = series.duration([of], [begin], [amount])[0]
        assert back <= took + 1e-6  # earlier only where nothing moved at the end
        assert series.amount([of], [begin], [back])[0] == pytest.approx(amount, rel=1e-12)


def test_a_transfer_over_two_hours_by_hand():
    hours = Hourly(factors=(1.0, 0.5, *(2.0,) * 22))
    begin = np.array([MS_PER_HOUR - 10_000, 2 * MS_PER_HOUR - 4_000, 24 * MS_PER_HOUR - 1_000])
    took = hours.lasts_ms("download", np.zeros(3, np.int64), begin, np.array([15_000.0, 10_000.0, 3_000.0]))
    assert took.tolist() == pytest.approx([10_000 + 10_000, 4_000 + 4_000, 1_000 + 1_000])


def test_zones_move_the_clocks_of_clients():
    hours = Hourly(factors=(4.0, *(1.0,) * 23), zones=(0.0, -1.0))
    took = hours.lasts_ms("upload", np.array([0, 1, 2]), np.full(3, MS_PER_HOUR), np.full(3, 8.0))
    assert took.tolist() == [8.0, 2.0, 8.0]


# -- files -----------------------------------------------------------------------------------------------------------


def test_a_series_from_a_file_by_hand(tmp_path):
    (tmp_path / "one.csv").write_text("time,kbps\n0,1000\n10,0\n20,2000\n")
    speed = phones()
    network = Traced(path=".", shift=False).open(Site(speed, 0, tmp_path))
    alone = np.array([30_000_000.0]) / speed.download_kbps[:1]  # 30 Mbit: 10 s, 10 s of nothing, 10 s
    assert network.lasts_ms("download", np.zeros(1, int), np.zeros(1, int), alone) == pytest.approx(30_000)
    assert network.lasts_ms("download", np.zeros(1, int), np.array([30_000]), alone) == pytest.approx(30_000)


def test_clients_of_one_file_do_not_move_in_step(series_file):
    network = Traced(path=str(series_file)).open(Site(phones(), 0, Path()))
    clients = np.arange(40)
    took = network.lasts_ms("download", clients, np.zeros(40, int), 1e8 / phones().download_kbps)
    assert len(np.unique(np.round(took))) > 10


def test_sessions_of_lumos_as_archive_folder_and_file(tmp_path):
    head = "downstream_bandwidth,connection_type,app_throughput,delivery_time\n"
    (tmp_path / "sessions").mkdir()
    (tmp_path / "sessions" / "a.csv").write_text(head + "50M,4g,401,0.072\n50M,4g,7024,0\n50M,4g,4058,0.148\n")
    (tmp_path / "sessions" / "b.csv").write_text(head + "5M,wifi,900,1.5\n")
    with tarfile.open(tmp_path / "lumos.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "sessions", "sessions")
    for path in (tmp_path / "lumos.tar.gz", tmp_path / "sessions"):
        assert lumos.sniff(path)
        (_, at, kbps, end), (_, _, other, length) = lumos.read(path)
        assert (at.tolist(), kbps.tolist(), end) == ([0.0, 72.0], [401.0, 4058.0], pytest.approx(220.0))
        assert (other.tolist(), length) == ([900.0], 1500.0)
    assert [kbps.tolist() for _, _, kbps, _ in lumos.read(tmp_path / "sessions" / "b.csv")] == [[900.0]]
    assert not lumos.sniff(tmp_path / "no_such")


# -- bad rates -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"kind": "hourly", "factors": [1.0] * 23 + [0.0]}, "factors must be finite and > 0; a link that carries noth"),
        ({"kind": "hourly", "factors": [-1.0]}, "factors must be finite and > 0"),
        ({"kind": "hourly", "factors": []}, "factors must hold at least one number"),
        ({"kind": "hourly", "factors": [1.0], "zones": []}, "zones must hold at least one number"),
        ({"kind": "trace", "path": "x", "repeat": False}, "cannot be shifted: set shift = false"),
        ({"kind": "independent", "latency": "-1s"}, "network.latency"),
        ({"kind": "hourly"}, "network.factors: missing"),
        ({"kind": "shard"}, "network.kind: unknown kind 'shard'"),
    ],
    ids=str,
)
def test_a_network_that_cannot_be_is_told_in_a_sentence(table, message):
    with pytest.raises(EvsimError) as caught:
        Scenario.from_dict({**worlds.BASE, "aggregation": {"kind": "synchronous", "cohort_goal": 3}, "network": table})
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("time,kbps\n0,5\n1,-3\n", "row 1: rate -3; expected a finite number >= 0"),
        ("time,kbps\n0,0\n1,0\n", "every rate is 0: nothing would ever arrive"),
        ("time,kbps\n0,5\n0,6\n", "instants do not ascend"),
        ("time,kbps\n0,fast\n", "line 2: time '0', kbps 'fast'; expected two numbers"),
        ("time,kbps\n", "no rows"),
        ("time,rate\n0,1\n", "no series of rates of a known format"),
    ],
    ids=str,
)
def test_a_file_of_bad_rates_is_told_in_a_sentence(tmp_path, text, message):
    (tmp_path / "rates.csv").write_text(text)
    with pytest.raises(TraceError) as caught:
        Traced(path="rates.csv").open(Site(phones(), 0, tmp_path))
    assert message in str(caught.value)


def test_a_series_that_ends_is_told_when_a_transfer_needs_more(tmp_path):
    (tmp_path / "rates.csv").write_text("time,kbps\n0,1000\n3600,1000\n")
    network = Traced(path="rates.csv", repeat=False, shift=False).open(Site(phones(), 0, tmp_path))
    with pytest.raises(TraceError, match=r"the series of client 3 ends after 2h, in the middle of a transfer"):
        network.lasts_ms("upload", np.array([3]), np.array([2 * MS_PER_HOUR - 5]), np.array([1e6]))


def test_a_file_that_is_not_there_is_told():
    with pytest.raises(TraceError, match=r"network\.path: 'nowhere\.csv': no such file or folder"):
        Traced(path="nowhere.csv").open(Site(phones(), 0, Path()))
    with pytest.raises(PolicyError, match="latency"):
        IndependentLinks(latency=-1)


# -- runs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["rounds, abort", "buffers, timeout"])
def test_hours_without_a_difference_are_independent_links(tmp_path, how):
    plain = load_run(worlds.run(tmp_path / "plain", _dry(how)))
    hourly = load_run(
        worlds.run(tmp_path / "hourly", _dry(how), {"network": {"kind": "hourly", "factors": [1.0] * 24}})
    )
    assert plain.manifest["timeline_hash"] == hourly.manifest["timeline_hash"]


def _dry(how: str) -> dict:
    return {"aggregation": worlds.aggregations()[how]}


@pytest.mark.parametrize("how", ["rounds, deadline", "rounds, abort", "buffers, timeout"])
def test_a_run_whose_links_have_hours_is_recomputed(tmp_path, how):
    network = {"kind": "hourly", "factors": [0.2, 1.0, 3.0], "period": "10min", "zones": [0, 0.07], "latency": "30ms"}
    run = worlds.run(tmp_path / "run", _dry(how), {"network": network, "cost": {"model_bytes": 20_000_000}})
    verdict = verify(run)
    assert verdict.ok, [check.violation for check in verdict.checks if not check.ok]
    checked = {check.name for check in verdict.checks if not check.skipped}
    assert {"download prices", "upload prices", "bytes down", "bytes up"} <= checked
    tasks = load_run(run).tasks
    assert (tasks["bytes_down"] < tasks["bytes_down"].max()).any()  # some were cut


def test_a_run_on_measured_links_says_what_is_not_recomputed(tmp_path, series_file):
    network = {"kind": "trace", "path": str(series_file)}
    verdict = verify(worlds.run(tmp_path / "run", _dry("rounds, abort"), {"network": network}))
    assert verdict.ok
    assert {check.name for check in verdict.checks if "'trace'" in check.skipped} == {
        "download prices",
        "upload prices",
    }


def test_latency_of_the_network_is_that_of_every_client(tmp_path):
    scenario = Scenario.load("replay", ["stop.rounds=2", "network.latency=70ms"])
    plain = load_run(Simulation(Scenario.load("replay", ["stop.rounds=2"])).run(tmp_path / "plain"))
    late = load_run(Simulation(scenario).run(tmp_path / "late"))
    assert (late.clients["latency_ms"] - plain.clients["latency_ms"] == 70).all()
