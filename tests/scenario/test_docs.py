"""Every TOML block of the page on asynchronous methods is a whole file that runs, and nothing in it needs a caveat."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from evsim import Scenario, Simulation, load_run
from evsim.aggregation.buffered import Buffered
from evsim.aggregation.synchronous import Synchronous
from evsim.algorithms.mean import Mean
from evsim.scenario.caveats import caveats

PAGE = Path(__file__).parents[2] / "docs" / "asynchronous.md"
FILES = re.findall(r"```toml\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
SHORT = ["stop.server_steps=2", "executor.kind=serial"]


@pytest.fixture(params=FILES, ids=range(len(FILES)))
def file(request, tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(request.param, encoding="utf-8")
    return path


def test_a_block_is_a_whole_file_without_caveats(file):
    assert caveats(Scenario.load(file)) == []


def test_a_block_runs_as_it_stands_and_in_a_folder_of_its_own(file, tmp_path):
    scenario = Scenario.load(file, SHORT)
    run = load_run(Simulation(scenario, device="cpu").run(tmp_path / "run"))
    assert run.server_steps["applied"].sum() == 2
    assert Scenario.load(tmp_path / "run") == scenario


def test_the_page_shows_what_it_speaks_of(tmp_path):
    found = []
    for text in FILES:
        (tmp_path / "mine.toml").write_text(text, encoding="utf-8")
        found.append(Scenario.load(tmp_path / "mine.toml"))
    buffers = [each for each in found if isinstance(each.aggregation, Buffered)]
    rounds = [each.aggregation for each in found if isinstance(each.aggregation, Synchronous)]
    assert [each.algorithm for each in buffers] == ["fedbuff", "fedasync", "fedbuff"]
    assert [each.aggregation.period is None for each in buffers] == [True, True, False]
    assert isinstance(buffers[-1].merge, Mean)
    assert [each.late_reports for each in rounds] == ["keep", "keep", "discard"]
    assert rounds[-1].reporting_deadline is None
    assert rounds[-1].pacing is not None
