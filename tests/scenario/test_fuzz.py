"""Whatever a file says, loading gives a scenario that survives being written, or a ScenarioError; nothing else."""

from __future__ import annotations

import copy
import tomllib

from hypothesis import given, settings
from hypothesis import strategies as st

from evsim.base.bundled import bundled_scenario
from evsim.base.errors import ScenarioError
from evsim.scenario import Scenario

TABLES = tomllib.loads(bundled_scenario("quickstart").read_text(encoding="utf-8"))

words = st.sampled_from(
    ["sgd", "digits", "modulo", "phones", "always", "5min", "18:00", "none", "rank", "a:b", "", "x.py:y"]
)
scalars = words | st.integers(-3, 10**6) | st.floats() | st.booleans() | st.text(max_size=5) | st.dates() | st.times()
keys = st.sampled_from(["kind", "alpha", "with", "correlation", "path", "devices", "target", "options", "steps", "x"])
values = st.recursive(
    scalars, lambda each: st.lists(each, max_size=3) | st.dictionaries(keys, each, max_size=3), max_leaves=5
)


def _paths(tables: dict, prefix: tuple = ()) -> list[tuple]:
    found = []
    for key, value in tables.items():
        found.append((*prefix, key))
        if isinstance(value, dict):
            found += _paths(value, (*prefix, key))
    return found


places = st.sampled_from(_paths(TABLES))
slots = ["upload", "broadcast", "merge", "weighting", "executor", "record", "algorithm", "name", "unheard_of", "start"]
extra = st.sampled_from([(name,) for name in slots])


@settings(derandomize=True, max_examples=300, deadline=None)
@given(st.lists(st.tuples(places | extra, values), min_size=1, max_size=3))
def test_loading_succeeds_or_says_what_is_wrong(changes):
    tables = copy.deepcopy(TABLES)
    for path, value in changes:
        table = tables
        for key in path[:-1]:
            table = table[key] if isinstance(table.get(key), dict) else table.setdefault(key + "_", {})
        table[path[-1]] = value
    try:
        scenario = Scenario.from_dict(tables)
    except ScenarioError:
        return
    assert Scenario.from_dict(tomllib.loads(scenario.to_toml())) == scenario
