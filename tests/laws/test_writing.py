"""Rows may leave memory at any server step: nobody misses them, and the log is the same."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evsim.aggregation.base import Aggregator
from evsim.selection.base import Selector
from evsim.testing.timeline import TinyWorld
from evsim.timeline.ledger import Ledger
from tests.laws.test_events import AGGREGATORS, SELECTORS, same
from tests.laws.test_processes import POLICIES, Tiers, some_world
from tests.laws.test_timeline import HORIZON, worlds


@pytest.fixture(scope="module", autouse=True)
def rows_that_left_are_not_asked_for() -> Iterator[None]:
    """A row that left memory would be read as another task's, and nobody would notice."""
    column, cell, change = Ledger.column, Ledger.cell, Ledger.set

    def held(self: Ledger, ids: Any) -> None:
        assert np.min(ids, initial=self.first) >= self.first, "the row of a task was asked for after it was written"

    def guarded(method: Any) -> Any:
        def call(self: Ledger, name: str, ids: Any, *rest: Any) -> Any:
            held(self, ids)
            return method(self, name, ids, *rest)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for name, method in (("column", column), ("cell", cell), ("set", change)):
            patch.setattr(Ledger, name, guarded(method))
        yield


@settings(max_examples=15, deadline=None, derandomize=True)
@given(worlds(), AGGREGATORS, st.sampled_from(SELECTORS), st.booleans())
def test_writing_at_every_step_changes_nothing(
    world: TinyWorld, policy: Aggregator, selector: Selector[Any], by_events: bool
) -> None:
    plain = replace(world, selector=selector, by_events=by_events)
    same(plain.run(policy, until=HORIZON), replace(plain, writes_at_once=True).run(policy, until=HORIZON))


@pytest.mark.parametrize("second", POLICIES)
@pytest.mark.parametrize("first", POLICIES)
def test_nor_beside_another_process(first: Aggregator, second: Aggregator) -> None:
    world = some_world(12, 5)
    tiers = Tiers((("a", first, tuple(range(1, 12, 2))), ("b", second, tuple(range(0, 12, 2)))))
    same(world.run(tiers, until=200_000), replace(world, writes_at_once=True).run(tiers, until=200_000))
