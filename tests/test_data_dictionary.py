"""The data dictionary and the code name the same tables, columns and outcomes."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from evsim.aggregation.buffered import Buffered
from evsim.aggregation.synchronous import Synchronous
from evsim.base.vocabulary import Outcome
from evsim.run.schema import TABLES, columns
from evsim.testing.timeline import Log, TinyWorld
from evsim.timeline.world import Feedback, NoLearning
from evsim.traces.availability import AvailabilityTrace
from evsim.traces.speed import DeviceSpeed

PAGE = Path(__file__).parents[1] / "docs" / "data_dictionary.md"


def _sections() -> dict[str, str]:
    parts = re.split(r"^## (.+)$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def _rows_below(header: str, text: str) -> list[list[str]]:
    """The cells of the Markdown table whose first header cell is given."""
    lines = text.splitlines()
    begin = next(i for i, line in enumerate(lines) if line.startswith(f"| {header} |")) + 2
    rows = []
    for line in lines[begin:]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def test_dictionary_has_the_tables_of_the_code_in_their_order():
    assert [name for name in _sections() if name in TABLES] == list(TABLES)
    assert set(_sections()) - set(TABLES) == {"The other files"}


@pytest.mark.parametrize("table", TABLES)
def test_dictionary_has_the_columns_of_the_code_in_their_order(table):
    named = [row[0].strip("`") for row in _rows_below("column", _sections()[table])]
    assert tuple(named) == columns(table)


def test_dictionary_explains_every_outcome():
    rows = _rows_below("outcome", _sections()["tasks"])
    assert [row[0].strip("`") for row in rows] == [outcome.label for outcome in Outcome]
    assert all(row[1] for row in rows)


# -- what tiny worlds say, against the words of the page ---------------------------------------------------------------


class NothingFinite:
    """A learning side of which no update is finite."""

    def __getattr__(self, name: str):
        return getattr(NoLearning(), name)

    def apply(self, tasks, **step):
        return Feedback(tasks, np.full(len(tasks), np.nan), np.zeros(len(tasks), np.bool_))


def _run(policy, *, leaves_at: int = 1000, until: int = 1500, **world) -> Log:
    """Six clients whose tasks last 32, 62, ... 182 ms; client 0 leaves, and is back when a second is over."""
    trace = AvailabilityTrace.from_intervals(range(6), [0] * 6, [leaves_at, *[1000] * 5], n_devices=6, period=1000)
    speed = DeviceSpeed(
        compute_ms_per_sample=np.arange(1.0, 7.0), download_kbps=np.full(6, 8000.0), upload_kbps=np.full(6, 8000.0)
    )
    return TinyWorld(trace=trace, speed=speed, **world).run(policy, until=until)


WORLDS = {
    "goal": lambda: _run(Synchronous(cohort_goal=2, over_commitment=3)),
    "deadline": lambda: _run(Synchronous(cohort_goal=6, reporting_deadline=100)),
    "exhausted": lambda: _run(Synchronous(cohort_goal=6, minimum_cohort=5), leaves_at=20),
    "buffer": lambda: _run(Buffered(concurrency=6, buffer_size=2, max_staleness=1)),
    "period": lambda: _run(Buffered(concurrency=6, buffer_size=100, period=100)),
    "invalid": lambda: _run(Buffered(concurrency=6, buffer_size=2), learning=NothingFinite()),
}


def _quoted(table: str, column: str) -> list[str]:
    meaning = next(row[-1] for row in _rows_below("column", _sections()[table]) if row[0] == f"`{column}`")
    return re.findall(r"`(\w+)`", meaning)


def test_dictionary_names_the_reasons_for_which_a_step_closes():
    assert sorted(_quoted("server_steps", "reason")) == sorted(WORLDS)


@pytest.mark.parametrize("reason", WORLDS)
def test_a_step_closes_for_each_reason_of_the_dictionary(reason):
    assert reason in set(WORLDS[reason]().server_steps["reason"])


def test_staleness_stands_where_the_dictionary_says():
    tasks = pd.concat([make().tasks for make in WORLDS.values()])
    carry = set(_quoted("tasks", "staleness")) - {"version"}
    assert set(tasks.loc[tasks["staleness"] >= 0, "outcome"]) == carry
    assert set(tasks.loc[tasks["staleness"] < 0, "outcome"]).isdisjoint(carry)


def test_reports_of_a_buffer_less_its_late_ones_are_what_it_merged():
    log = _run(Buffered(concurrency=6, buffer_size=2, max_staleness=1), until=400)
    ends = log.tasks.loc[log.tasks["known_at"] >= 0, "known_at"]
    assert ends.is_unique  # no two reports of one instant, which may go into two buffers
    merged = log.tasks[log.tasks["outcome"] == "aggregated"].groupby("server_step").size()
    steps = log.server_steps.set_index("version")
    assert (steps["late"] > 0).any()
    assert (steps["reports"] - steps["late"]).tolist() == merged.tolist()
